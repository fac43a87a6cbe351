"""What a study says, from its finished cells: each variant against the full network, over shared seeds and over images.

The seeds are the sample of the verdicts; the images' sampling error (Wilson's interval, McNemar's test) stands beside
them. All comparisons of a study, interactions among them, are one family of Holm's correction. One with a missing cell
gets no verdict, and counts as one that shows nothing: as cells come in, a corrected p can only fall.
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from cnntrain.stats.intervals import wilson
from cnntrain.stats.paired_tests import (
    LEVEL,
    compared,
    conclude,
    disagreement,
    holm,
    is_significant,
    mcnemar,
    points,
    seed_interval,
    seed_verdict,
    sign_flip,
)
from cnntrain.stats.power import MOST_SEEDS, seeds_wanted

TESTED = ("delta_mean", "delta_low", "delta_high", "p", "p_holm", "believable", "seeds_wanted", "seeds_again")


@dataclass(frozen=True)
class Variant:
    """One line of a study; the first is the full network that the others are held against."""

    name: str
    removed: tuple[str, ...]  # stages; none for variants of another kind
    params: int
    params_removed: int  # of the full network's; negative where there are more
    macs: int | None  # None where a layer's cost is not known
    overrides: tuple[str, ...]  # what it changes, in words
    control: str | None = None  # what it is matched in by widening; stages interact among variants matched alike only


@dataclass(frozen=True)
class Cell:
    """One variant under one seed, finished."""

    variant: str
    seed: int
    train_top1: float
    top1: float  # on the test images
    n: int
    right: np.ndarray  # truth values [n], the images in the same order in all cells


@dataclass(frozen=True)
class Answer:
    """A row for each finished cell, one for each variant, one for each interaction; complete where no cell is missing.

    rows: variant, removed, seed, params, params_removed, macs, train_top1, top1, top1_low, top1_high (Wilson), n.
    table: variant, removed, n_seeds, params, params_removed, macs, train_top1_mean, train_top1_std, top1_mean, top1_std
    (over seeds), n, top1_low, top1_high (Wilson, of the mean), delta_mean, delta_low, delta_high (top-1 minus that of
    the first), p, p_holm, believable (significant), seeds_wanted (in a new study), seeds_again (in this one, asked
    again), mcnemar (for each seed: seed, n, only_this, only_other, p, p_holm), mcnemar_worse, mcnemar_better (seeds
    with p_holm ≤ 0.05), verdict (a sentence).
    interactions: variant, parts, n_seeds, delta_mean (what the variant adds to the sum of its parts), …, verdict.
    """

    rows: list[dict[str, Any]]
    table: list[dict[str, Any]]
    interactions: list[dict[str, Any]]
    complete: bool


Found = Mapping[tuple[str, int], Cell]


def answer(
    variants: Sequence[Variant],
    cells: Sequence[Cell],
    seeds: Sequence[int],
    level: float = LEVEL,
    again: float = 0.0,
    known: Collection[str] = (),
) -> Answer:
    """Return what the finished cells say about the variants; cells of other variants or seeds are left out.

    `level` is that of this look at the study, `again` that of another one; `known` was significant at an earlier one.
    Raises `ValueError` for two cells of one variant and seed, and for cells of different test images.
    """
    found = {(cell.variant, cell.seed): cell for cell in cells}
    if len(found) < len(cells):
        raise ValueError("two cells are of one variant and seed")
    rows = [
        cell_row(variant, found[variant.name, seed])
        for variant in variants
        for seed in seeds
        if (variant.name, seed) in found
    ]
    complete = len(rows) == len(variants) * len(seeds)
    first, others = variants[0].name, [variant.name for variant in variants[1:]]
    sums = unions(variants[1:])
    held = [against_first(name, first, found, seeds) for name in others]
    held += [against_sum(*names, first, found, seeds) for names in sums]
    tests = seed_tests(held, level, again, known)
    table = variant_rows(variants, found, seeds, tests[: len(others)])
    interactions = [
        {"variant": both, "parts": [one, other], "n_seeds": len(shared((both, one, other, first), found, seeds))} | test
        for (both, one, other), test in zip(sums, tests[len(others) :], strict=True)
    ]
    return Answer(rows, table, interactions, complete)


def comparisons(variants: Sequence[Variant]) -> int:
    """Return how many comparisons a study makes: each variant against the first, and each interaction."""
    return len(variants) - 1 + len(unions(variants[1:]))


# Rows.


def plan_keys(variant: Variant) -> dict[str, Any]:
    """Return what is known of a variant before it is trained."""
    return {"variant": variant.name, "removed": list(variant.removed)}


def size_keys(variant: Variant) -> dict[str, Any]:
    """Return a variant's size."""
    return {"params": variant.params, "params_removed": variant.params_removed, "macs": variant.macs}


def cell_row(variant: Variant, cell: Cell) -> dict[str, Any]:
    """Return a finished cell as a row."""
    low, high = wilson(round(cell.top1 * cell.n), cell.n)
    measured = {"train_top1": cell.train_top1, "top1": cell.top1, "top1_low": low, "top1_high": high, "n": cell.n}
    return plan_keys(variant) | {"seed": cell.seed} | size_keys(variant) | measured


def variant_rows(
    variants: Sequence[Variant], found: Found, seeds: Sequence[int], tests: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return a row for each variant, with the test of each but the first; that of the first has accuracies only."""
    first, names = variants[0].name, [variant.name for variant in variants[1:]]
    images = image_tests(first, names, found, seeds)
    rows = [plan_keys(variant) | accuracies(variant, found, seeds) for variant in variants]
    absent = missing((first,), found, seeds)
    rows[0] |= dict.fromkeys((*TESTED, "mcnemar", "mcnemar_worse", "mcnemar_better"))
    rows[0] |= {"verdict": f"{first}: {absent}." if absent else None}
    for row, name, test in zip(rows[1:], names, tests, strict=True):
        whole = test["delta_mean"] is not None
        sure = [image for image in images[name] if whole and image["p_holm"] <= LEVEL]
        worse = sum(image["only_this"] < image["only_other"] for image in sure)
        row |= test | {"mcnemar": images[name], "mcnemar_worse": worse if whole else None}
        row |= {"mcnemar_better": len(sure) - worse if whole else None}
    return rows


def unions(variants: Sequence[Variant]) -> list[tuple[str, str, str]]:
    """Return (both, one, other) for each variant whose removed stages are those of two others, disjoint, together."""
    removing = [(variant, frozenset(variant.removed)) for variant in variants if variant.removed]
    return [
        (both.name, one.name, other.name)
        for both, whole in removing
        for (one, a), (other, b) in itertools.combinations(removing, 2)
        if len(a) + len(b) == len(whole) and a | b == whole and both.control == one.control == other.control
    ]


def accuracies(variant: Variant, found: Found, seeds: Sequence[int]) -> dict[str, Any]:
    """Return size and accuracies of a variant over the seeds that are finished; what cannot be said is None."""
    cells = [found[variant.name, seed] for seed in seeds if (variant.name, seed) in found]
    train, test = mean_and_std([cell.train_top1 for cell in cells]), mean_and_std([cell.top1 for cell in cells])
    row = {"n_seeds": len(cells)} | size_keys(variant)
    row |= {"train_top1_mean": train[0], "train_top1_std": train[1], "top1_mean": test[0], "top1_std": test[1]}
    # All seeds are measured on the same images: the mean is no surer of them than one seed is.
    n = cells[0].n if cells else None
    low, high = wilson(round(test[0] * n), n) if n and test[0] is not None else (None, None)
    return row | {"n": n, "top1_low": low, "top1_high": high}


def mean_and_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the mean and the deviation over seeds; None without values, and for the deviation of one."""
    return float(np.mean(values)) if values else None, float(np.std(values, ddof=1)) if len(values) > 1 else None


# Tests.


def missing(names: Sequence[str], found: Found, seeds: Sequence[int]) -> str | None:
    """Say which cells of the variants are missing, the first meant where none is named; None where all are there."""
    counts = {name: sum((name, seed) not in found for seed in seeds) for name in names}
    return (
        ", ".join(
            f"{count} of {len(seeds)} cells{'' if name == names[0] else f' of {name}'} "
            f"{'is' if count == 1 else 'are'} missing"
            for name, count in counts.items()
            if count
        )
        or None
    )


def shared(names: Sequence[str], found: Found, seeds: Sequence[int]) -> list[int]:
    """Return the seeds under which all the variants are finished."""
    return [seed for seed in seeds if all((name, seed) in found for name in names)]


class Held(NamedTuple):
    """What is held against what, and the paired differences in top-1 by seed, or the reason why there are none."""

    name: str
    against: str
    deltas: list[float] | str


def against_first(name: str, first: str, found: Found, seeds: Sequence[int]) -> Held:
    """Return top-1 of a variant minus that of the first for each seed."""
    absent = missing((name, first), found, seeds)
    return Held(name, first, absent or [found[name, seed].top1 - found[first, seed].top1 for seed in seeds])


def against_sum(both: str, one: str, other: str, first: str, found: Found, seeds: Sequence[int]) -> Held:
    """Return what a variant adds to the sum of its parts: (both - first) - (one - first) - (other - first)."""
    names = both, one, other, first
    top1 = [[found[name, seed].top1 for name in names] for seed in shared(names, found, seeds)]
    sums = [whole - part - rest + full for whole, part, rest, full in top1]
    return Held(both, sum_of(one, other), missing(names, found, seeds) or sums)


def seed_tests(held: Sequence[Held], level: float, again: float, known: Collection[str]) -> list[dict[str, Any]]:
    """Return the keys `TESTED` and the verdict of each comparison; None where there is a reason or one seed instead."""
    ps = [None if isinstance(one.deltas, str) or len(one.deltas) < 2 else sign_flip(one.deltas) for one in held]
    tests = []
    for (name, against, deltas), p, corrected in zip(
        held, ps, holm([1.0 if p is None else p for p in ps]), strict=True
    ):
        test: dict[str, Any] = dict.fromkeys(TESTED)
        if isinstance(deltas, str):
            sentence = f"{name}: no verdict, {deltas}."
        elif p is None or corrected is None:
            test["delta_mean"] = deltas[0]
            change = f"{name} against {against}: {points(deltas[0])} points"
            sentence = f"{change} with one seed, from which nothing can be concluded."
        else:
            mean, low, high = seed_interval(deltas)
            test |= {"delta_mean": mean, "delta_low": low, "delta_high": high, "p": p, "p_holm": corrected}
            test["believable"] = is_significant(low, high, corrected, level)
            sentence = seed_verdict(name, against, deltas, corrected, len(held), level)
            if not test["believable"] and label(name, against) in known:
                test["believable"] = True
                change = f"{compared(name, against, mean, low, high)} over {len(deltas)} shared seeds"
                sentence = f"{change}: significant at an earlier look (now p = {corrected:.2g})."
            if not test["believable"]:
                test["seeds_wanted"] = seeds_wanted(deltas, len(held))
                test["seeds_again"] = seeds_wanted(deltas, len(held), again)
                sentence += f" {needs(test['seeds_wanted'], test['seeds_again'])}"
        tests.append(test | {"verdict": sentence})
    return tests


def image_tests(
    first: str, names: Sequence[str], found: Found, seeds: Sequence[int]
) -> dict[str, list[dict[str, Any]]]:
    """Return McNemar's test of each variant against the first for each seed, corrected over the variants of a seed."""
    tests: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for seed in seeds:
        held = {
            name: disagreement(found[first, seed].right, found[name, seed].right)
            for name in names
            if {(first, seed), (name, seed)} <= found.keys()
        }
        ps = {name: mcnemar(images) for name, images in held.items()}
        corrected = dict(zip(names, holm([ps.get(name, 1.0) for name in names]), strict=True))
        for name, images in held.items():
            counts = {"seed": seed, "n": images.n, "only_this": images.only_second, "only_other": images.only_first}
            tests[name].append(counts | {"p": ps[name], "p_holm": corrected[name]})
    return tests


# In words.


def label(name: str, against: str) -> str:
    """Return the name of a comparison."""
    return f"{name} against {against}"


def significant(found: Answer) -> list[str]:
    """Return the names of the comparisons whose difference is significant."""
    first = found.table[0]["variant"]
    names = [label(row["variant"], first) for row in found.table if row["believable"]]
    return names + [label(row["variant"], sum_of(*row["parts"])) for row in found.interactions if row["believable"]]


def sum_of(one: str, other: str) -> str:
    """Name what the parts of an interaction cost alone."""
    return f"the sum of {one} and {other}"


def needs(anew: int | None, again: int | None) -> str:
    """Say how many seeds would do, in a new study and in this one asked again."""
    start = "With this difference and deviation, 80 % power takes"
    if anew is None:
        return f"{start} more than {MOST_SEEDS:,} seeds."
    return f"{start} {anew:,} seeds in a new study{f', {again:,} in this one asked again' if again else ''}."


def summary(found: Answer) -> str:
    """Return one sentence for the whole study."""
    first, *others = found.table
    tested = [row for row in others if row["believable"] is not None]
    if not tested:
        reason = "there is one seed for each variant" if found.complete else "cells are missing"
        return f"Nothing can be concluded: {reason}." if others else "There is no variant to hold against the first."
    named = [row | {"name": row["variant"], "against": first["variant"], "delta": row["delta_mean"]} for row in tested]
    untested = len(others) - len(tested)
    rest = f" {untested} more {'waits' if untested == 1 else 'wait'} for missing cells." if untested else ""
    return conclude(named) + rest
