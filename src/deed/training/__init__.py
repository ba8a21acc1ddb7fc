"""Trainer with deep supervision, callbacks, run folders."""
