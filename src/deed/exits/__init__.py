"""What makes a layer an exit: adaptation modules, heads, learned exits."""
