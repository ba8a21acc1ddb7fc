"""Measuring: subjects interleaved in one run, on the same inputs."""
