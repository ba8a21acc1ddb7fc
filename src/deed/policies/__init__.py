"""Confidence measures and exit policies: which rows leave at an exit."""
