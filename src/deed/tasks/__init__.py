"""Tasks: one file per dataset format, and the metrics they are scored with."""
