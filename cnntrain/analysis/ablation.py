"""What a study says, from its finished cells: each variant against the full network, over shared seeds and over images.

The seeds are the sample of the verdicts; the images' sampling error (Wilson's interval, McNemar's test) stands beside
them. A row with a missing cell gets no verdict, and counts in Holm's correction as one that shows nothing: as cells
come in, a corrected p can only fall.
"""

import bisect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from cnntrain.analysis.comparison import (
    LEVEL,
    believable,
    conclude,
    disagreement,
    holm,
    mcnemar,
    points,
    seed_interval,
    seed_verdict,
    seeds_needed,
    sign_flip,
)
from cnntrain.tables import wilson

POWER, MOST_SEEDS = 0.8, 1000
TESTED = ("delta_mean", "delta_low", "delta_high", "p", "p_holm", "believable", "seeds_wanted")


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
    the first), p, p_holm, believable, seeds_wanted, mcnemar (for each seed: seed, n, only_this, only_other, p, p_holm),
    mcnemar_worse, mcnemar_better (seeds with p_holm ≤ 0.05), verdict (a sentence).
    interactions: variant, parts, n_seeds, delta_mean (what the variant adds to the sum of its parts), …, verdict.
    """

    rows: list[dict[str, Any]]
    table: list[dict[str, Any]]
    interactions: list[dict[str, Any]]
    complete: bool


Found = Mapping[tuple[str, int], Cell]


def answer(variants: Sequence[Variant], cells: Sequence[Cell], seeds: Sequence[int]) -> Answer:
    """Return what the finished cells say about the variants; cells of other variants or seeds are left out.

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
    return Answer(rows, variant_rows(variants, found, seeds), interaction_rows(variants, found, seeds), complete)


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


def variant_rows(variants: Sequence[Variant], found: Found, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Return a row for each variant; that of the first has accuracies only."""
    first, names = variants[0].name, [variant.name for variant in variants[1:]]
    held = [missing((name, first), found, seeds) or differences(found, seeds, first, name) for name in names]
    images = image_tests(first, names, found, seeds)
    rows = [plan_keys(variant) | accuracies(variant, found, seeds) for variant in variants]
    absent = missing((first,), found, seeds)
    rows[0] |= dict.fromkeys((*TESTED, "mcnemar", "mcnemar_worse", "mcnemar_better"))
    rows[0] |= {"verdict": f"{first}: {absent}." if absent else None}
    for row, name, deltas, tested in zip(rows[1:], names, held, seed_tests(held), strict=True):
        whole = not isinstance(deltas, str)
        sure = [test for test in images[name] if whole and test["p_holm"] <= LEVEL]
        worse = sum(test["only_this"] < test["only_other"] for test in sure)
        row |= tested | {"mcnemar": images[name], "mcnemar_worse": worse if whole else None}
        row |= {"mcnemar_better": len(sure) - worse if whole else None}
        row |= {"verdict": verdict(name, first, deltas, tested, len(held))}
    return rows


def interaction_rows(variants: Sequence[Variant], found: Found, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Return a row for each variant that removes what two others remove: is it worse than their sum?

    The differences are (both - full) - (one - full) - (other - full), in top-1 and for each seed.
    """
    first, triples = variants[0].name, unions(variants[1:])
    held: list[list[float] | str] = []
    for names in triples:
        absent = missing((*names, first), found, seeds)
        deltas = [] if absent else [differences(found, seeds, first, name) for name in names]
        held.append(absent or [both - one - other for both, one, other in zip(*deltas, strict=True)])
    rows = []
    for (both, one, other), sums, tested in zip(triples, held, seed_tests(held), strict=True):
        row = {"variant": both, "parts": [one, other], "n_seeds": len(shared((both, one, other, first), found, seeds))}
        sentence = verdict(both, f"the sum of {one} and {other}", sums, tested, len(held))
        rows.append(row | tested | {"verdict": sentence})
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


def differences(found: Found, seeds: Sequence[int], first: str, name: str) -> list[float]:
    """Return top-1 of a variant minus that of the first for each seed that both have."""
    return [found[name, seed].top1 - found[first, seed].top1 for seed in shared((first, name), found, seeds)]


def seed_tests(held: Sequence[Sequence[float] | str]) -> list[dict[str, Any]]:
    """Return the keys `TESTED` for each row of paired differences; None where there is a reason or one seed instead."""
    ps = [sign_flip(deltas) if not isinstance(deltas, str) and len(deltas) > 1 else None for deltas in held]
    tests = []
    for deltas, p, corrected in zip(held, ps, holm([1.0 if p is None else p for p in ps]), strict=True):
        test: dict[str, Any] = dict.fromkeys(TESTED)
        if p is not None and not isinstance(deltas, str):
            mean, low, high = seed_interval(deltas)
            test |= {"delta_mean": mean, "delta_low": low, "delta_high": high, "p": p, "p_holm": corrected}
            test["believable"] = believable(low, high, corrected)
            test["seeds_wanted"] = None if test["believable"] else seeds_wanted(deltas, len(held))
        elif not isinstance(deltas, str):
            test["delta_mean"] = deltas[0]
        tests.append(test)
    return tests


def seeds_wanted(differences: Sequence[float], rows: int) -> int | None:
    """Return how many seeds would tell a difference like this one from none, in one of so many rows.

    The fewest, above those that did not, with which the t test at the two-sided level 0.05 / `rows` finds it with 80 %
    power if mean and deviation are as measured, and the sign-flip test can reach that level. None above 1,000.
    """
    mean, spread = float(np.mean(differences)), float(np.std(differences, ddof=1))
    least = max(seeds_needed(rows), len(differences) + 1)
    if abs(mean) < 1e-12:
        return None
    if spread < 1e-12:
        return least

    def power(n: int) -> float:
        edge = special.stdtrit(n - 1, 1 - LEVEL / rows / 2)
        # Further out the power is 1 and the series of the noncentral t does not converge.
        away = min(abs(mean) / spread * n**0.5, 2 * edge + 10)
        return float(1 - special.nctdtr(n - 1, away, edge))

    wanted = bisect.bisect_left(range(MOST_SEEDS + 1), POWER, lo=least, key=power)
    return wanted if wanted <= MOST_SEEDS else None


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


def verdict(name: str, first: str, deltas: Sequence[float] | str, test: Mapping[str, Any], rows: int) -> str:
    """Return the sentence about a row: why it has no verdict, or what the seeds say and how many more would tell."""
    if isinstance(deltas, str):
        return f"{name}: no verdict, {deltas}."
    if len(deltas) == 1:
        return f"{name} against {first}: {points(deltas[0])} points with one seed, from which nothing can be concluded."
    sentence = seed_verdict(name, first, deltas, test["p_holm"], rows)
    if test["believable"]:
        return sentence
    wanted = f"{test['seeds_wanted']:,}" if test["seeds_wanted"] else f"more than {MOST_SEEDS:,}"
    return f"{sentence} If it is as measured, it takes {wanted} seeds to tell in four studies of five."


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
