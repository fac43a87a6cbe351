"""Folds: the training images in parts of equal size, of which a run holds one out; stratified, groups undivided."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cnntrain.runtime.errors import InputError
from cnntrain.runtime.seeding import generator


@dataclass(frozen=True)
class HeldOut:
    """Which fold a run holds out: number `fold[0]` of `folds[0]`, counted from 0.

    Further numbers divide what is left once more, and hold out a fold of that: the folds before it are seen by nobody.
    """

    folds: tuple[int, ...]
    fold: tuple[int, ...]

    @property
    def words(self) -> str:
        """Which fold it is: fold 2 of 0 … 4."""
        return " of ".join(
            f"fold {fold} of 0 … {folds - 1}" for fold, folds in zip(self.fold[::-1], self.folds[::-1], strict=True)
        )


def held_out(
    labels: np.ndarray, classes: Sequence[str], chosen: HeldOut, seed: int, dataset: str, groups: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted places of the images that are left and of those that are held out.

    `labels` are int64 [N]; `groups` name the group of each image, whose images stay together. Raises `InputError`
    where a class would be missing on one side.
    """
    rest = np.arange(len(labels))
    out = rest[:0]
    for depth, (folds, fold) in enumerate(zip(chosen.folds, chosen.fold, strict=True)):
        words = (dataset, "folds", *map(str, chosen.fold[:depth]))
        grouped = None if groups is None else groups[rest]
        numbers = fold_numbers(labels[rest], classes, folds, seed, *words, groups=grouped)
        rest, out = rest[numbers != fold], rest[numbers == fold]
    return rest, out


def fold_numbers(
    labels: np.ndarray,
    classes: Sequence[str],
    folds: int,
    seed: int,
    *words: str,
    groups: np.ndarray | None = None,
    asked: str = "",
) -> np.ndarray:
    """Return the fold of each image, int64 [N]: every class in every fold and in what is left of it.

    Without groups the folds differ by at most one image, in each class and in all. `asked` is the setting that a
    message names. Raises `InputError` where there are too few images of a class, or too few groups.
    """
    asked = asked or f"dataset.folds={folds}"
    if groups is None:
        counts = np.bincount(labels, minlength=len(classes))
        if counts.min() < folds:
            name, count = classes[int(counts.argmin())], int(counts.min())
            raise InputError(
                f"{asked}: class {name!r} has {count}, too few for one in every fold; take "
                f"{f'at most {count} folds, or ' if count > 1 else ''}other classes with dataset.classes=[…]"
            )
        return dealt(labels, classes, folds, seed, *words)
    names, members = np.unique(groups.astype(str), return_inverse=True)
    if len(names) < folds:
        raise InputError(f"{asked}: there are {len(names)} groups only, too few for {folds} folds")
    counts = np.zeros((len(names), len(classes)), dtype=np.int64)
    np.add.at(counts, (members, labels), 1)
    numbers = packed(counts, folds, generator(seed, *words).permutation(len(names)))[members]
    refuse_missing(labels, numbers, classes, folds, asked)
    return np.asarray(numbers)


def dealt(labels: np.ndarray, classes: Sequence[str], folds: int, seed: int, *words: str) -> np.ndarray:
    """Return the fold of each image: class after class its images, shuffled, are dealt to the folds in turn."""
    numbers, given = np.empty(len(labels), dtype=np.int64), 0
    for label, name in enumerate(classes):
        places = generator(seed, *words, name).permutation(np.flatnonzero(labels == label))
        numbers[places] = (given + np.arange(len(places))) % folds
        given += len(places)
    return numbers


def packed(counts: np.ndarray, folds: int, order: np.ndarray) -> np.ndarray:
    """Return the fold of each group from its images of each class [G, C]: the largest first, each where it fits best.

    A group goes to the fold that has least of its classes so far, of equal ones to the smallest; `order` decides
    between groups of one size.
    """
    totals = counts.sum(axis=0)
    filled, numbers = np.zeros((folds, counts.shape[1])), np.empty(len(counts), dtype=np.int64)
    for group in order[np.argsort(-counts.sum(axis=1)[order], kind="stable")]:
        crowding = (filled * counts[group] / np.maximum(totals, 1) ** 2).sum(axis=1)
        numbers[group] = np.lexsort((filled.sum(axis=1), crowding.round(12)))[0]
        filled[numbers[group]] += counts[group]
    return numbers


def refuse_missing(labels: np.ndarray, numbers: np.ndarray, classes: Sequence[str], folds: int, asked: str) -> None:
    """Raise `InputError` for a class that a fold lacks."""
    for label, name in enumerate(classes):
        there = np.bincount(numbers[labels == label], minlength=folds)
        if there.min() == 0:
            raise InputError(
                f"{asked}: groups stay together, and so fold {int(there.argmin())} of {folds} has none of class "
                f"{name!r}; take fewer folds"
            )
