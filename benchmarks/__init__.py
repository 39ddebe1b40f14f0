"""Side-by-side measurements, one command each: ``python -m benchmarks.NAME [--quick]``."""
