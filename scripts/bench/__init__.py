"""Benchmarks beside peers: `python -m scripts.bench --help`; what they measure and how: docs/benchmarks.md."""
