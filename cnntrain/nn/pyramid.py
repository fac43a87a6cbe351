"""Spatial pyramids: what there is in an image, and in its parts."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cnntrain.nn.composite import Branches
from cnntrain.nn.measures import Cost, LayerGeometry, Measure, Spans, Window
from cnntrain.nn.shapes import Shape, describe_shape


class Pyramid(Branches):
    """The sum of each map over each cell of several grids, as a share of all positions: [N, C, H, W] to [N, C·cells].

    Grids have g×g cells, which differ by one position where g does not divide a side; each position is in one cell of
    each grid. What a grid finds is multiplied by its weight.
    """

    def __init__(self, grids: Sequence[int], weights: Sequence[float]) -> None:
        super().__init__()
        self.grids, self.weights = tuple(grids), tuple(weights)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if min(height, width) < max(self.grids):
            cells = describe_shape(2 * (max(self.grids),))
            raise ValueError(f"a grid of {cells} cells does not fit into maps of {describe_shape((height, width))}")
        x = x.float()
        sums = [
            weight / (height * width) * x[:, :, rows, columns].sum((2, 3))
            for grid, weight in zip(self.grids, self.weights, strict=True)
            for rows in parts(height, grid)
            for columns in parts(width, grid)
        ]
        return torch.cat(sums, dim=1)

    def measured(self, measure: Measure, shape: Shape, spans: Spans) -> LayerGeometry:
        channels, height, width = shape
        seen = spans[0].after(Window(None, 0, height - 1)), spans[1].after(Window(None, 0, width - 1))
        out = (channels * sum(grid**2 for grid in self.grids),)
        return out, seen, Cost(activations=math.prod(out))

    def extra_repr(self) -> str:
        return f"grids={self.grids}, weights={self.weights}"


def parts(side: int, count: int) -> list[slice]:
    """Divide the positions of a side into parts of nearly the same length."""
    return [slice(i * side // count, (i + 1) * side // count) for i in range(count)]


def spatial_pyramid(levels: int) -> nn.Module:
    """Return grids of 1, 2×2, 4×4 … cells with the weights of Lazebnik et al. 2006, equation 3; they add up to one."""
    last = levels - 1
    weights = [2.0**-last, *(2.0 ** (level - last - 1) for level in range(1, levels))]
    return Pyramid([2**level for level in range(levels)], weights)
