"""Files, pictures, clocks: what any room may use."""
