"""One file per format of a data set."""
