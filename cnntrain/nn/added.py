"""Stages that a configuration adds to a network with `model.append`."""

from collections.abc import Callable, Mapping
from typing import Literal

from cnntrain.nn.blocks import conv, dense, dropout, global_average, pooling
from cnntrain.nn.layers import Activation
from cnntrain.nn.stages import Maker
from cnntrain.runtime.ranges import Count, Decay


def added_conv(
    *, out: Count = 64, kernel: Count = 3, stride: Count = 1, norm: bool = True, activation: Activation = "relu"
) -> Maker:
    """A convolution with batch norm and an activation; an odd kernel at stride 1 keeps the size of the maps."""
    return conv(out, kernel, stride=stride, padding=kernel // 2, norm=norm, activation=activation)


def added_linear(*, out: Count = 64, activation: Activation = "relu") -> Maker:
    """A fully connected stage with an activation."""
    return dense(out, activation=activation)


def added_dropout(*, share: Decay = 0.5) -> Maker:
    """Dropout of a share of the numbers."""
    return dropout(share)


def added_pool(*, kind: Literal["max", "avg"] = "max", kernel: Count = 2) -> Maker:
    """Pooling over windows side by side."""
    return pooling(kind, kernel)


ADDABLE: Mapping[str, Callable[..., Maker]] = {
    "conv": added_conv,
    "linear": added_linear,
    "dropout": added_dropout,
    "pool": added_pool,
    "average": global_average,
}
