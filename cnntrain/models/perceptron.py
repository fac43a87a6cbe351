"""Networks without convolution: the linear classifier and the multi-layer perceptron."""

from collections.abc import Sequence

from torch import nn

from cnntrain.nn.blocks import dense, linear
from cnntrain.nn.layers import Activation
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, assemble


def softmax(in_shape: Shape, num_classes: int, build: BuildOptions) -> nn.Sequential:
    """One linear layer: a template of the image's size for each class."""
    return assemble({"fc1": linear(num_classes)}, in_shape, out_shape=(num_classes,), build=build)


def mlp(
    in_shape: Shape,
    num_classes: int,
    build: BuildOptions,
    *,
    hidden: Sequence[int] = (300, 100),
    activation: Activation = "relu",
) -> nn.Sequential:
    """Fully connected layers; 300 and 100 hidden units are those of LeCun et al. 1998, section III.C."""
    makers = {f"fc{i}": dense(width, activation=activation) for i, width in enumerate(hidden, 1)}
    makers[f"fc{len(hidden) + 1}"] = linear(num_classes)
    return assemble(makers, in_shape, out_shape=(num_classes,), build=build)
