"""Decoding: the staircase, its cache, one step, the loop around it."""
