"""Wide residual networks: Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, table 1.

Deviation: none in the layers; projections are 1×1 convolutions without batch norm, as in the authors' code.
"""

from torch import nn

from cnntrain.nn.blocks import conv, global_average, linear, norm_act
from cnntrain.nn.initialisers import he_normal
from cnntrain.nn.residual import preact_basic_block
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, Maker, assemble
from cnntrain.runtime.ranges import Fraction


def wide_resnet(
    depth: int, factor: int, in_shape: Shape, num_classes: int, build: BuildOptions, *, dropout: Fraction = 0.0
) -> nn.Sequential:
    """6n + 4 layers: n pre-activation blocks each of 16, 32 and 64 channels times `factor`, dropout inside them."""
    makers: dict[str, Maker] = {"conv1": conv(16, 3, padding=1, bias=False, activation="none")}
    for group, width in enumerate((16, 32, 64), 1):
        wide, stride = width * factor, 1 if group == 1 else 2
        makers[f"block{group}_1"] = preact_basic_block(wide, stride=stride, share=group == 1, dropout=dropout)
        later = range(2, (depth - 4) // 6 + 1)
        block = preact_basic_block(wide, dropout=dropout)
        makers |= dict.fromkeys((f"block{group}_{number}" for number in later), block)
    makers |= {"norm": norm_act(), "pool": global_average(), "fc": linear(num_classes)}
    return assemble(makers, in_shape, out_shape=(num_classes,), init=he_normal, build=build)
