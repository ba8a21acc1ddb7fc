"""Thresholds with a bound, and what they are chosen from."""
