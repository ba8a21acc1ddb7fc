"""Serving: a scheduler whose running batch requests join and leave, models side by side, and what speaks to the network.

Importing this room imports no PyTorch; its modules do.
"""
