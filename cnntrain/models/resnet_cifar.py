"""The CIFAR residual networks: He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016,
section 4.2. Deviation: none in the layers; initial weights follow the authors' code (normal, fan-out).
"""

from typing import Unpack

from torch import nn

from cnntrain.models.blocks import Shortcut, basic_block, conv, global_average, he_normal, linear
from cnntrain.models.stages import Build, Maker, Shape, assemble


def resnet_cifar(
    depth: int, in_shape: Shape, num_classes: int, *, shortcut: Shortcut = "A", **build: Unpack[Build]
) -> nn.Sequential:
    """6n + 2 layers: a 3×3 convolution, n blocks each of 16, 32 and 64 channels, global average, linear."""
    makers: dict[str, Maker] = {"conv1": conv(16, 3, padding=1, norm=True)}
    for group, width in enumerate((16, 32, 64), 1):
        for block in range(1, (depth - 2) // 6 + 1):
            stride = 2 if group > 1 and block == 1 else 1
            makers[f"block{group}_{block}"] = basic_block(width, stride=stride, kind=shortcut)
    makers |= {"pool": global_average(), "fc": linear(num_classes)}
    return assemble(makers, in_shape, out_shape=(num_classes,), init=he_normal, **build)
