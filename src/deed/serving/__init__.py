"""Serving: many requests at once, watched for drift, on one machine or on many."""
