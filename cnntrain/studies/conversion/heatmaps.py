"""Class maps over whole images: a fully convolutional network at several scales."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cnntrain.data.storage.decode import cover, decode, upright_size
from cnntrain.data.storage.images import DatasetInfo
from cnntrain.nn.fully_convolutional import cell_step
from cnntrain.runtime.errors import InputError, as_text
from cnntrain.studies.conversion.study import class_maps, normalised, pooled

MOST_SCALED = 4000  # pixels of a side at any scale: memory
LONGEST = 1000  # pixels of the longer side up to which an image is looked at


@dataclass(frozen=True)
class Heatmap:
    """Probabilities of an image's places: pixels uint8 [H, W, C], maps [classes, H, W], a score for each class."""

    path: Path
    pixels: np.ndarray
    maps: np.ndarray
    scores: np.ndarray


def heatmap(
    whole: nn.Sequential,
    path: Path,
    info: DatasetInfo,
    scales: Sequence[float],
    *,
    most: int = 1,
    least: int = 0,
    invert: bool = False,
) -> Heatmap:
    """Return the class maps of an image file at `scales` of the network's own size, the short side measured.

    A place has the largest probability over the scales. `most` and `least` cells are pooled into each class's score.

    Raises `InputError` for a file that cannot be read, and for scales that make it smaller than the network's window.
    """
    size = shown_size(upright_size(path))
    pixels = decode(path, size, info.shape[0], resize=True, invert=invert)
    step, window = cell_step(whole, info.shape), info.shape[1:]
    maps, scores = None, None
    for scale in scales:
        scaled_size = size_at(size, scale, window)
        if scaled_size[0] < window[0] or scaled_size[1] < window[1]:
            raise InputError(
                f"{as_text(path)} at scale {scale:g} has {scaled_size[0]}×{scaled_size[1]} pixels; the network needs "
                f"{window[0]}×{window[1]}"
            )
        if max(scaled_size) > MOST_SCALED:
            raise InputError(f"{as_text(path)} at scale {scale:g} is larger than {MOST_SCALED:,} pixels a side")
        scaled = pixels if scaled_size == size else cover(pixels, scaled_size)
        cells = class_maps(whole, normalised(torch.from_numpy(scaled)[None], info))
        placed = spread_out(cells[0], step, window, scaled.shape[:2], size)
        score = pooled(cells, most, least)[0]
        maps = placed if maps is None else torch.maximum(maps, placed)
        scores = score if scores is None else torch.maximum(scores, score)
    assert maps is not None and scores is not None
    return Heatmap(path, pixels, maps.numpy(), scores.numpy())


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the size (height, width) at which an image is looked at: its own, or as large as `LONGEST` allows."""
    shrink = min(1.0, LONGEST / max(size))
    return max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))


def size_at(size: tuple[int, int], scale: float, window: tuple[int, ...]) -> tuple[int, int]:
    """Return the size at which an image's short side is so many times as long as the network's window."""
    height, width = size
    short = round(scale * max(window))
    return (short, round(width * short / height)) if height <= width else (round(height * short / width), short)


def spread_out(
    cells: Tensor, step: tuple[int, int], window: tuple[int, ...], scaled: tuple[int, ...], size: tuple[int, int]
) -> Tensor:
    """Return cells [classes, h, w] as maps [classes, H, W] of the image: each pixel takes its nearest window's cell."""
    places = []
    for axis in (0, 1):
        centres = (torch.arange(size[axis]) + 0.5) * scaled[axis] / size[axis] - window[axis] / 2
        places.append((centres / step[axis]).round().long().clamp(0, cells.shape[1 + axis] - 1))
    return cells[:, places[0]][:, :, places[1]]
