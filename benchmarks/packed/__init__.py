"""Benchmark of the packed engine beside TRL: `python -m benchmarks.packed`."""
