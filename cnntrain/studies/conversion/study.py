"""The map of a fully convolutional network held against every window computed by itself."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cnntrain.data.loading.normalise import Normalise
from cnntrain.data.storage.images import DatasetInfo, Split, spread
from cnntrain.nn.fully_convolutional import by_windows, cell_step
from cnntrain.nn.geometry import describe
from cnntrain.nn.shapes import Shape
from cnntrain.runtime.tables import percent


@dataclass(frozen=True)
class Exactness:
    """How far a map of logits lies from its windows' logits, over all cells of all images.

    Differences are measured in standard deviations of the windows' logits; `agreement` is the share of cells with the
    same likeliest class. Multiplications are of one image.
    """

    side: int
    cells: tuple[int, int]
    n: int
    median_difference: float
    max_difference: float
    agreement: float
    macs: int
    macs_windows: int

    @property
    def saved(self) -> float:
        """How many times fewer multiplications the map takes than its windows."""
        return self.macs_windows / self.macs


def mosaic(split: Split, tiles: int, count: int) -> Tensor:
    """Return `count` large images of `tiles` by `tiles` images of a split, evenly spaced: uint8 [N, H, W, C].

    Raises `ValueError` where the split has too few images.
    """
    each = tiles * tiles
    if len(split) < each * count:
        raise ValueError(f"{count} mosaics of {tiles}×{tiles} need {each * count} images, and there are {len(split)}")
    pixels = split.source.read(np.asarray(spread(len(split), each * count)))
    n, height, width, channels = pixels.shape
    grid = pixels.view(n // each, tiles, tiles, height, width, channels).permute(0, 1, 3, 2, 4, 5)
    return grid.reshape(n // each, tiles * height, tiles * width, channels)


@torch.inference_mode()
def exactness(net: nn.Sequential, whole: nn.Sequential, images: Tensor, in_shape: Shape) -> Exactness:
    """Return how exact the map of `whole` is on normalised images [N, C, S, S], beside windows shown to `net`."""
    step = cell_step(whole, in_shape)
    made = whole(images)
    windows = by_windows(net, images, (in_shape[1], in_shape[2]), step)
    height, width = (min(a, b) for a, b in zip(made.shape[2:], windows.shape[2:], strict=True))
    made, windows = made[:, :, :height, :width], windows[:, :, :height, :width]
    apart = (made - windows).abs() / windows.std()
    same = made.argmax(dim=1) == windows.argmax(dim=1)
    large, _ = describe(whole, tuple(images.shape[1:]))
    small, _ = describe(net, in_shape)
    return Exactness(
        images.shape[2],
        (height, width),
        same.numel(),
        float(apart.median()),
        float(apart.max()),
        float(same.double().mean()),
        sum(stage.macs for stage in large),
        height * width * sum(stage.macs for stage in small),
    )


def normalised(pixels: Tensor, info: DatasetInfo) -> Tensor:
    """Return pixels uint8 [N, H, W, C] as the network takes them, float32 [N, C, H, W]."""
    return Normalise(info, torch.device("cpu"))(pixels).contiguous()


@torch.inference_mode()
def class_maps(whole: nn.Sequential, images: Tensor) -> Tensor:
    """Return the probabilities of every class at every cell, [N, classes, H, W], for normalised images."""
    return whole(images).softmax(dim=1)  # type: ignore[no-any-return]


def pooled(maps: Tensor, most: int, least: int = 0) -> Tensor:
    """Return scores [N, classes] of maps: the mean of the `most` largest cells plus that of the `least` smallest.

    One cell alone is the maximum (Oquab et al. 2015); both ends are WELDON (Durand, Thome and Cord, CVPR 2016, eq. 3).
    """
    cells = maps.flatten(2)
    score = cells.topk(min(most, cells.shape[2]), dim=2).values.mean(dim=2)
    if least:
        score = score + cells.topk(min(least, cells.shape[2]), dim=2, largest=False).values.mean(dim=2)
    return score


def rows(found: Sequence[Exactness]) -> list[dict[str, object]]:
    """Return exactness at several sizes as lines of a table."""
    return [
        {
            "image": f"{one.side}×{one.side}",
            "cells": f"{one.cells[0]}×{one.cells[1]}",
            "n": one.n,
            "median difference, σ of logits": round(one.median_difference, 4),
            "largest, σ": round(one.max_difference, 4),
            "same class": percent(one.agreement, 1),
            "map, MMAC": millions(one.macs),
            "windows, MMAC": millions(one.macs_windows),
            "windows / map": round(one.saved, 1),
        }
        for one in found
    ]


def millions(count: int) -> float:
    """Return a number in millions: to hundredths below a hundred of them, whole above."""
    return round(count / 1e6, 2) if count < 1e8 else round(count / 1e6)
