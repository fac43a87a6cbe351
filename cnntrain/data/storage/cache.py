"""Where the pixels of image files are kept: in their files, in a pack, or in memory; and at which size."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from cnntrain.data.storage.images import (
    Centre,
    Dataset,
    Files,
    OnProgress,
    Source,
    Split,
    on_stored,
    resident,
    splits_of,
    stored,
)
from cnntrain.data.storage.pack import Packed, pack

Cache = Literal["auto", "none", "pack", "ram"]


def in_memory(split: Split, on_progress: OnProgress | None) -> Split:
    """Return the split with its images in memory."""
    return split.read_from(on_stored(split.source, lambda source: resident(source, on_progress)))


def in_pack(split: Split, undivided: Dataset, folder: Path, *, make: bool) -> Split:
    """Return the split read from the pack of the whole split that it was carved from, where there is or is made one."""

    def read(source: Source) -> Source:
        if not isinstance(source, Files):
            return source
        bases = [stored(base.source) for base in splits_of(undivided) if base]
        base = next(base for base in bases if isinstance(base, Files) and base.paths is source.paths)
        place = pack(base, folder, make=make)
        return Packed(source, place, np.searchsorted(base.index, source.index)) if place else source

    return split.read_from(on_stored(split.source, read))


def centred(dataset: Dataset) -> Dataset:
    """Return a dataset whose images are the centres of those that are stored larger than its information says."""

    def cut(split: Split) -> Split:
        size = dataset.info.shape[1:]
        return split if split.source.shape[:2] == size else split.read_from(Centre(split.source, size))

    return replace(
        dataset, train=cut(dataset.train), val=dataset.val and cut(dataset.val), test=dataset.test and cut(dataset.test)
    )
