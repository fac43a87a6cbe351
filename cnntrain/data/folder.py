"""A tree of class folders, with or without splits, as a dataset."""

import os
from contextlib import closing
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from cnntrain.bounds import Count, Natural
from cnntrain.data.images import pillow_rules, suffixes, upright_size
from cnntrain.data.sources import Card, Dataset, Files, Split, decode_all
from cnntrain.errors import InputError, nearest

SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
PROBED = 256  # headers that are compared before a common image size is believed; decoding compares all


def folder_card(
    root: Path,
    *,
    image_size: Count | None = None,
    stored_size: Count | None = None,
    channels: Literal[1, 3] = 3,
    on_error: Literal["stop", "skip"] = "stop",
    max_skipped: Natural = 10,
) -> Card:
    """Return the card of the folder dataset at `root`: its classes are the sorted names of the class folders.

    Without `image_size` the shape is that of the images, which must agree. Images are kept at `stored_size`, of which
    7/8 or more are seen at `image_size`. Mean and standard deviation are 0 and 1 here; loading measures them.
    InputError for a missing folder, unequal splits or fewer than two classes.
    """
    splits = find_splits(root)
    classes = class_names(root, splits)
    check_stored(image_size, stored_size)
    size = (image_size, image_size) if image_size else common_size(splits["train"], classes, skip=on_error == "skip")
    return Card("folder", classes, (channels, *size), (0.0,) * channels, (1.0,) * channels)


def read_folder(
    root: Path,
    *,
    image_size: Count | None = None,
    stored_size: Count | None = None,
    channels: Literal[1, 3] = 3,
    on_error: Literal["stop", "skip"] = "stop",
    max_skipped: Natural = 10,
) -> Dataset:
    """Return the folder dataset at `root` with its images still in their files.

    `on_error="skip"` decodes every file once and leaves out at most `max_skipped` bad ones; with "stop" a bad file is
    an InputError when it is read.
    """
    card = folder_card(
        root,
        image_size=image_size,
        stored_size=stored_size,
        channels=channels,
        on_error=on_error,
        max_skipped=max_skipped,
    )
    size = (stored_size, stored_size) if stored_size else card.shape[1:]
    splits, skipped = {}, list[str]()
    for part, folder in find_splits(root).items():
        paths, labels = class_files(folder, card.classes)
        files = Files(folder, paths, size, channels, resize=image_size is not None)
        split = Split(files, torch.tensor(labels))
        if on_error == "skip":
            good, bad = readable(files, max_skipped - len(skipped))
            split, skipped = split.take(good), skipped + bad
        splits[part] = split
    return Dataset(card, splits["train"], splits.get("val"), splits.get("test"), tuple(skipped))


def check_stored(image_size: int | None, stored_size: int | None) -> None:
    """Raise an InputError where images would be stored smaller than they are seen."""
    if stored_size is not None and (image_size is None or stored_size < image_size):
        raise InputError(
            f"dataset.stored_size={stored_size} must be at least dataset.image_size, which is {image_size}"
        )


def find_splits(root: Path) -> dict[str, Path]:
    """Return the folder of each split by its standard name; a root without splits is all training images."""
    if not root.is_dir():
        raise missing_folder(root)
    found = {
        part: [root / name for name in names if (root / name).is_dir()]  # the order of SPLITS: train, val, test
        for part, names in SPLITS.items()
    }
    for folders in found.values():
        if len(folders) > 1:
            raise InputError(f"{root} has two validation folders, {folders[0].name} and {folders[1].name}; keep one")
    splits = {part: folders[0] for part, folders in found.items() if folders}
    if splits and "train" not in splits:
        raise InputError(f"{root} has a folder {next(iter(splits.values())).name} but no folder train beside it")
    return splits or {"train": root}


def subfolders(folder: Path) -> list[str]:
    """Return the sorted names of the folders in `folder` that are not hidden."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def class_names(root: Path, splits: dict[str, Path]) -> tuple[str, ...]:
    """Return the sorted names of the class folders, which must be the same in each split, and at least two."""
    classes = subfolders(splits["train"])
    for folder in splits.values():
        names = subfolders(folder)
        if names != classes:
            lacking = [f"{folder.name} lacks {', '.join(some)}" for some in [sorted(set(classes) - set(names))] if some]
            surplus = [f"train lacks {', '.join(some)}" for some in [sorted(set(names) - set(classes))] if some]
            raise InputError(f"the class folders in {root} differ between the splits: {'; '.join(lacking + surplus)}")
    if not classes:
        raise InputError(f"{splits['train']} holds no class folders: one folder of images for each class is needed")
    if len(classes) == 1:
        hint = splits["train"] / classes[0]
        raise InputError(f"{splits['train']} holds one class folder only, {classes[0]}; is dataset.root={hint} meant?")
    return tuple(classes)


def class_files(folder: Path, classes: tuple[str, ...]) -> tuple[list[str], list[int]]:
    """Return the image files below each class folder, sorted, relative to `folder`, and their labels.

    Hidden files and folders do not count, nor do files whose suffix is no image's. A class without images is an
    InputError.
    """
    paths, labels = list[str](), list[int]()
    for label, name in enumerate(classes):
        files = image_files(folder / name)
        if not files:
            raise InputError(f"the class folder {folder / name} holds no images")
        paths += (Path(name, file).as_posix() for file in files)
        labels += [label] * len(files)
    return paths, labels


def image_files(folder: Path) -> list[str]:
    """Return the image files at any depth below `folder`, relative to it, sorted."""
    files = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(place).relative_to(folder)
        files += [
            (below / name).as_posix()
            for name in names
            if not name.startswith(".") and f".{name.rpartition('.')[2].lower()}" in suffixes()
        ]
    return sorted(files)


def common_size(folder: Path, classes: tuple[str, ...], *, skip: bool) -> tuple[int, int]:
    """Return the (height, width) of the images, or an InputError that asks for dataset.image_size.

    With `skip` a file whose header cannot be read has no say.
    """
    paths, _ = class_files(folder, classes)
    probed = np.linspace(0, len(paths) - 1, min(len(paths), PROBED)).round().astype(int)
    found = dict[tuple[int, int], str]()
    with pillow_rules():
        for path in [paths[i] for i in probed]:
            try:
                found.setdefault(upright_size(folder / path), path)
            except InputError:
                if not skip:
                    raise
    if len(found) == 1:
        return next(iter(found))
    if not found:
        raise InputError(f"none of the files in {folder} can be read as an image")
    sizes = ", ".join(f"{path} is {height}x{width}" for (height, width), path in [*found.items()][:2])
    raise InputError(f"the images in {folder} differ in size ({sizes}); give dataset.image_size to resize them")


def readable(files: Files, most: int) -> tuple[np.ndarray, list[str]]:
    """Return the positions of the files that can be read and the paths of the others, at most `most` of them."""
    good, bad = np.ones(len(files), dtype=bool), list[str]()
    with closing(decode_all(files, None)) as bad_files:
        for position, error in bad_files:
            if len(bad) >= most:
                raise InputError(f"more bad files than dataset.max_skipped allows; the last: {error}") from error
            good[position] = False
            bad.append(str(files.path(position)))
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
