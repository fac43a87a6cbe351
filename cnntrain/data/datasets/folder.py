"""A tree of class folders, with or without splits, as a dataset."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from cnntrain.data.datasets.listing import (
    IMAGE,
    composed,
    image_files,
    is_class,
    is_folder,
    is_seen,
    kind,
    left_out,
    walk,
)
from cnntrain.data.datasets.splits import class_numbers, wanted_classes
from cnntrain.data.storage.decode import pillow_rules, upright_size
from cnntrain.data.storage.images import Dataset, DatasetInfo, Files, Split, decode_all
from cnntrain.runtime.errors import InputError, as_text, listed, nearest
from cnntrain.runtime.ranges import Count, Natural

Left = Counter[tuple[str, str]]  # how many files of a class and a kind are no images

SPLITS = {  # in whatever case
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
LARGE = 0.1  # files that are left out to images, from which on it is a warning
PROBED = 256  # headers that are compared before a common image size is believed; decoding compares all


@dataclass(frozen=True)
class ImageFolder:
    """The tree of class folders at `root`: its classes are their sorted names.

    Without `image_size` the shape is that of the images, which must agree. Images are kept at `stored_size`, of which
    7/8 or more are seen at `image_size`. `invert` takes every value from 255. `on_error="skip"` decodes every file once
    and leaves out at most `max_skipped` bad ones; with "stop" a bad file is an `InputError` when it is read. Of
    `classes`, by name or so many, no others are looked at.
    """

    root: Path
    image_size: Count | None = None
    stored_size: Count | None = None
    channels: Literal[1, 3] = 3
    on_error: Literal["stop", "skip"] = "stop"
    max_skipped: Natural = 10
    invert: bool = False
    classes: Sequence[str] | int | None = None

    def info(self) -> DatasetInfo:
        """Return the classes and the shape; mean and standard deviation are 0 and 1 until `divide` measures them.

        Raises `InputError` for a missing folder, unequal splits or fewer than two classes.
        """
        return self.known_info

    @cached_property
    def known_info(self) -> DatasetInfo:
        """What a look at the folders, and at the headers of some images, gives."""
        splits, skip = find_splits(self.root), self.on_error == "skip"
        names = class_names(self.root, splits, self.classes)
        refuse_small_store(self.image_size, self.stored_size)
        side = self.image_size
        size = (side, side) if side else common_size(splits["train"], names, skip=skip)
        empty = (0.0,) * self.channels, (1.0,) * self.channels
        return DatasetInfo("folder", names, (self.channels, *size), *empty, called=self.root.resolve().name)

    def read(self) -> Dataset:
        """Return the images of each split, still in their files."""
        info = self.info()
        size = (self.stored_size, self.stored_size) if self.stored_size else info.shape[1:]
        splits, skipped, left, images = {}, list[str](), Left(), Counter[str]()
        for part, folder in find_splits(self.root).items():
            paths, labels, others = class_files(folder, info.classes)
            left += others
            images.update(info.classes[label] for label in labels)
            resize = self.image_size is not None
            files = Files(folder, paths, size, self.channels, resize=resize, invert=self.invert)
            split = Split(files, torch.tensor(labels))
            if self.on_error == "skip":
                good, bad = readable(files, self.max_skipped - len(skipped))
                split, skipped = split.take(good), skipped + bad
            splits[part] = split
        said = remarks(left, images)
        return Dataset(info, splits["train"], splits.get("val"), splits.get("test"), tuple(skipped), said)


def refuse_small_store(image_size: int | None, stored_size: int | None) -> None:
    """Raise an InputError where images would be stored smaller than they are seen."""
    if stored_size is not None and (image_size is None or stored_size < image_size):
        raise InputError(
            f"dataset.stored_size={stored_size} must be at least dataset.image_size, which is {image_size}"
        )


def find_splits(root: Path) -> dict[str, Path]:
    """Return the folder of each split by its standard name; a root without splits is all training images."""
    splits = split_folders(root)
    if splits and "train" not in splits:
        raise InputError(f"{root} has a folder {next(iter(splits.values())).name} but no folder train beside it")
    return splits or {"train": root}


def lone_split(root: Path) -> tuple[str, Path] | None:
    """Return the only split of a folder that has no training images: it can be measured, if not learnt from."""
    splits = split_folders(root)
    return next(iter(splits.items())) if len(splits) == 1 and "train" not in splits else None


def split_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each split by its standard name."""
    if not root.is_dir():
        raise missing_folder(root)
    names = subfolders(root)
    by_split = {part: [name for name in names if name.lower() in known] for part, known in SPLITS.items()}
    meant = [name for some in by_split.values() for name in some]
    if set(names) > set(meant) and not any(subfolders(root / name) for name in meant):
        return {}  # classes that are called so, beside others
    for part, some in by_split.items():
        if len(some) > 1:
            word = {"train": "training", "val": "validation", "test": "test"}[part]
            raise InputError(f"{root} has two {word} folders, {some[0]} and {some[1]}; keep one")
    return {part: root / some[0] for part, some in by_split.items() if some}


def subfolders(folder: Path) -> list[str]:
    """Return the sorted names of the folders in `folder` that are not hidden, nor a system's own."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if is_seen(entry.name) and is_folder(entry))
    except OSError as error:
        raise InputError(f"the folder {as_text(folder)} cannot be read: {error.strerror}") from error


def class_folders(folder: Path) -> dict[str, str]:
    """Return the names of the class folders in `folder`, sorted, by the form in which they are compared."""
    names = dict[str, str]()
    for name in subfolders(folder):
        if is_class(folder / name):
            if composed(name) in names:
                raise InputError(f"{as_text(folder)} has two folders {composed(name)}, in two spellings of Unicode")
            names[composed(name)] = name
    return names


def class_names(root: Path, splits: dict[str, Path], wanted: Sequence[str] | int | None = None) -> tuple[str, ...]:
    """Return the sorted names of the class folders, which must be the same in each split, and at least two.

    Of `wanted` classes, by name or so many, no others are looked at.
    """
    train = splits["train"]
    folders = class_folders(train)
    names = tuple(map(as_text, folders.values()))
    if not names:
        raise InputError(f"{train} holds no class folders: one folder of images for each class is needed")
    if wanted is not None:
        numbers = class_numbers(names, wanted_classes(names, wanted) or ())
        names = tuple(names[number] for number in sorted(numbers))
    for folder in splits.values():
        there = class_folders(folder)
        lacking = [name for name in names if composed(name) not in there]
        surplus = [as_text(name) for key, name in there.items() if key not in folders and wanted is None]
        if lacking or surplus:
            said = [f"{folder.name} lacks {', '.join(lacking)}"] if lacking else []
            said += [f"{train.name} lacks {', '.join(surplus)}"] if surplus else []
            common = ",".join(name for name in names if composed(name) in there)
            hint = f"; dataset.classes=[{common}] leaves the others out" if "," in common else ""
            raise InputError(f"the class folders in {root} differ between the splits: {'; '.join(said)}{hint}")
    if wanted is None:
        refuse_unlikely(train, names, divided=len(splits) > 1 or train != root)
    return names


def refuse_unlikely(folder: Path, names: Sequence[str], *, divided: bool) -> None:
    """Raise `InputError` where class folders are probably something else: one alone, or splits of other names."""
    if len(names) == 1:
        hint = folder / names[0]
        raise InputError(f"{folder} holds one class folder only, {names[0]}; is dataset.root={hint} meant?")
    places = [folder / name for name in class_folders(folder).values()]
    inner = subfolders(places[0])
    if divided or len(inner) < 2 or any(subfolders(place) != inner for place in places):
        return
    if not any(what == IMAGE and "/" not in path for place in places for path, what in walk(place)):
        raise InputError(
            f"the folders {listed(names)} in {folder} hold no images, but all hold the folders {listed(inner)}; if "
            "those are the classes, call what holds them train, val and test, or else say "
            f"dataset.classes=[{','.join(names)}]"
        )


def class_files(folder: Path, classes: Sequence[str]) -> tuple[list[str], list[int], Left]:
    """Return the image files below each class folder, sorted, relative to `folder`, their labels, and what is left out.

    A class without images is an InputError.
    """
    folders = class_folders(folder)
    paths, labels, left = list[str](), list[int](), Left()
    for label, name in enumerate(classes):
        files, others = image_files(folder / folders[composed(name)])
        if not files:
            hint = f" ({left_out(others)})" if others else ""
            raise InputError(
                f"the class folder {folder / name} holds no images{hint}; dataset.classes=[...] can leave it out"
            )
        paths += (Path(folders[composed(name)], file).as_posix() for file in files)
        labels += [label] * len(files)
        left.update({(name, what): count for what, count in others.items()})
    for what in beside(folder):
        left["", f"{what} outside the class folders"] += 1
    return paths, labels, left


def beside(folder: Path) -> Iterator[str]:
    """Yield what lies beside the class folders in `folder` and was probably meant for one: images and broken links."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_seen(entry.name) and not is_folder(entry):
                if entry.is_symlink() and not Path(entry).exists():
                    yield "broken link"
                elif kind(entry) == IMAGE:
                    yield IMAGE


def remarks(left: Left, images: Counter[str]) -> tuple[str, ...]:
    """Say in a line what is left out of folders that hold so many `images` by class; nothing where nothing is."""
    if not left:
        return ()
    kinds, out = Counter[str](), Counter[str]()
    for (name, what), count in left.items():
        kinds[what] += count
        out[name] += count
    line = left_out(kinds)
    large = [(name, n, images[name]) for name, n in out.most_common() if name and n > LARGE * images[name]]
    much = [f"{n:,} of {n + left_in:,} in {name}" for name, n, left_in in large]
    return (f"warning: {line}; {listed(much)}" if much else line,)


def common_size(folder: Path, classes: tuple[str, ...], *, skip: bool) -> tuple[int, int]:
    """Return `one_size` of the images of some classes."""
    paths, *_ = class_files(folder, classes)
    return one_size(folder, paths, skip=skip)


def one_size(folder: Path, paths: Sequence[str], *, skip: bool) -> tuple[int, int]:
    """Return the (height, width) of the images, or an InputError that asks for dataset.image_size.

    With `skip` a file whose header cannot be read has no say.
    """
    probed = np.linspace(0, len(paths) - 1, min(len(paths), PROBED)).round().astype(int)
    by_size = dict[tuple[int, int], str]()
    with pillow_rules():
        for path in [paths[i] for i in probed]:
            try:
                by_size.setdefault(upright_size(folder / path), path)
            except InputError:
                if not skip:
                    raise
    if len(by_size) == 1:
        return next(iter(by_size))
    if not by_size:
        raise InputError(f"none of the files in {folder} can be read as an image")
    sizes = ", ".join(f"{path} is {height}x{width}" for (height, width), path in [*by_size.items()][:2])
    raise InputError(f"the images in {folder} differ in size ({sizes}); give dataset.image_size to resize them")


def readable(files: Files, most: int) -> tuple[np.ndarray, list[str]]:
    """Return the positions of the files that can be read and the paths of the others, at most `most` of them."""
    good, bad = np.ones(len(files), dtype=bool), list[str]()
    with closing(decode_all(files, None)) as bad_files:
        for position, error in bad_files:
            if len(bad) >= most:
                raise InputError(f"more bad files than dataset.max_skipped allows; the last: {error}") from error
            good[position] = False
            bad.append(as_text(files.path(position)))
    return np.flatnonzero(good), bad


def missing_folder(folder: Path) -> InputError:
    """Build the error for a folder that is not there, with the nearest one that is."""
    if folder.exists():
        return InputError(f"{folder} is a file, not a folder of class folders")
    parent = folder.parent
    while not parent.is_dir():
        folder, parent = parent, parent.parent
    match = nearest(folder.name, subfolders(parent))
    holds = ", ".join(subfolders(parent)[:8]) or "no folders"
    hint = f"did you mean {parent / match}?" if match else f"{parent} holds {holds}"
    return InputError(f"there is no folder {folder}; {hint}")
