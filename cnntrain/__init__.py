"""Train, evaluate and explain convolutional networks from the command line."""

__version__ = "0.1.0"
