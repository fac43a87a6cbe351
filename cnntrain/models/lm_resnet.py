"""LM-ResNet: Lu, Zhong, Li and Dong, "Beyond Finite Layer Neural Networks: Bridging Deep Architectures and Numerical
Differential Equations", ICML 2018, equation 3: x(t+1) = (1 - k) x(t) + k x(t-1) + F(x(t)), one trainable k a block.

The state that passes between blocks is x(t) and x(t-1) joined along the channels; x(-1) is x(0), so the first block's k
changes nothing. Where a block changes the shape, both states pass its shortcut of option A. With every k = 0 this is
the CIFAR ResNet to the last bit.
"""

from torch import nn

from cnntrain.nn.blocks import conv, global_average, linear, spatial
from cnntrain.nn.initialisers import he_normal
from cnntrain.nn.layers import FirstHalf, Twice
from cnntrain.nn.residual import MultistepBlock, basic_body, shortcut
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, Maker, assemble


def multistep_block(out: int, stride: int) -> Maker:
    """A basic block that carries two states."""

    def make(shape: Shape) -> nn.Module:
        channels = spatial(shape)[0] // 2
        return MultistepBlock(basic_body(channels, out, stride), shortcut("A", channels, out, stride))

    return make


def lm_resnet(depth: int, in_shape: Shape, num_classes: int, build: BuildOptions) -> nn.Sequential:
    """6n + 2 layers as the CIFAR ResNet has them, in blocks that remember one step more."""
    makers: dict[str, Maker] = {"conv1": conv(16, 3, padding=1, norm=True), "start": lambda shape: Twice()}
    for group, width in enumerate((16, 32, 64), 1):
        makers[f"block{group}_1"] = multistep_block(width, 1 if group == 1 else 2)
        later = range(2, (depth - 2) // 6 + 1)
        makers |= dict.fromkeys((f"block{group}_{number}" for number in later), multistep_block(width, 1))
    makers |= {"end": lambda shape: FirstHalf(), "pool": global_average(), "fc": linear(num_classes)}
    return assemble(makers, in_shape, out_shape=(num_classes,), keep=("start", "end"), init=he_normal, build=build)
