"""Data that is drawn here: pages and scenes."""
