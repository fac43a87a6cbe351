"""Units of stages: which are looked at, what excites them most, and which part of the image they see.

A unit is a map of a stage, or a number where a stage gives no maps. Its activation on an image is the largest value of
its map.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cnntrain.data.storage.images import spread
from cnntrain.nn.measures import Span, Spans
from cnntrain.nn.stages import walk
from cnntrain.runtime.errors import InputError

Pooled = Literal["unit", "map"]  # the largest value of a map, or its mean


@dataclass(frozen=True, eq=False)
class Exciting:
    """The images that excite some units of a stage most, the strongest first: [units, k] each.

    `units` are their numbers [units]. `places` are those of the images among all that were shown, `values` the
    activations, `rows` and `columns` where in the map they stand: 0 for a number, and for the mean of a map.
    """

    units: np.ndarray
    places: np.ndarray
    values: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


class Peaks(NamedTuple):
    """Activations of images: values [N, units], and their places among the positions of the maps [N, units]."""

    values: Tensor
    positions: Tensor


def peaks(features: Tensor, units: np.ndarray, of: Pooled = "unit") -> Peaks:
    """Return the activations of some units in the features [N, C, …] of a stage."""
    maps = features[:, torch.from_numpy(units).to(features.device)].float()
    maps = maps.reshape(*maps.shape[:2], -1)  # a number is a map of one position
    if of == "map":
        mean = maps.mean(dim=2)
        return Peaks(mean, torch.zeros_like(mean, dtype=torch.int64))
    return Peaks(*maps.max(dim=2))


@torch.no_grad()
def most_exciting(
    net: nn.Sequential,
    batches: Iterable[Tensor],
    units: Mapping[str, np.ndarray],
    most: int = 9,
    of: Pooled = "unit",
) -> dict[str, Exciting]:
    """Return by stage the `most` images of all batches that excite each of its `units` most; equal ones in order.

    An image counts once for a unit. No more than a batch's features are in memory.
    """
    best: dict[str, Peaks] = {}
    places: dict[str, Tensor] = {}
    widths: dict[str, int] = {}
    last, seen = last_of(net, units), 0
    for batch in batches:
        here = torch.arange(seen, seen + len(batch))
        seen += len(batch)
        for stage, features in walk(net, batch, last):
            if stage not in units:
                continue
            found = Peaks(*(part.cpu() for part in peaks(features, units[stage], of)))
            widths[stage] = features.shape[3] if features.dim() == 4 and of == "unit" else 1
            numbers = here[:, None].expand_as(found.positions)
            if stage in best:
                found = Peaks(*(torch.cat(parts) for parts in zip(best[stage], found, strict=True)))
                numbers = torch.cat([places[stage], numbers])
            values, order = found.values.sort(dim=0, descending=True, stable=True)
            order = order[:most]
            best[stage] = Peaks(values[:most], found.positions.gather(0, order))
            places[stage] = numbers.gather(0, order)
    return {
        stage: Exciting(
            units[stage],
            places[stage].T.numpy(),
            best[stage].values.T.numpy(),
            best[stage].positions.T.numpy() // widths[stage],
            best[stage].positions.T.numpy() % widths[stage],
        )
        for stage in units
    }


@torch.no_grad()
def ranges(net: nn.Sequential, batches: Iterable[Tensor], stages: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return by stage the smallest and the largest value [units] that each unit takes anywhere on any image."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for batch in batches:
        for stage, features in walk(net, batch, last_of(net, stages)):
            if stage in stages:
                values = features.float().transpose(0, 1).flatten(1).cpu()
                low, high = values.amin(dim=1), values.amax(dim=1)
                if stage in found:
                    low, high = torch.minimum(low, found[stage][0]), torch.maximum(high, found[stage][1])
                found[stage] = low, high
    return found


def last_of(net: nn.Sequential, stages: Iterable[str]) -> str:
    """Return the last of some stages in the network's order."""
    wanted = set(stages)
    return [name for name, _ in net.named_children() if name in wanted][-1]


def chosen_units(asked: int | Sequence[int] | None, counts: Mapping[str, int], usual: int) -> dict[str, np.ndarray]:
    """Return by stage the numbers of the units to look at: `usual` evenly spaced ones, or as many or which are asked.

    Of units that are named a stage has those that it has. Raises `InputError` for one that no stage has.
    """
    if asked is None or isinstance(asked, int):
        return {stage: spread(count, asked or usual) for stage, count in counts.items()}
    if absent := [unit for unit in asked if unit >= max(counts.values())]:
        stage, count = max(counts.items(), key=lambda pair: pair[1])
        raise InputError(
            f"units={list(asked)}: there is no unit {absent[0]}; {stage} has {count}, from 0 to {count - 1}"
        )
    chosen = {stage: np.array([unit for unit in asked if unit < count]) for stage, count in counts.items()}
    return {stage: units for stage, units in chosen.items() if len(units)}


def seen_window(span: Span, position: int, side: int) -> tuple[int, int]:
    """Return where the input positions that a position of a map sees begin and end, within a side of the image."""
    if span.jump is None:
        return 0, side
    low, high = position * span.jump + span.low, position * span.jump + span.high
    return max(0, low), min(side, high + 1)


def receptive_patch(pixels: np.ndarray, spans: Spans | None, row: int, column: int, beyond: float) -> np.ndarray:
    """Return what a position of a map sees of an image [H, W, …], `beyond` elsewhere; without spans the whole image.

    The patches of all positions of a map have one size: that of the receptive field, or of the image where it is
    larger.
    """
    if spans is None:
        return pixels
    size = pixels.shape[:2]
    places = [(span, position, side) for span, position, side in zip(spans, (row, column), size, strict=True)]
    windows = [seen_window(*place) for place in places]
    starts = [
        span.low + position * span.jump if span.jump is not None and span.size <= side else 0
        for span, position, side in places
    ]
    sides = [min(span.size, side) if span.jump is not None else side for span, _, side in places]
    patch = np.full((*sides, *pixels.shape[2:]), beyond, dtype=pixels.dtype)
    (top, bottom), (left, right) = windows
    into = tuple(slice(low - start, high - start) for (low, high), start in zip(windows, starts, strict=True))
    patch[into] = pixels[top:bottom, left:right]
    return patch
