"""Wide residual networks: Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, table 1.

Deviation: none in the layers; projections are 1×1 convolutions without batch norm, as in the authors' code.
"""

from typing import Unpack

from torch import nn

from cnntrain.bounds import Fraction
from cnntrain.models.blocks import conv, global_average, he_normal, linear
from cnntrain.models.residual import norm_act, preact_basic_block
from cnntrain.models.stages import Build, Maker, Shape, assemble


def wide_resnet(
    depth: int, factor: int, in_shape: Shape, num_classes: int, *, dropout: Fraction = 0.0, **build: Unpack[Build]
) -> nn.Sequential:
    """6n + 4 layers: n pre-activation blocks each of 16, 32 and 64 channels times `factor`, dropout inside them."""
    makers: dict[str, Maker] = {"conv1": conv(16, 3, padding=1, bias=False, activation="none")}
    for group, width in enumerate((16, 32, 64), 1):
        for number in range(1, (depth - 4) // 6 + 1):
            makers[f"block{group}_{number}"] = preact_basic_block(
                width * factor,
                stride=2 if group > 1 and number == 1 else 1,
                share=group == number == 1,
                dropout=dropout,
            )
    makers |= {"norm": norm_act(), "pool": global_average(), "fc": linear(num_classes)}
    return assemble(makers, in_shape, out_shape=(num_classes,), init=he_normal, **build)
