"""How the images of a dataset are divided: stratified, exact in number, and the same on every machine."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cnntrain.data.datasets.folds import fold_numbers
from cnntrain.data.datasets.listing import composed
from cnntrain.data.storage.images import Dataset, DatasetInfo, Files, Split, files_of, splits_of
from cnntrain.runtime.errors import InputError, as_text, unknown
from cnntrain.runtime.seeding import generator
from cnntrain.runtime.tables import counted


def class_numbers(classes: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Return the label of each wanted class; an unknown or repeated name is an InputError."""
    labels = {composed(name): label for label, name in enumerate(classes)}
    for name in wanted:
        if composed(name) not in labels:
            raise unknown("class", name, classes)
    numbers = [labels[composed(name)] for name in wanted]
    if len(set(numbers)) < len(numbers):
        raise InputError(f"dataset.classes names a class twice: {', '.join(wanted)}")
    return numbers


def wanted_classes(classes: Sequence[str], wanted: Sequence[str] | int | None) -> Sequence[str] | None:
    """Return the wanted classes by name; a number means so many, evenly spaced over all, and None means all."""
    if not isinstance(wanted, int):
        return wanted
    if wanted > len(classes):
        raise InputError(f"dataset.classes={wanted}, but there are {len(classes)} classes")
    return [classes[place * len(classes) // wanted] for place in range(wanted)]


def keep_info(info: DatasetInfo, classes: Sequence[str] | None) -> DatasetInfo:
    """Return a dataset's information for these classes only, in this order; None keeps all."""
    if classes is None:
        return info
    return replace(info, classes=tuple(info.classes[label] for label in class_numbers(info.classes, classes)))


def keep_classes(split: Split, classes: Sequence[str], wanted: Sequence[str]) -> Split:
    """Return the images of the wanted classes, labels renumbered in the order of `wanted`."""
    numbers = class_numbers(classes, wanted)
    renumbered = np.full(len(classes), -1)
    renumbered[numbers] = np.arange(len(numbers))
    labels = renumbered[split.labels.numpy()]
    index = np.flatnonzero(labels >= 0)
    return Split(split.source.take(index), torch.from_numpy(labels[index]))


def images_meant(size: float, total: int, key: str, least: int) -> int:
    """Return how many of `total` images `size` means: a whole number counts, a fraction is of the total.

    A fraction means at least `least` images; a number below it or above the total is an InputError.
    """
    if isinstance(size, int):
        if least <= size <= total:
            return size
        raise InputError(f"{key} is {size}; it must be between {least} (one a class) and {total}")
    if 0 <= size <= 1:
        return max(least, int(size * total + 0.5))
    raise InputError(f"{key} is {size}; a fraction is between 0 and 1, a count is a whole number")


def allocate(counts: np.ndarray, total: int, *, spare: int = 0) -> np.ndarray:
    """Share `total` among classes of `counts` images in proportion, by largest remainders.

    Each class gives at least one image and keeps at least `spare`. Ties go to the first class.
    """
    quota = counts * total / counts.sum()
    highest = counts - spare
    shares: np.ndarray = np.clip(np.floor(quota).astype(np.int64), 1, highest)
    while (missing := total - shares.sum()) != 0:
        gap = np.where(shares < highest, quota - shares, -np.inf) if missing > 0 else shares - quota
        if missing < 0:
            gap = np.where(shares > 1, gap, -np.inf)
        shares[np.argmax(gap)] += np.sign(missing)
    return shares


def stratified(labels: Tensor, classes: Sequence[str], shares: np.ndarray, seed: int, *words: str) -> np.ndarray:
    """Return the sorted index of `shares[c]` images of each class c.

    Each class is shuffled by its own generator, so that a smaller share lies in a larger one and the choice in one
    class does not depend on the others.
    """
    chosen = [
        generator(seed, *words, name).permutation(np.flatnonzero(labels.numpy() == label))[:share]
        for label, (name, share) in enumerate(zip(classes, shares, strict=True))
    ]
    return np.sort(np.concatenate(chosen))


def counts_of(labels: Tensor, num_classes: int) -> np.ndarray:
    """Return the number of images of each class."""
    counts: np.ndarray = np.bincount(labels.numpy(), minlength=num_classes)
    return counts


def strata(split: Split, info: DatasetInfo) -> tuple[Tensor, Sequence[str]]:
    """Return what divisions draw evenly from: the class of each image, int64 [N], and the classes' names.

    Images that have no one class are all of one kind.
    """
    if info.targets == "classes":
        return split.labels, info.classes
    return torch.zeros(len(split), dtype=torch.int64), ("image",)


def carve(
    split: Split, info: DatasetInfo, size: float, part: str, key: str, groups: np.ndarray | None = None
) -> tuple[Split, Split]:
    """Divide `split` into the rest and the carved `part`, the same for a dataset whatever the seed.

    Stratified, with at least one image a class on both sides; InputError where that cannot be. Where images lie in
    `groups`, text [N], these stay together, and `size` is met as nearly as they allow.
    """
    labels, classes = strata(split, info)
    counts = counts_of(labels, len(classes))
    if counts.min() < 2:
        name, fewest = classes[int(counts.argmin())], counted(int(counts.min()), info.noun)
        raise InputError(f"class {name!r} has {fewest}, too few to split off a {part} set ({key}={size})")
    total = images_meant(size, len(split), key, len(counts))
    if total > len(split) - len(counts):
        raise InputError(
            f"{key}={size} leaves a class without training {info.noun}s: there are {len(split)} {info.noun}s in all"
        )
    if groups is None:
        index = stratified(labels, classes, allocate(counts, total, spare=1), 0, info.name, part)
    else:
        asked = f"{key}={size}"
        index = whole_groups(labels.numpy(), classes, info.name, total, part, asked, groups)
    rest = np.setdiff1d(np.arange(len(split)), index, assume_unique=True)
    return split.take(rest), split.take(index)


def whole_groups(
    labels: np.ndarray, classes: Sequence[str], dataset: str, total: int, part: str, asked: str, groups: np.ndarray
) -> np.ndarray:
    """Return the sorted index of about `total` images that are whole groups: one of as many folds as that makes."""
    folds = max(2, min(round(len(labels) / total), len(set(groups))))
    numbers = fold_numbers(labels, classes, folds, 0, dataset, part, groups=groups, asked=asked)
    sizes = np.bincount(numbers, minlength=folds)
    return np.flatnonzero(numbers == np.abs(sizes - total).argmin())


def subset(split: Split, info: DatasetInfo, size: float, seed: int) -> Split:
    """Return `size` images of `split`, stratified, drawn by `seed`; a smaller subset lies in a larger one's classes."""
    labels, classes = strata(split, info)
    counts = counts_of(labels, len(classes))
    total = images_meant(size, len(split), "dataset.train_size", len(counts))
    return split.take(stratified(labels, classes, allocate(counts, total), seed, info.name, "train"))


# The list of which file is in which split: what a training was shown must stay known when its folder changes.


class Member(NamedTuple):
    """A file of a divided dataset."""

    split: (
        str  # train, val or test; unused: a training image that `train_size` left out; sealed: one that folds left out
    )
    part: str  # train, val or test: where it lies in the dataset, which may divide its images itself
    file: str  # relative to the folder of that part
    size: int  # bytes


PARTS = ("train", "val", "test")
UNUSED, SEALED = "unused", "sealed"


def parts_of(dataset: Dataset) -> Iterator[tuple[str, Files]]:
    """Yield the name and the files of each split whose images are files."""
    for name, split in zip(PARTS, splits_of(dataset), strict=True):
        if split is not None and (files := files_of(split.source)) is not None:
            yield name, files


def members(dataset: Dataset) -> list[Member]:
    """Return the files of a dataset, each with its split, as they lie; none where the images are no files."""
    if dataset.undivided is None:
        return []
    listed = []
    for part, files_of_part in parts_of(dataset.undivided):
        names = np.full(len(files_of_part.paths), UNUSED if part == "train" else SEALED, dtype=object)
        sealed = None if dataset.sealed is None else files_of(dataset.sealed.source)
        for name, files in (*parts_of(dataset), *([(SEALED, sealed)] if sealed else [])):
            if files.paths is files_of_part.paths:
                names[files.index] = name
        for position, place in enumerate(files_of_part.index):
            listed.append(
                Member(names[place], part, files_of_part.paths[place], files_of_part.path(position).stat().st_size)
            )
    return listed


def places(dataset: Dataset) -> dict[tuple[str, str], tuple[Files, int]]:
    """Return where each file of a dataset is, by its part and its path in it."""
    return {
        (part, files.paths[place]): (files, position)
        for part, files in parts_of(dataset)
        for position, place in enumerate(files.index)
    }


def changes(dataset: Dataset, listed: Sequence[Member]) -> list[str]:
    """Say of each listed file that is missing now, or has another size, what is wrong with it."""
    there, wrong = places(dataset), []
    for member in listed:
        files, position = there.get((member.part, member.file), (None, 0))
        path = None if files is None else files.path(position)
        if path is None or not path.exists():
            wrong.append(f"{as_text(member.file)} is missing")
        elif (size := path.stat().st_size) != member.size:
            wrong.append(f"{as_text(path)} has {size:,} bytes, not {member.size:,}")
    return wrong


def added(dataset: Dataset, listed: Sequence[Member]) -> int:
    """Return how many files a dataset has that are not listed."""
    return len(places(dataset).keys() - {(member.part, member.file) for member in listed})


def divided(undivided: Dataset, listed: Sequence[Member]) -> Dataset:
    """Return a dataset as listed, of the files that are there and of no others; what is unused is among train."""
    there = places(undivided)
    here = [member for member in listed if (member.part, member.file) in there]

    def take(part: str, splits: Sequence[str]) -> Split | None:
        base: Split | None = getattr(undivided, part)
        index = [there[m.part, m.file][1] for m in here if m.part == part and m.split in splits]
        return None if base is None else base.take(np.array(index, dtype=np.int64))

    parts = dict[str, Split | None]()
    for name in PARTS:
        splits = ("train", UNUSED) if name == "train" else (name,)
        part = next((member.part for member in listed if member.split in splits), None)  # a split lies in one part
        parts[name] = take(part, splits) if part else None
    whole_parts = {part: take(part, (*PARTS, UNUSED, SEALED)) for part in PARTS}
    return replace(undivided, **parts, undivided=replace(undivided, **whole_parts))  # type: ignore[arg-type]


def write_members(listed: Sequence[Member]) -> bytes:
    """Return a list of files as compressed CSV; names that are no text keep their bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Member._fields)
    writer.writerows(listed)
    return gzip.compress(text.getvalue().encode("utf-8", "surrogateescape"), mtime=0)


def read_members(data: bytes) -> list[Member]:
    """Return a list of files from what `write_members` made of it; ValueError where it is damaged."""
    try:
        text = gzip.decompress(data).decode("utf-8", "surrogateescape")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(str(error)) from error
    head, *rows = csv.reader(io.StringIO(text, newline=""))
    if head != list(Member._fields):
        raise ValueError(f"its columns are {', '.join(head)}")
    return [Member(split, part, file, int(size)) for split, part, file, size in rows]


def class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Return weights inverse to each class's frequency, float32 [num_classes], of mean 1 over the images.

    A class without images weighs 0.
    """
    counts = torch.bincount(labels, minlength=num_classes).double()
    weights = len(labels) / (counts.clamp(min=1) * (counts > 0).sum())
    return torch.where(counts > 0, weights, 0).float()


def pixel_weights(split: Split, classes: int) -> Tensor:
    """Return weights of classes of pixels, float32 [classes]: the median of their frequencies over each.

    A class's frequency is counted in the images that show it (Eigen and Fergus, ICCV 2015, section 4.4; SegNet); one
    without pixels weighs 0.
    """
    counts = pixel_counts(split, classes).double()
    pixels, shown = counts.sum(dim=0), (counts.sum(dim=1, keepdim=True) * (counts > 0)).sum(dim=0)
    frequencies, there = pixels / shown.clamp(min=1), pixels > 0
    return torch.where(there, frequencies[there].quantile(0.5) / frequencies, 0).float()


def pixel_counts(split: Split, classes: int) -> Tensor:
    """Return the number of pixels of each class in each image, int64 [N, classes], from label maps."""
    rows = []
    for start in range(0, len(split), 64):
        maps = split.source.read(range(start, min(start + 64, len(split))))[..., -1]
        rows += [torch.bincount(labels.flatten(), minlength=256)[:classes] for labels in maps]
    return torch.stack(rows)
