"""What a study says, from its finished cells: each variant against its reference, over shared seeds and over images.

The seeds are the sample of the verdicts; the images' sampling error (Wilson's interval, McNemar's test) stands beside
them. All comparisons of a study, interactions among them, are one family of Holm's correction. One with a missing cell
gets no verdict, and counts as one that shows nothing: as cells come in, a corrected p can only fall.

A score is the task's headline number, a share of images: top-1 accuracy for classification.
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from cnntrain.stats.intervals import wilson
from cnntrain.stats.paired_tests import (
    LEVEL,
    PairedTest,
    SeedImageTest,
    conclude,
    difference_words,
    discordant_pairs,
    holm_correction,
    image_tests,
    points,
    seed_test,
    sign_flip,
)
from cnntrain.stats.power import MOST_SEEDS, seeds_for_power
from cnntrain.studies.results import CellResult, Results
from cnntrain.studies.variants import SizedVariant
from cnntrain.tasks.task import Headline


@dataclass(frozen=True)
class CellRow:
    """A finished cell."""

    variant: str
    removed: tuple[str, ...]  # stages
    seed: int
    params: int
    params_removed: int  # of the first network's; negative where there are more
    macs: int | None  # of one image; None where a layer's cost is not known
    train_score: float
    score: float  # on the test images
    score_low: float  # Wilson's 95 % interval
    score_high: float
    n: int  # test images


@dataclass(frozen=True)
class VariantRow:
    """A variant over its finished seeds, and its test against its reference; what cannot be said is None."""

    variant: str
    removed: tuple[str, ...]
    n_seeds: int  # finished
    params: int
    params_removed: int
    macs: int | None
    train_score_mean: float | None
    train_score_std: float | None  # over seeds; None for one
    score_mean: float | None
    score_std: float | None
    n: int | None  # test images
    score_low: float | None  # Wilson's 95 % interval of the mean
    score_high: float | None
    test: PairedTest  # over seeds; that of a reference has no numbers
    mcnemar: tuple[SeedImageTest, ...] | None
    mcnemar_worse: int | None  # seeds with p_holm of at most 0.05
    mcnemar_better: int | None


@dataclass(frozen=True)
class InteractionRow:
    """What a variant adds to the sum of the two variants that remove its stages in parts."""

    variant: str
    parts: tuple[str, str]
    n_seeds: int  # under which all four variants are finished
    test: PairedTest


@dataclass(frozen=True)
class Answer:
    """A row for each finished cell, each variant (a reference first) and each interaction."""

    rows: list[CellRow]
    table: list[VariantRow]
    interactions: list[InteractionRow]
    complete: bool  # no cell is missing
    headline: Headline  # the number that stands for the score
    noun: str  # what a person calls an image of these

    @property
    def first(self) -> VariantRow:
        """The variant that others are compared with, all of them where there is one reference."""
        return self.table[0]

    @property
    def compared(self) -> list[VariantRow]:
        """The variants that are compared with a reference."""
        return [row for row in self.table if row.test.reference != row.variant]

    @property
    def tests(self) -> list[PairedTest]:
        """The comparisons with references, then the interactions: one family."""
        return [row.test for row in self.compared] + [row.test for row in self.interactions]

    def as_json(self) -> dict[str, Any]:
        """Return the rows with their stable keys, in which the task's headline stands for the score."""
        return {
            "rows": [named(asdict(row), self.headline) for row in self.rows],
            "table": [variant_json(row, self.headline) for row in self.table],
            "interactions": [
                {"variant": row.variant, "parts": list(row.parts), "n_seeds": row.n_seeds}
                | paired_test_json(row.test)
                | {"verdict": row.test.verdict}
                for row in self.interactions
            ],
            "complete": self.complete,
        }


def answer(
    variants: Sequence[SizedVariant],
    results: Results,
    seeds: Sequence[int],
    headline: Headline,
    level: float = LEVEL,
    again: float = 0.0,
    known: Collection[str] = (),
    noun: str = "image",
) -> Answer:
    """Return what the finished cells say about the variants; cells of other variants or seeds are left out.

    `level` is that of this look at the study, `again` that of another one; `known` was significant at an earlier one.
    Raises `ValueError` for cells of different test images.
    """
    rows = [
        cell_row(variant, seed, results[variant.name, seed])
        for variant in variants
        for seed in seeds
        if (variant.name, seed) in results
    ]
    references, unions = references_of(variants), unions_of(variants[1:])
    compared_pairs = [with_reference(*pair, results, seeds) for pair in references.items()]
    compared_pairs += [with_sum(*names, variants[0].name, results, seeds) for names in unions]
    tests = seed_tests(compared_pairs, level, again, known)
    interactions = [
        InteractionRow(both, (part, rest), len(shared((both, part, rest, variants[0].name), results, seeds)), test)
        for (both, part, rest), test in zip(unions, tests[len(references) :], strict=True)
    ]
    complete = len(rows) == len(variants) * len(seeds)
    table = variant_rows(variants, results, seeds, dict(zip(references, tests, strict=False)))
    return Answer(rows, table, interactions, complete, headline, noun)


def count_comparisons(variants: Sequence[SizedVariant]) -> int:
    """Return how many comparisons a study makes: each variant with its reference, and each interaction."""
    return len(references_of(variants)) + len(unions_of(variants[1:]))


def references_of(variants: Sequence[SizedVariant]) -> dict[str, str]:
    """Return with which variant each one is compared that is no reference itself; the first is one."""
    references = {variant.name: variant.reference or variants[0].name for variant in variants}
    return {name: reference for name, reference in references.items() if name != reference}


# Rows.


def cell_row(variant: SizedVariant, seed: int, result: CellResult) -> CellRow:
    """Return a finished cell as a row."""
    scores = result.scores
    low, high = result.interval or wilson(round(scores.test_score * scores.test_n), scores.test_n)
    return CellRow(
        variant.name,
        variant.removed,
        seed,
        variant.params,
        variant.params_removed,
        variant.macs,
        scores.train_score,
        scores.test_score,
        low,
        high,
        scores.test_n,
    )


def variant_rows(
    variants: Sequence[SizedVariant], results: Results, seeds: Sequence[int], tests: Mapping[str, PairedTest]
) -> list[VariantRow]:
    """Return a row for each variant, with the test of each that has one; those of references have scores only."""
    measured = {key: result.per_image for key, result in results.items()}
    paired = next((result.paired for result in results.values()), discordant_pairs)
    images: dict[str, list[SeedImageTest]] = {}
    for reference in dict.fromkeys(test.reference for test in tests.values()):
        names = [name for name, test in tests.items() if test.reference == reference]
        images |= image_tests(reference, names, measured, seeds, paired)
    rows = []
    for variant in variants:
        name = variant.name
        absent = missing((name,), results, seeds)
        itself = PairedTest(name, name, f"{name}: {absent}." if absent else None)
        rows.append(variant_row(variant, results, seeds, tests.get(name, itself), images.get(name)))
    return rows


def variant_row(
    variant: SizedVariant,
    results: Results,
    seeds: Sequence[int],
    test: PairedTest,
    images: Sequence[SeedImageTest] | None,
) -> VariantRow:
    """Return the row of a variant over the seeds that are finished."""
    finished = [results[variant.name, seed].scores for seed in seeds if (variant.name, seed) in results]
    mean, std = mean_and_std([scores.test_score for scores in finished])
    # All seeds are measured on the same images: the mean is no surer of them than one seed is.
    n = finished[0].test_n if finished else None
    low, high = wilson(round(mean * n), n) if n and mean is not None else (None, None)
    ends = [result.interval for (name, _), result in results.items() if name == variant.name and result.interval]
    if ends:
        low, high = np.mean(ends, axis=0).tolist()
    sure = [image for image in images or () if image.p_holm <= LEVEL]
    worse = sum(image.only_this < image.only_other for image in sure)
    tested = images is not None and test.delta is not None
    return VariantRow(
        variant.name,
        variant.removed,
        len(finished),
        variant.params,
        variant.params_removed,
        variant.macs,
        *mean_and_std([scores.train_score for scores in finished]),
        mean,
        std,
        n,
        low,
        high,
        test,
        None if images is None else tuple(images),
        worse if tested else None,
        len(sure) - worse if tested else None,
    )


def unions_of(variants: Sequence[SizedVariant]) -> list[tuple[str, str, str]]:
    """Return (both, part, rest) for each variant whose removed stages are those of two others, disjoint, together."""
    removing = [(variant, frozenset(variant.removed)) for variant in variants if variant.removed]
    return [
        (both.name, one.name, other.name)
        for both, union in removing
        for (one, a), (other, b) in itertools.combinations(removing, 2)
        if len(a) + len(b) == len(union) and a | b == union and both.control == one.control == other.control
    ]


def mean_and_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the mean and the deviation over seeds; None without values, and for the deviation of one."""
    return float(np.mean(values)) if values else None, float(np.std(values, ddof=1)) if len(values) > 1 else None


# Tests.


def missing(names: Sequence[str], results: Results, seeds: Sequence[int]) -> str | None:
    """Say which cells of the variants are missing, the first meant where none is named; None where all are there."""
    counts = {name: sum((name, seed) not in results for seed in seeds) for name in names}
    return (
        ", ".join(
            f"{count} of {len(seeds)} cells{'' if name == names[0] else f' of {name}'} "
            f"{'is' if count == 1 else 'are'} missing"
            for name, count in counts.items()
            if count
        )
        or None
    )


def shared(names: Sequence[str], results: Results, seeds: Sequence[int]) -> list[int]:
    """Return the seeds under which all the variants are finished."""
    return [seed for seed in seeds if all((name, seed) in results for name in names)]


class Compared(NamedTuple):
    """What is compared with what, and the paired differences in score by seed, or the reason why there are none."""

    name: str
    reference: str
    deltas: list[float] | str


def with_reference(name: str, reference: str, results: Results, seeds: Sequence[int]) -> Compared:
    """Return the score of a variant minus that of its reference for each seed."""
    absent = missing((name, reference), results, seeds)
    pairs = [[results[each, seed].scores.test_score for each in (name, reference)] for seed in seeds if not absent]
    return Compared(name, reference, absent or [score - other for score, other in pairs])


def with_sum(both: str, part: str, rest: str, first: str, results: Results, seeds: Sequence[int]) -> Compared:
    """Return what a variant adds to the sum of its parts: (both - first) - (part - first) - (rest - first)."""
    names = both, part, rest, first
    scores = [[results[name, seed].scores.test_score for name in names] for seed in shared(names, results, seeds)]
    sums = [union - one - other + full for union, one, other, full in scores]
    return Compared(both, sum_of(part, rest), missing(names, results, seeds) or sums)


def seed_tests(comparisons: Sequence[Compared], level: float, again: float, known: Collection[str]) -> list[PairedTest]:
    """Test each comparison, all as one family; those with a reason or one seed instead have no p."""
    ps = [
        None if isinstance(each.deltas, str) or len(each.deltas) < 2 else sign_flip(each.deltas) for each in comparisons
    ]
    tests = []
    for (name, reference, deltas), p, p_holm in zip(
        comparisons, ps, holm_correction([1.0 if p is None else p for p in ps]), strict=True
    ):
        if isinstance(deltas, str):
            tests.append(PairedTest(name, reference, f"{name}: no verdict, {deltas}."))
        elif p is None or p_holm is None:
            change = f"{name} differs from {reference} by {points(deltas[0])} points with one seed"
            sentence = f"{change}, which cannot show that a difference is significant."
            tests.append(PairedTest(name, reference, sentence, delta=deltas[0]))
        else:
            test = seed_test(name, reference, deltas, p, p_holm, len(comparisons), level)
            tests.append(test if test.significant else judged_again(test, deltas, len(comparisons), again, known))
    return tests


def judged_again(
    test: PairedTest, deltas: Sequence[float], comparisons: int, again: float, known: Collection[str]
) -> PairedTest:
    """Return a test that is not significant at this look: it was at an earlier one, or how many seeds it needs."""
    assert test.delta is not None and test.delta_low is not None and test.delta_high is not None
    if label(test.name, test.reference) in known:
        change = difference_words(test.name, test.reference, test.delta, test.delta_low, test.delta_high)
        sentence = (
            f"{change} over {len(deltas)} shared seeds: significant at an earlier look (now p = {test.p_holm:.2g})."
        )
        return replace(test, significant=True, verdict=sentence)
    anew, later = seeds_for_power(deltas, comparisons), seeds_for_power(deltas, comparisons, again)
    return replace(test, seeds_needed=anew, seeds_needed_again=later, verdict=f"{test.verdict} {needs(anew, later)}")


# In words.


def label(name: str, reference: str) -> str:
    """Return the name of a comparison."""
    return f"{name} against {reference}"


def significant(study: Answer) -> list[str]:
    """Return the names of the comparisons whose difference is significant."""
    return [label(test.name, test.reference) for test in study.tests if test.significant]


def sum_of(part: str, rest: str) -> str:
    """Name what the parts of an interaction cost alone."""
    return f"the sum of {part} and {rest}"


def needs(anew: int | None, again: int | None) -> str:
    """Say how many seeds would do, in a new study and in this one tested again."""
    start = "Seeds needed for 80 % power at this difference and standard deviation"
    if anew is None:
        return f"{start}: more than {MOST_SEEDS:,}."
    return f"{start}: {anew:,} in a new study{f', {again:,} if this one is tested again' if again else ''}."


def summary(study: Answer) -> str:
    """Return one sentence for the whole study."""
    others = [row.test for row in study.compared]
    tested = [test for test in others if test.significant is not None]
    if not tested:
        reason = "there is one seed for each variant" if study.complete else "cells are missing"
        return f"Nothing can be concluded: {reason}." if others else "There is no variant to compare with the first."
    untested = len(others) - len(tested)
    rest = f" {untested} more {'waits' if untested == 1 else 'wait'} for missing cells." if untested else ""
    return conclude(tested) + rest


# To JSON.


def named(row: Mapping[str, Any], headline: Headline) -> dict[str, Any]:
    """Return a row with the task's headline for the score in its keys, and lists as JSON has them."""
    return {
        key.replace("score", headline.key): list(value) if isinstance(value, tuple) else value
        for key, value in row.items()
    }


def variant_json(row: VariantRow, headline: Headline) -> dict[str, Any]:
    """Return the row of a variant with its stable keys."""
    keys = named(asdict(row), headline)
    del keys["test"]
    images = {key: keys.pop(key) for key in ("mcnemar", "mcnemar_worse", "mcnemar_better")}
    return keys | paired_test_json(row.test) | images | {"verdict": row.test.verdict}


def paired_test_json(test: PairedTest) -> dict[str, Any]:
    """Return a test over seeds with its stable keys."""
    return {
        "delta_mean": test.delta,
        "delta_low": test.delta_low,
        "delta_high": test.delta_high,
        "p": test.p,
        "p_holm": test.p_holm,
        "believable": test.significant,
        "seeds_wanted": test.seeds_needed,
        "seeds_again": test.seeds_needed_again,
    }
