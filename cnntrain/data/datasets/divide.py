"""A dataset as it lies to one with training, validation and test images, whose pixels are where they are read from."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from cnntrain.data.datasets.folds import HeldOut, held_out
from cnntrain.data.datasets.groups import groups_of
from cnntrain.data.datasets.splits import Member, carve, divided, strata, subset
from cnntrain.data.storage.cache import Cache, in_memory, in_pack
from cnntrain.data.storage.images import (
    Dataset,
    DatasetInfo,
    OnProgress,
    Pixels,
    Split,
    files_of,
    splits_of,
    statistics,
)
from cnntrain.data.storage.words import FIRST, UNKNOWN, as_numbers, as_pixels
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.errors import listed as listed_words
from cnntrain.runtime.ranges import NonNegative, Positive

TEST_SIZE = 0.2  # of a folder that brings no test images


def divide(
    undivided: Dataset,
    *,
    packs: Path,
    train_size: Positive | None = None,
    val_size: NonNegative = 0.1,
    folds: HeldOut | None = None,
    groups: int | str | None = None,
    root: Path | None = None,
    workers: int = 0,
    cache: Cache = "auto",
    seed: int = 0,
    only: Literal["train", "val", "test"] | None = None,
    listed: Sequence[Member] | None = None,
    on_progress: OnProgress | None = None,
) -> Dataset:
    """Return a dataset with its images divided into training, validation and test.

    Validation is carved from the training images, `val_size` of them (a number or a fraction), the same for every seed;
    0 carves none. A dataset that brings validation and test images keeps them; one that brings validation images only
    has them as its test set; one without either gives a fifth of its images as its test set. `train_size` then keeps
    that many of the training images, drawn by `seed`. Where the files of each split are `listed`, nothing is carved.

    With `folds` the test set is the fold of the training images that is held out, drawn by `seed`, and the dataset's
    own test images are left out: they stay sealed. All images of a dataset without test images are in the folds. No
    division splits `groups`, which `groups_of` finds for files below `root`.

    `cache` says where the pixels of image files are kept: "ram" decodes those of all splits, or of the split that is
    `only` asked for; "pack" decodes them once for all runs, into the folder `packs`, whatever `train_size` draws;
    "none" leaves them in their files; "auto" is "ram" without `workers` and "none" with them. InputError for sizes that
    training would stumble over.
    """
    if cache == "auto":
        cache = "none" if workers else "ram"
    dataset = undivided if listed is None else divided(undivided, listed)
    undivided, info = dataset.undivided or undivided, undivided.info
    train, val, test = splits_of(dataset)
    remarks, sealed = dataset.remarks, None
    if listed is None:
        if test is None:
            test, val = val, None
        group_names = functools.partial(names_of, groups=groups, root=root or Path())
        if groups is not None:
            refuse_shared(group_names(train), {"validation": group_names(val), "test": group_names(test)}, groups)
        if folds is not None:
            labels, classes = strata(train, info)
            rest, out = held_out(labels.numpy(), classes, folds, seed, info.name, group_names(train))
            remarks += (fold_remark(folds, len(out), test, info.noun),)
            sealed = train.take(np.setdiff1d(np.arange(len(train)), np.concatenate([rest, out])))
            train, test = train.take(rest), train.take(out)
        if test is None:
            train, test = carve(train, info, TEST_SIZE, "test", "the test set", group_names(train))
        if val is None and val_size:
            train, val = carve(train, info, val_size, "validation", "dataset.val_size", group_names(train))
    if groups is not None and info.targets != "classes":  # intervals are over groups
        train = with_groups(train, groups, root or Path())
        val, test = (split and with_groups(split, groups, root or Path()) for split in (val, test))
    if cache == "pack":
        train = in_pack(train, undivided, packs, make=only in (None, "train"))
        val = val and in_pack(val, undivided, packs, make=only in (None, "val"))
        test = test and in_pack(test, undivided, packs, make=only in (None, "test"))
    pool = train  # before train_size, so that the images are normalised alike whatever it is
    if train_size is not None and (listed is None or only in (None, "train")):
        train = subset(train, info, train_size, seed)
    if cache == "ram":
        train = in_memory(train, on_progress) if only in (None, "train") else train
        val = in_memory(val, on_progress) if val and only in (None, "val") else val
        test = in_memory(test, on_progress) if test and only in (None, "test") else test
    if dataset.words_of_training:
        info, val, test = words_of_training(info, pool, val, test)
    unknown = not (any(info.mean) or info.words)  # of a folder: known by its pixels alone
    if unknown and (only is None or listed is None):
        mean, std = statistics((train if train_size is None else pool).source)
        info = replace(info, mean=mean, std=std)
    in_files = undivided if files_of(undivided.train.source) is not None else None
    return replace(
        undivided, info=info, train=train, val=val, test=test, remarks=remarks, undivided=in_files, sealed=sealed
    )


def words_of_training(
    info: DatasetInfo, train: Split, val: Split | None, test: Split | None
) -> tuple[DatasetInfo, Split | None, Split | None]:
    """Return what is known of sentences, and those of validation and test, without words that no training one has."""
    numbers = as_numbers(train.source.read(np.arange(len(train))))
    seen = np.bincount(numbers.ravel(), minlength=FIRST + len(info.words)) > 0
    seen[:FIRST] = True
    words = tuple(word if known else "" for word, known in zip(info.words, seen[FIRST:], strict=True))

    def masked(split: Split) -> Split:
        numbers = as_numbers(split.source.read(np.arange(len(split))))
        return split.read_from(Pixels(as_pixels(np.where(seen[numbers], numbers, UNKNOWN))))

    return replace(info, words=words), val and masked(val), test and masked(test)


def names_of(split: Split | None, groups: int | str | None, root: Path) -> np.ndarray | None:
    """Return the group of each image of a split, text [N], or its sequence; None where there are none."""
    if split is None or groups is not None:
        return None if split is None or groups is None else groups_of(split, groups, root)
    return None if split.groups is None else split.groups.numpy().astype(str)


def with_groups(split: Split, groups: int | str, root: Path) -> Split:
    """Return a split that knows the group of each of its images."""
    names = groups_of(split, groups, root).astype(str)
    return replace(split, groups=torch.from_numpy(np.unique(names, return_inverse=True)[1]))


def refuse_shared(train: np.ndarray | None, others: Mapping[str, np.ndarray | None], groups: int | str | None) -> None:
    """Raise `InputError` where a group of training images lies in another split that the dataset brings as well."""
    for part, names in others.items():
        if train is not None and names is not None and (both := sorted({*train} & {*names})):
            raise InputError(
                f"dataset.groups={groups}: {listed_words(both, 2)} lie in the training and in the {part} images; move "
                "each to one of them"
            )


def fold_remark(folds: HeldOut, count: int, sealed: Split | None, noun: str) -> str:
    """Say what is held out."""
    own = f"; the {len(sealed):,} test {noun}s of the dataset stay sealed" if sealed is not None else ""
    return f"{folds.words}: its {count:,} {noun}s are the test {noun}s{own}"


def limited(dataset: Dataset, train_size: Positive | None, seed: int) -> Dataset:
    """Return a dataset with `train_size` of all its training images, those that `divide` draws."""
    if train_size is None:
        return dataset
    return replace(dataset, train=subset(dataset.train, dataset.info, train_size, seed))
