"""How sure an exit is, and who leaves."""
