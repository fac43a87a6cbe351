"""Dilated convolutions in place of poolings: Yu and Koltun, "Multi-Scale Context Aggregation by Dilated Convolutions",
ICLR 2016 (arXiv:1511.07122): the front end of section 4 and the context modules of table 1.

VGG-16 without its last two poolings: what follows the first of them is dilated by 2, what follows both by 4, so that
its maps are an eighth of the image (a quarter without `pool3`). Deviations: convolutions are padded with zeros, where
the released networks pad the image by reflection; the map is enlarged bilinearly.
"""

from functools import partial
from typing import Literal

import torch
from torch import nn

from cnntrain.models.vgg import CONVOLUTIONS
from cnntrain.nn.blocks import conv, pooling, sequence, spatial
from cnntrain.nn.composite import chain
from cnntrain.nn.initialisers import he_normal_inputs
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, Maker, assemble
from cnntrain.nn.upsampling import BilinearUp, Crop
from cnntrain.runtime.ranges import Count

Context = Literal["none", "basic", "large"]
DILATIONS = (1, 1, 2, 4, 8, 16, 1)
WIDTHS = {"basic": (1,) * 7, "large": (2, 2, 4, 8, 16, 32, 32)}  # maps of the layers, for each class one


def dilated(
    in_shape: Shape,
    num_classes: int,
    build: BuildOptions,
    *,
    context: Context = "none",
    width: Count = 64,
    hidden: Count = 4096,
) -> nn.Sequential:
    """The front end, of `width` maps to 8 times as many and `hidden` before the scores, and a context module."""
    makers: dict[str, Maker] = {}
    for group, count in enumerate(CONVOLUTIONS[16], 1):
        maps, dilation = width * 2 ** min(group - 1, 3), 2 if group == 5 else 1
        layer = conv(maps, 3, padding=dilation, dilation=dilation)
        makers |= dict.fromkeys((f"conv{group}_{number}" for number in range(1, count + 1)), layer)
        if group < 4:
            makers[f"pool{group}"] = pooling("max", 2)
    makers |= {
        "fc6": conv(hidden, 7, padding=12, dilation=4, dropout=0.5),
        "fc7": conv(hidden, 1, dropout=0.5),
        "score": conv(num_classes, 1, activation="none"),
    }
    if context != "none":
        makers |= context_module(num_classes, WIDTHS[context])
    makers["up"] = partial(enlarged, in_shape[1:])
    return assemble(makers, in_shape, out_shape=(num_classes, *in_shape[1:]), init=initialised, build=build)


def enlarged(size: Shape, shape: Shape) -> nn.Module:
    """Enlarge maps of `shape` to images of `size`, by 2 for each pooling that lies between: one may be removed."""
    factor = next((2**poolings for poolings in range(3) if size[0] >> poolings == shape[1]), 8)
    if factor == 1:
        return nn.Identity()
    # The middle of the first of eight pixels lies at 3.5, where the enlarged map's first position is at 7.5.
    return chain(bilinear=BilinearUp(factor), crop=Crop(size, factor // 2))


def context_module(num_classes: int, widths: tuple[int, ...]) -> dict[str, Maker]:
    """Return seven dilated convolutions and one of 1×1, which leave the scores as they are at first."""
    makers: dict[str, Maker] = {}
    for number, (factor, dilation) in enumerate(zip(widths, DILATIONS, strict=True), 1):
        layer = identity_conv(num_classes, factor * num_classes, 3, dilation)
        makers[f"context{number}"] = sequence(conv=layer, act=lambda shape: nn.ReLU())
    makers["context8"] = identity_conv(num_classes, num_classes, 1, 1)
    return makers


def identity_conv(classes: int, out: int, kernel: int, dilation: int) -> Maker:
    """A convolution that keeps the size and at first passes on the maps of `classes` groups."""
    return lambda shape: IdentityConv2d(classes, spatial(shape)[0], out, kernel, dilation)


class IdentityConv2d(nn.Conv2d):
    """A convolution of as many groups of maps as there are classes, each at first the mean of its group in the input.

    Equations 4 and 5 of the paper: noise of 0.001 breaks the symmetry where there are several maps a class.
    """

    def __init__(self, classes: int, channels: int, out: int, kernel: int, dilation: int) -> None:
        self.classes = classes
        super().__init__(channels, out, kernel, padding=dilation * (kernel // 2), dilation=dilation)

    def reset_parameters(self) -> None:
        maps, channels, kernel, _ = self.weight.shape
        with torch.no_grad():
            self.weight.zero_()
            if maps > self.classes or channels > self.classes:
                self.weight.normal_(0, 1e-3)
            group_in = torch.arange(channels) * self.classes // channels
            group_out = torch.arange(maps) * self.classes // maps
            alike = group_out[:, None] == group_in
            centre = self.weight[:, :, kernel // 2, kernel // 2]
            centre[alike] = self.classes / channels
            assert self.bias is not None
            self.bias.zero_()


def initialised(leaf: nn.Module) -> None:
    """He's initial weights, but for the context module."""
    if not isinstance(leaf, IdentityConv2d):
        he_normal_inputs(leaf)
