"""Recorded speech: prompts of telephone systems from Debian's packages, single or joined, and more of it to train on."""
