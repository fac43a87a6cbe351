"""The CIFAR residual networks: He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016,
section 4.2, and with pre-activation "Identity Mappings in Deep Residual Networks", ECCV 2016.

Deviation: none in the layers; initial weights follow the authors' code (normal, fan-out).
"""

from torch import nn

from cnntrain.nn.blocks import conv, global_average, linear, norm_act
from cnntrain.nn.initialisers import he_normal
from cnntrain.nn.residual import Shortcut, basic_block, preact_basic_block, preact_bottleneck_block
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, Maker, assemble


def resnet_cifar(
    depth: int,
    in_shape: Shape,
    num_classes: int,
    build: BuildOptions,
    *,
    shortcut: Shortcut = "A",
    preactivation: bool = False,
) -> nn.Sequential:
    """6n + 2 layers: a 3×3 convolution, n blocks each of 16, 32 and 64 channels, global average, linear."""

    def block(width: int, stride: int, first: bool) -> Maker:
        if preactivation:
            return preact_basic_block(width, stride=stride, kind=shortcut, share=first)
        return basic_block(width, stride=stride, kind=shortcut)

    makers: dict[str, Maker] = {
        "conv1": conv(16, 3, padding=1, bias=False, activation="none")
        if preactivation
        else conv(16, 3, padding=1, norm=True)
    }
    for group, width in enumerate((16, 32, 64), 1):
        makers[f"block{group}_1"] = block(width, 1 if group == 1 else 2, group == 1)
        later = range(2, (depth - 2) // 6 + 1)
        makers |= dict.fromkeys((f"block{group}_{number}" for number in later), block(width, 1, False))
    if preactivation:
        makers["norm"] = norm_act()
    makers |= {"pool": global_average(), "fc": linear(num_classes)}
    return assemble(makers, in_shape, out_shape=(num_classes,), init=he_normal, build=build)


def preact_resnet(depth: int, in_shape: Shape, num_classes: int, build: BuildOptions) -> nn.Sequential:
    """9n + 2 layers: pre-activation bottlenecks that end in 64, 128 and 256 channels (ResNet-164 and 1001)."""
    makers: dict[str, Maker] = {"conv1": conv(16, 3, padding=1, bias=False, activation="none")}
    for group, width in enumerate((64, 128, 256), 1):
        first = preact_bottleneck_block(width, stride=1 if group == 1 else 2, share=group == 1)
        later = range(2, (depth - 2) // 9 + 1)
        makers[f"block{group}_1"] = first
        makers |= dict.fromkeys((f"block{group}_{number}" for number in later), preact_bottleneck_block(width))
    makers |= {"norm": norm_act(), "pool": global_average(), "fc": linear(num_classes)}
    return assemble(makers, in_shape, out_shape=(num_classes,), init=he_normal, build=build)
