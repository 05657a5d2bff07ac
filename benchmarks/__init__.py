"""What we claim about speed, measured; `python -m benchmarks.training` prints its tables."""
