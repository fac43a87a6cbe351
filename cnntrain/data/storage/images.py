"""Images of one size, read by index as uint8 [B, H, W, C] from memory or from files; datasets are made of them."""

import contextlib
import copy
import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cnntrain.data.augment.resize import scaled
from cnntrain.data.storage.decode import decode, pillow_rules
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.progress import counting

OnProgress = Callable[[int, int], None]  # called with the images done and the images in all
Keep = Callable[[int, np.ndarray], object]  # called with an image's position and its pixels, uint8 [H, W, C]

TargetKind = Literal["classes", "maps", "boxes"]
IGNORED = 255  # in a label map: a pixel without a class

CHUNK = 64  # images a task of the thread pool decodes
THREADS = min(16, os.cpu_count() or 1)  # that decode images and count their grey values


class Source(Protocol):
    """Images of one size, read by index.

    Images whose every pixel has a class bring their label map as one more channel, the last: whatever selects, stores
    and moves pixels then moves their classes too.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels (1 or 3, and one more with a label map)."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: Sequence[int] | np.ndarray) -> Tensor:
        """Return the images at `index`, uint8 [B, H, W, C]."""
        ...

    def take(self, index: np.ndarray) -> "Source":
        """Return the source of the images at `index`, in that order."""
        ...


class Pixels:
    """Images that lie in memory: `images`, uint8 [N, H, W, C], and the files that they were read from, if any."""

    def __init__(self, images: Tensor, files: "Files | None" = None) -> None:
        self.images, self.files = images, files

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: Sequence[int] | np.ndarray) -> Tensor:
        return self.images[torch.from_numpy(np.array(index, dtype=np.int64))]

    def take(self, index: np.ndarray) -> "Pixels":
        return Pixels(self.read(index), None if self.files is None else self.files.take(index))


class Files:
    """Image files that are decoded when they are read; picklable, and a subset shares the list of paths.

    `paths` are relative to `root` and `index` says which of them are meant. `size` is (height, width). With `resize`
    an image is scaled until it covers `size` and cropped at its centre, or scaled to it with `stretch`; without, one of
    another size is an InputError.
    `invert` takes every value from 255.
    """

    def __init__(
        self,
        root: Path,
        paths: Sequence[str],
        size: tuple[int, int],
        channels: int,
        *,
        resize: bool,
        stretch: bool = False,
        invert: bool = False,
        index: np.ndarray | None = None,
    ) -> None:
        self.root, self.paths, self.size, self.channels = root, paths, size, channels
        self.resize, self.stretch, self.invert = resize, stretch, invert
        self.index = np.arange(len(paths)) if index is None else index

    @property
    def shape(self) -> tuple[int, int, int]:
        return *self.size, self.channels

    def __len__(self) -> int:
        return len(self.index)

    def path(self, position: int) -> Path:
        """Return the file of the image at `position`."""
        return self.root / self.paths[int(self.index[position])]

    def parts(self, position: int) -> list[tuple[str, Path]]:
        """Return the names and places of all files that the image at `position` is made of."""
        return [(self.paths[int(self.index[position])], self.path(position))]

    def made(self) -> list[object]:
        """Return what decides, beside the files and the shape, which pixels are made of them."""
        return [self.resize, self.invert, *(["stretch"] if self.stretch else [])]

    def read(self, index: Sequence[int] | np.ndarray) -> Tensor:
        images = torch.empty(len(index), *self.shape, dtype=torch.uint8)
        with pillow_rules():
            for place, position in zip(images.numpy(), index, strict=True):
                place[...] = self.decode(int(position))
        return images

    def take(self, index: np.ndarray) -> "Files":
        taken = copy.copy(self)
        taken.index = self.index[np.asarray(index)]
        return taken

    def decode(self, position: int) -> np.ndarray:
        """Return the image at `position`, uint8 [H, W, C]; a bad file is an InputError that names it."""
        how = {"resize": self.resize, "stretch": self.stretch, "invert": self.invert}
        return decode(self.path(position), self.size, self.channels, **how)


class Centre:
    """The middle of the images of `stored` at `size` (height, width): what is looked at, whatever training is shown.

    It is 7/8 of each side, as 224 of 256 pixels, or `size` where that is more, cut where torchvision's CenterCrop cuts;
    what has another size then is scaled, bilinear with antialiasing, and label maps to the nearest pixel.
    """

    def __init__(self, stored: Source, size: tuple[int, int]) -> None:
        self.stored, self.size = stored, size

    @property
    def shape(self) -> tuple[int, int, int]:
        return *self.size, self.stored.shape[2]

    def __len__(self) -> int:
        return len(self.stored)

    def read(self, index: Sequence[int] | np.ndarray) -> Tensor:
        height, width = (slice(*ends) for ends in central(self.stored.shape, self.size))
        images = self.stored.read(index)[:, height, width]
        if images.shape[1:3] == self.size:
            return images.contiguous()
        out = torch.empty(len(images), *self.shape, dtype=torch.uint8)
        scaled(images.permute(0, 3, 1, 2), self.size, False, None, None, out=out.permute(0, 3, 1, 2))
        if has_map(self.shape[2]):
            rows, cols = (
                nearest_positions(have, want) for have, want in zip(images.shape[1:3], self.size, strict=True)
            )
            out[..., -1] = images[:, rows[:, None], cols, -1]
        return out

    def take(self, index: np.ndarray) -> "Centre":
        return Centre(self.stored.take(index), self.size)


def central(stored: Sequence[int], size: Sequence[int]) -> list[tuple[int, int]]:
    """Return where the middle of images of `stored` pixels (height, width) that is seen at `size` begins and ends."""
    ends = []
    for length, side in zip(stored, size, strict=False):
        seen = max(side, round(length * 7 / 8))
        first = round((length - seen) / 2)  # a half to even
        ends.append((first, first + seen))
    return ends


def stored(source: Source) -> Source:
    """Return the source of the images as they are stored, before a centre is cut from them."""
    return source.stored if isinstance(source, Centre) else source


def files_of(source: Source) -> Files | None:
    """Return the files that images come from, wherever their pixels are kept; None for images that are no files."""
    source = stored(source)
    return source if isinstance(source, Files) else getattr(source, "files", None)


def on_stored(source: Source, change: Callable[[Source], Source]) -> Source:
    """Return what `change` makes of the stored images, cropped as they were."""
    return Centre(change(source.stored), source.size) if isinstance(source, Centre) else change(source)


def has_map(channels: int) -> bool:
    """Say whether so many channels are an image, grey or RGB, and its label map."""
    return channels in (2, 4)


def nearest_positions(length: int, side: int) -> Tensor:
    """Return the position among `length` pixels that lies nearest to each of `side` when they are scaled to these."""
    return ((torch.arange(side) + 0.5) * (length / side)).long()


@dataclass(frozen=True)
class Split:
    """Images and what is known of each of them beside its pixels.

    `labels` [N, …] are its targets: class numbers, int64 [N]; boxes, float32 [N, M, 6] (see `augment/boxes.py`), in
    pixels of the stored images; nothing, int64 [N, 0], where they are label maps, which lie with the pixels. `groups`,
    int64 [N], tells which images belong together, as the frames of a sequence do; None where each stands for itself.
    """

    source: Source
    labels: Tensor
    groups: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray) -> "Split":
        """Return the images at `index`, in that order."""
        places = torch.as_tensor(index)
        return Split(self.source.take(index), self.labels[places], None if self.groups is None else self.groups[places])

    def read_from(self, source: Source) -> "Split":
        """Return the split with the same images in another place."""
        return replace(self, source=source)


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a dataset before its pixels are read.

    `shape` is (channels, height, width); `mean` and `std` are those of the training pixels in 0..1, one a channel.
    `targets` says what has a class: the image, every pixel of it (`IGNORED` where it has none), or boxes in it. `words`
    are those that the numbers of sentences stand for (`words.py`), empty for one that no training sentence has; images
    have none. As text it is what the person calls it: `called`, as the folder that it lies in, or else its name.
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    targets: TargetKind = "classes"
    words: tuple[str, ...] = ()
    called: str = ""

    def __str__(self) -> str:
        return self.called or self.name

    @property
    def noun(self) -> str:
        """What a person calls one of what it holds."""
        return "sentence" if self.words else "image"

    @property
    def examples(self) -> str:
        """What it holds, with their size: 3×32×32 images, or sentences (64 places)."""
        if self.words:
            return f"sentences ({self.shape[1]} places)"
        return f"{'×'.join(map(str, self.shape))} images"


@dataclass(frozen=True)
class Dataset:
    """The splits of a dataset; `skipped` names the bad files that were left out, `remarks` are lines for a person.

    `undivided` is the dataset before it was divided, where its images are files; `sealed` are training images that
    belong to no split, because a fold of them is held out from several runs. With `words_of_training`, words that no
    training sentence has become unknown when the dataset is divided.
    """

    info: DatasetInfo
    train: Split
    val: Split | None
    test: Split | None
    skipped: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    undivided: "Dataset | None" = None
    sealed: Split | None = None
    words_of_training: bool = False


def splits_of(dataset: Dataset) -> tuple[Split, Split | None, Split | None]:
    """Return train, val and test."""
    return dataset.train, dataset.val, dataset.test


def decode_all(
    files: Files, keep: Keep | None, on_progress: OnProgress | None = None, *, what: str = "decoding"
) -> Generator[tuple[int, InputError], None, None]:
    """Decode every file with a pool of threads and `keep` it (None: only to see whether they can be read).

    Yields the position and the error of each bad file, in the files' order. Progress goes to `on_progress`, or else to
    standard error under the title `what`.
    """

    def chunk(start: int) -> list[tuple[int, InputError]]:
        bad = []
        for position in range(start, min(start + CHUNK, len(files))):
            try:
                image = files.decode(position)
            except InputError as error:
                bad.append((position, error))
            else:
                if keep is not None:
                    keep(position, image)
        return bad

    starts = range(0, len(files), CHUNK)
    pool = ThreadPoolExecutor(THREADS)
    shown = contextlib.nullcontext(lambda count: None) if on_progress else counting(len(files), what, "image")
    try:
        with pillow_rules(), shown as add:
            for start, bad in zip(starts, pool.map(chunk, starts), strict=True):
                yield from bad
                done = min(start + CHUNK, len(files))
                add(done - start)
                if on_progress is not None:
                    on_progress(done, len(files))
    finally:
        pool.shutdown(cancel_futures=True)


def resident(source: Source, on_progress: OnProgress | None = None) -> Pixels:
    """Return `source` with its images in memory; the first bad file is an InputError that names it."""
    if isinstance(source, Pixels):
        return source
    if isinstance(source, Centre):
        source = Centre(resident(source.stored, on_progress), source.size)
    if not isinstance(source, Files):
        return Pixels(source.read(np.arange(len(source))), files_of(source))
    images = torch.empty(len(source), *source.shape, dtype=torch.uint8)
    with closing(decode_all(source, images.numpy().__setitem__, on_progress)) as bad_files:
        for _, error in bad_files:
            raise error
    return Pixels(images, source)


def spread(count: int, most: int | None) -> np.ndarray:
    """Return at most so many places among `count`, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, most or count)).round().astype(np.int64))


def grey_values(image: np.ndarray) -> np.ndarray:
    """Return how often each value is in each channel of an image, uint8 [H, W, 1 or 3]: int64 [C, 256].

    Pillow counts twice as fast as `torch.bincount`.
    """
    pixels = np.ascontiguousarray(image[..., 0] if image.shape[2] == 1 else image)
    return np.array(Image.fromarray(pixels).histogram(), dtype=np.int64).reshape(-1, 256)


def statistics(source: Source, most: int = 2000) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return each channel's mean and standard deviation in 0..1, over at most `most` evenly spaced images.

    A label map is no channel.
    """
    chosen = spread(len(source), most)
    if isinstance(stored(source), Files):
        source, chosen = resident(source.take(chosen)), np.arange(len(chosen))

    def counted(start: int) -> np.ndarray:
        images = source.read(chosen[start : start + 16]).numpy()
        channels = images.shape[3] - has_map(images.shape[3])
        counts: np.ndarray = np.sum([grey_values(image[..., :channels]) for image in images], axis=0)
        return counts

    with ThreadPoolExecutor(THREADS) as pool:
        parts = list(pool.map(counted, range(0, len(chosen), 16)))
    counts = torch.from_numpy(np.sum(parts, axis=0)).double()  # whole numbers, and so exact in any order
    share, level = counts / counts.sum(dim=1, keepdim=True), torch.arange(256, dtype=torch.float64)
    mean = share @ level
    deviation = (share * (level - mean[:, None]).square()).sum(dim=1).sqrt()
    # A channel of one value has no deviation, and dividing by it must stay possible.
    return tuple((mean / 255).tolist()), tuple((deviation.clamp(min=1) / 255).tolist())
