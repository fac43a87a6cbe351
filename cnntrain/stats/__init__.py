"""Numbers alone: intervals, paired tests, the jackknife, metrics."""
