"""The endpoints, one file for each kind of client. Each has a `router`."""
