"""What leaves each stage of a network, image by image, as the columns of a matrix that need not fit into memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from cnntrain.data.loading.loader import eval_batches
from cnntrain.data.storage.images import DatasetInfo, Split
from cnntrain.nn.probe import vector_of
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import Reduction, stage_shapes, walk
from cnntrain.runtime.devices import autocast
from cnntrain.runtime.errors import InputError, listed
from cnntrain.runtime.progress import counting
from cnntrain.studies.networks import INPUT

COLUMNS = 2048  # that are in float64 at a time, at most …
NUMBERS = 2**23  # … as long as they are no more numbers than these


@dataclass(frozen=True, eq=False)
class Columns:
    """The features of a stage: `blocks` yields columns, float32 [N, …], from the first on, each time anew.

    Where all are in memory, `held` is them, [N, D], and the blocks are its parts.
    """

    blocks: Callable[[], Iterator[np.ndarray]]
    held: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class TappedNetwork:
    """A network in evaluation mode on its device, and what makes features of what leaves each stage of interest."""

    net: nn.Sequential
    info: DatasetInfo
    taps: Mapping[str, nn.Module]
    dimensions: Mapping[str, int]
    precision: Literal["fp32", "bf16"]
    device: torch.device
    batch_size: int

    def batches(self, split: Split, stages: Sequence[str], workers: int) -> Iterator[dict[str, Tensor]]:
        """Yield the features of some stages, float32 [B, D] on the host, a batch of a split at a time."""
        last = next((name for name, _ in reversed(list(self.net.named_children())) if name in stages), None)
        batches = eval_batches(split, self.info, batch_size=self.batch_size, device=self.device, workers=workers)
        with counting(len(split), "features", self.info.noun) as done:
            for images, _ in batches:
                with torch.inference_mode(), autocast(self.precision, self.device):
                    features = {INPUT: self.taps[INPUT](images)} if INPUT in stages else {}
                    for name, x in walk(self.net, images, last) if last else ():
                        if name in stages:
                            features[name] = self.taps[name](x)
                yield {name: x.float().cpu() for name, x in features.items()}
                done(len(images))

    def columns(self, split: Split, wanted: Mapping[str, slice], workers: int) -> dict[str, np.ndarray]:
        """Return some columns of the features of some stages, float32 [N, …], in one pass over a split.

        Raises `InputError` for features that are not finite.
        """
        held = {name: np.empty((len(split), part.stop - part.start), np.float32) for name, part in wanted.items()}
        start = 0
        for features in self.batches(split, list(wanted), workers):
            for name, x in features.items():
                held[name][start : start + len(x)] = x[:, wanted[name]].numpy()
            start += len(x)
        if wrong := [name for name, x in held.items() if not np.isfinite(x).all()]:
            raise InputError(f"what leaves {listed(wrong)} is not finite: leave it out, with the others in stages=")
        return held


def tapped(
    net: nn.Sequential,
    info: DatasetInfo,
    stages: Sequence[str],
    pool: Reduction,
    *,
    precision: Literal["fp32", "bf16"],
    device: torch.device,
    batch_size: int,
) -> TappedNetwork:
    """Return a network as some of its stages are tapped."""
    taps = {name: vector_of(pool, shape) for name, shape in tapped_shapes(net, info, stages).items()}
    dimensions = dimensions_of(net, info, stages, pool)
    return TappedNetwork(net.to(device).eval(), info, taps, dimensions, precision, device, batch_size)


def tapped_shapes(net: nn.Sequential, info: DatasetInfo, stages: Sequence[str]) -> dict[str, Shape]:
    """Return the shape that leaves each of some stages, in the network's order."""
    shapes = {INPUT: info.shape, **stage_shapes(net, info.shape)}
    return {name: shape for name, shape in shapes.items() if name in stages}


def dimensions_of(net: nn.Sequential, info: DatasetInfo, stages: Sequence[str], pool: Reduction) -> dict[str, int]:
    """Return how many features leave each of some stages."""
    return {
        name: vector_of(pool, shape)(torch.empty(1, *shape, device="meta")).shape[1]
        for name, shape in tapped_shapes(net, info, stages).items()
    }


def passes(dimensions: Mapping[str, int], most: int) -> Iterator[list[str]]:
    """Yield the stages in groups, each of at most so many columns together, or of one stage alone."""
    group, width = list[str](), 0
    for name, count in dimensions.items():
        if group and width + count > most:
            yield group
            group, width = [], 0
        group.append(name)
        width += count
    if group:
        yield group


def stage_columns(network: TappedNetwork, split: Split, most: int, workers: int) -> Iterator[tuple[str, Columns]]:
    """Yield each stage with its columns. At most so many are in memory; a stage that has more is computed in parts."""
    for group in passes(network.dimensions, most):
        if network.dimensions[group[0]] <= most:
            held = network.columns(split, {name: slice(0, network.dimensions[name]) for name in group}, workers)
            for name in group:
                features = held.pop(name)
                yield name, Columns(partial(in_blocks, features), features)
        else:
            yield group[0], Columns(partial(computed_anew, network, split, group[0], most, workers))


def in_blocks(columns: np.ndarray) -> Iterator[np.ndarray]:
    """Yield columns in blocks."""
    width = max(1, min(COLUMNS, NUMBERS // len(columns)))
    for start in range(0, columns.shape[1], width):
        yield columns[:, start : start + width]


def computed_anew(network: TappedNetwork, split: Split, stage: str, most: int, workers: int) -> Iterator[np.ndarray]:
    """Yield the columns of a stage in blocks, at most so many of them in memory."""
    count = network.dimensions[stage]
    for start in range(0, count, most):
        part = {stage: slice(start, min(start + most, count))}
        yield from in_blocks(network.columns(split, part, workers)[stage])
