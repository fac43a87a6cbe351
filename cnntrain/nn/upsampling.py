"""Layers that bring a map to the size of an image."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnntrain.nn.measures import Window, Windows
from cnntrain.nn.shapes import Shape, describe_shape


class BilinearUp(nn.Module):
    """Each map enlarged by `factor`: a transposed convolution with a fixed bilinear kernel of 2 × factor, no padding.

    Position i of the map lies at factor × i + factor - 1/2 (Long, Shelhamer and Darrell, CVPR 2015, section 3.3).
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        channels, size = x.shape[1], 2 * self.factor
        tent = 1 - (torch.arange(size, dtype=x.dtype, device=x.device) - (size - 1) / 2).abs() / self.factor
        kernel = (tent[:, None] * tent).expand(channels, 1, size, size)
        return F.conv_transpose2d(x, kernel, stride=self.factor, groups=channels)

    def windows(self) -> Windows:
        return Window(0), Window(0)

    def extra_repr(self) -> str:
        return f"factor={self.factor}"


class Crop(nn.Module):
    """The part of `size` (height, width) of maps that begins `offset` positions from their corner."""

    def __init__(self, size: Shape, offset: int) -> None:
        super().__init__()
        self.size, self.offset = size, offset

    def forward(self, x: Tensor) -> Tensor:
        height, width = self.size
        ends = self.offset + height, self.offset + width
        if self.offset < 0 or ends[0] > x.shape[2] or ends[1] > x.shape[3]:
            raise ValueError(
                f"a map of {describe_shape(tuple(x.shape[2:]))} does not cover {describe_shape(self.size)} from "
                f"{self.offset} on"
            )
        return x[:, :, self.offset : ends[0], self.offset : ends[1]]

    def windows(self) -> Windows:
        return Window(1, self.offset, self.offset), Window(1, self.offset, self.offset)

    def extra_repr(self) -> str:
        return f"{describe_shape(self.size)} from {self.offset}"
