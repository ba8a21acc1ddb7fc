"""Scores of answers, captions and boxes."""
