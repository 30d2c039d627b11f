"""What the benchmarks measure, and how a result is kept."""
