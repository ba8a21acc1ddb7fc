"""What `deed train` runs: one file per kind of task, each a recipe (a dataclass) and the run that follows it."""
