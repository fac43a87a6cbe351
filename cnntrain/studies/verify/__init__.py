"""Five lectures on convolutional networks as an executable specification: each statement computed, with a verdict."""
