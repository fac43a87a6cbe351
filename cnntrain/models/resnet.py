"""The ImageNet residual networks: He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016,
table 1.

Images below 48 pixels a side meet a 3×3 stem with stride 1 and no pooling; from there on the network is as published.
`stride=3x3` moves the stride of a bottleneck from its first convolution, where the paper has it, to the second, as
torchvision does (v1.5). With `preactivation` batch norm and ReLU stand before each convolution (He et al., ECCV 2016):
those of the stem move into the first block, and a stage `norm` closes the last.
"""

from collections.abc import Callable
from typing import Literal

from torch import nn

from cnntrain.nn.blocks import by_size, conv, global_average, linear, norm_act, pooling
from cnntrain.nn.initialisers import he_normal
from cnntrain.nn.layers import Activation
from cnntrain.nn.residual import basic_block, bottleneck_block, preact_basic_block, preact_bottleneck_block
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, Maker, assemble

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
BlockMaker = Callable[[int, int, bool], Maker]  # width, stride, whether it is the network's first


def resnet_basic(
    depth: int, in_shape: Shape, num_classes: int, build: BuildOptions, *, preactivation: bool = False
) -> nn.Sequential:
    """ResNet-18 and 34: blocks of two 3×3 convolutions."""

    def block(width: int, stride: int, first: bool) -> Maker:
        if preactivation:
            return preact_basic_block(width, stride=stride, share=first)
        return basic_block(width, stride=stride, kind="B")

    return residual(in_shape, num_classes, depth, block, 1, preactivation, build)


def resnet_bottleneck(
    depth: int,
    in_shape: Shape,
    num_classes: int,
    build: BuildOptions,
    *,
    stride: Literal["1x1", "3x3"] = "1x1",
    preactivation: bool = False,
) -> nn.Sequential:
    """ResNet-50, 101 and 152: blocks of 1×1, 3×3 and 1×1 convolutions, four times as wide at their end."""

    def block(width: int, step: int, first: bool) -> Maker:
        if preactivation:
            return preact_bottleneck_block(width, stride=step, share=first)
        return bottleneck_block(width, stride=step, late_stride=stride == "3x3")

    return residual(in_shape, num_classes, depth, block, 4, preactivation, build)


def residual(
    in_shape: Shape,
    num_classes: int,
    depth: int,
    block: BlockMaker,
    expansion: int,
    preactivation: bool,
    build: BuildOptions,
) -> nn.Sequential:
    """A stem, four groups of blocks that halve the maps and double the channels, global average, linear."""

    def stem(kernel: int, stride: int) -> Maker:
        act: Activation = "none" if preactivation else "relu"
        return conv(64, kernel, stride=stride, padding=kernel // 2, norm=not preactivation, bias=False, activation=act)

    makers = {"conv1": by_size(in_shape, small=stem(3, 1), medium=stem(7, 2), large=stem(7, 2))}
    makers |= by_size(in_shape, small={}, medium=pool_one(), large=pool_one())
    for group, blocks in enumerate(BLOCKS[depth], 1):
        width = 64 * 2 ** (group - 1) * expansion
        makers[f"block{group}_1"] = block(width, 1 if group == 1 else 2, group == 1)
        makers |= dict.fromkeys((f"block{group}_{number}" for number in range(2, blocks + 1)), block(width, 1, False))
    if preactivation:
        makers["norm"] = norm_act()
    makers |= {"pool": global_average(), "fc": linear(num_classes)}
    return assemble(makers, in_shape, out_shape=(num_classes,), init=he_normal, build=build)


def pool_one() -> dict[str, Maker]:
    """Return the pooling of the published stem."""
    return {"pool1": pooling("max", 3, 2, padding=1)}
