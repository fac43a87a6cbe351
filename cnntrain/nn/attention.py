"""Spatial attention in place of global average pooling, in any network that has one.

Each position of the maps gets a score, a 1×1 convolution over the channels; the softmax of the scores over the
positions says how much each one counts in the mean of every map (the soft attention of Xu et al., "Show, Attend and
Tell", ICML 2015, section 3.1.2, without a state). Equal scores are global average pooling, and training starts there.
"""

import math

import torch
from torch import Tensor, nn

from cnntrain.nn.composite import Branches, chain
from cnntrain.nn.measures import Cost, LayerGeometry, Measure, Spans, Window
from cnntrain.nn.shapes import Shape, shape_after


class SpatialAttention(Branches):
    """The mean of each map, weighted by a softmax over its positions: [N, C, H, W] to [N, C, 1, 1].

    The score has no bias: a number added to all scores changes nothing.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)

    def attention(self, x: Tensor) -> Tensor:
        """Return how much each position counts, [N, H, W]; the sum over an image is 1."""
        scores = torch.einsum("nchw,c->nhw", x, self.weight)
        return scores.flatten(1).softmax(dim=1).view_as(scores)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw,nhw->nc", x, self.attention(x))[:, :, None, None]

    def measured(self, measure: Measure, shape: Shape, spans: Spans) -> LayerGeometry:
        channels, height, width = shape
        positions = height * width
        seen = (
            spans[0].after(Window(None, 0, height - 1)),
            spans[1].after(Window(None, 0, width - 1)),
        )
        return (channels, 1, 1), seen, Cost(2 * channels * positions, channels * positions, positions + channels)


def attentive(stage: nn.Module, shape: Shape) -> nn.Module:
    """Return a stage that maps of `shape` reach with attention in place of global average pooling."""
    if isinstance(stage, nn.AdaptiveAvgPool2d) and stage.output_size in (1, (1, 1)) and math.prod(shape[1:]) > 1:
        return SpatialAttention(shape[0])
    if not isinstance(stage, nn.Sequential):
        return stage
    parts = {}
    for name, part in stage.named_children():
        parts[name] = attentive(part, shape)
        shape = shape_after(part, shape)
    return chain(**parts)
