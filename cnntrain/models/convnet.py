"""A plain convolutional network whose layers are options: the lectures' filter, normalisation, activation and pooling,
repeated. For studies that change one kind of layer and keep the rest.
"""

from collections.abc import Sequence
from typing import Literal

from torch import nn

from cnntrain.nn.blocks import (
    conv,
    dense,
    fractional_pool,
    global_average,
    linear,
    local_contrast,
    lrn,
    pooling,
    stochastic_pool,
    unpooled,
)
from cnntrain.nn.convolutions import depthwise_separable, maxout_conv, spatially_separable, transposed_conv
from cnntrain.nn.initialisers import he_normal_inputs
from cnntrain.nn.layers import Activation
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, Maker, StageError, assemble
from cnntrain.runtime.ranges import Count, Fraction, Natural

Convolution = Literal["plain", "depthwise_separable", "spatially_separable", "maxout", "rotated_maxout", "transposed"]
Normalisation = Literal["none", "batch", "batch_last", "local_response", "local_contrast"]
Pooling = Literal["max", "avg", "overlapping", "stochastic", "fractional", "unpooled", "stride", "none"]


def convnet(
    in_shape: Shape,
    num_classes: int,
    build: BuildOptions,
    *,
    widths: Sequence[Count] = (32, 64),
    kernel: Count = 3,
    convolution: Convolution = "plain",
    groups: Count = 1,
    dilation: Count = 1,
    norm: Normalisation = "none",
    activation: Activation = "relu",
    pool: Pooling = "max",
    hidden: Natural = 128,
    dropout: Fraction = 0.0,
    he: bool = False,
) -> nn.Sequential:
    """A convolution and a pooling for each of `widths`, then a fully connected layer, or with `hidden=0` an average.

    Batch norm stands before the activation (`batch`) or after it (`batch_last`). `pool=stride` lets the convolution
    take every second position in place of a pooling, `none` leaves the size, `unpooled` too: the maxima stay where they
    were, zero elsewhere. From the second convolution on, `groups` divide the channels. With `he` initial weights are
    those of He et al. 2015, with which a deep network of ReLU keeps the size of its gradients; else torch's own.
    """
    if kernel % 2 == 0:
        raise StageError(f"model.kernel={kernel}: an even window has no centre; take {kernel - 1} or {kernel + 1}")
    if convolution != "plain" and (groups > 1 or dilation > 1 or norm.startswith("batch") or pool == "stride"):
        raise StageError(f"model.convolution={convolution} has no groups, dilation, batch norm or stride to set")
    makers: dict[str, Maker] = {}
    for number, width in enumerate(widths, 1):
        makers[f"conv{number}"] = {
            "plain": conv(
                width,
                kernel,
                stride=2 if pool == "stride" else 1,
                padding=dilation * (kernel // 2),
                dilation=dilation,
                groups=groups if number > 1 else 1,
                norm=norm.startswith("batch"),
                norm_last=norm == "batch_last",
                activation=activation,
            ),
            "depthwise_separable": depthwise_separable(width, kernel),
            "spatially_separable": spatially_separable(width, kernel, activation=activation),
            "maxout": maxout_conv(width, kernel, padding=kernel // 2),
            "rotated_maxout": maxout_conv(width, kernel, padding=kernel // 2, rotated=True),
            "transposed": transposed_conv(width, kernel, padding=kernel // 2, activation=activation),
        }[convolution]
        if norm in ("local_response", "local_contrast"):
            makers[f"norm{number}"] = lrn() if norm == "local_response" else local_contrast()
        if pool not in ("stride", "none"):
            makers[f"pool{number}"] = POOLINGS[pool]
    last = len(widths) + 1
    if hidden:
        makers |= {f"fc{last}": dense(hidden, activation=activation, dropout=dropout)}
        makers |= {f"fc{last + 1}": linear(num_classes)}
    else:
        makers |= {"average": global_average(), f"fc{last}": linear(num_classes)}
    init = he_normal_inputs if he else None
    return assemble(makers, in_shape, out_shape=(num_classes,), init=init, build=build)


POOLINGS: dict[str, Maker] = {
    "max": pooling("max", 2),
    "avg": pooling("avg", 2),
    "overlapping": pooling("max", 3, 2),
    "stochastic": stochastic_pool(2),
    "fractional": fractional_pool(),
    "unpooled": unpooled(2, lambda shape: nn.Identity()),
}
