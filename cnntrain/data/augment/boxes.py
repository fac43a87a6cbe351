"""Boxes in images, float32 [B, M, 6]: of each its class, left, top, right and bottom in pixels, and 1 if difficult.

Images have different numbers of boxes: the class -1 is none.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

LEAST = 0.25  # of a box's area: with less left in the image it is dropped


def padded(images: Sequence[np.ndarray]) -> Tensor:
    """Return the boxes of images, each float32 [n, 6], as one tensor [N, M, 6]."""
    most = max((len(boxes) for boxes in images), default=0)
    labels = torch.zeros(len(images), max(most, 1), 6)
    labels[..., 0] = -1
    for place, boxes in enumerate(images):
        labels[place, : len(boxes)] = torch.from_numpy(boxes)
    return labels


def clipped(labels: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return `labels` [B, M, 6] with moved `boxes` [B, M, 4] cut to images of `size`, without what loses too much."""
    height, width = size
    inside = torch.stack([boxes[..., k].clamp(0, (width, height)[k % 2]) for k in range(4)], 2)
    kept = (labels[..., 0] >= 0) & (area(inside) > 0) & (area(inside) >= LEAST * area(boxes))
    classes = torch.where(kept, labels[..., 0], -1.0)
    return torch.cat((classes.unsqueeze(2), inside * kept.unsqueeze(2), labels[..., 5:] * kept.unsqueeze(2)), 2)


def windowed(boxes: Tensor, windows: Tensor, size: tuple[int, int]) -> Tensor:
    """Return boxes [B, M, 4] as they lie in windows [B, 4] (top, left, height, width) that are scaled to `size`."""
    top, left, height, width = windows.to(boxes.dtype).unbind(1)
    corner = torch.stack((left, top, left, top), 1).unsqueeze(1)
    scale = torch.stack((size[1] / width, size[0] / height) * 2, 1).unsqueeze(1)
    return (boxes - corner) * scale


def area(boxes: Tensor) -> Tensor:
    """Return the areas [...] of boxes [..., 4]."""
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)
