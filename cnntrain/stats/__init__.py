"""Numbers alone: intervals, paired tests, the bootstrap, metrics."""
