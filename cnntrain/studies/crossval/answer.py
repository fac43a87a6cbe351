"""What a cross-validation says, from its finished cells.

A repetition (a seed) predicts every image once. Its images are the sample of the pooled accuracy and of McNemar's
test: they speak of the networks that were trained. The folds of all repetitions are the sample of the corrected
resampled t test, which speaks of ways of training. All comparisons are one family of Holm's correction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from cnntrain.stats.intervals import wilson
from cnntrain.stats.paired_tests import (
    PairedTest,
    SeedImageTest,
    difference_words,
    discordant_pairs,
    holm_correction,
    image_tests,
    is_significant,
    points,
)
from cnntrain.stats.resampled import corrected_t
from cnntrain.stats.selection import corrected_best
from cnntrain.studies.results import CellResult
from cnntrain.tasks.task import Headline

Folds = Mapping[tuple[str, int, int], CellResult]  # by variant, fold and seed


@dataclass(frozen=True)
class FoldRow:
    """A finished cell: a variant on the fold that it has not seen."""

    variant: str
    fold: int
    seed: int
    n: int  # images
    score: float


@dataclass(frozen=True)
class PooledRow:
    """A variant over the repetitions that are finished; what cannot be said is None."""

    variant: str
    folds: int
    seeds: int  # finished
    n: int | None  # images, each predicted once a repetition
    score: float | None  # a mean over repetitions
    score_low: float | None  # Wilson's 95 % interval over the images
    score_high: float | None
    sd_folds: float | None  # over the folds of all repetitions
    sd_seeds: float | None  # of the pooled score over repetitions; None for one
    test: PairedTest  # over folds, against the first; that of the first has no numbers
    mcnemar: tuple[SeedImageTest, ...]


@dataclass(frozen=True)
class Choice:
    """The best of several variants, and how much too good its score is, having been chosen by it."""

    best: str
    score: float  # by which it was chosen
    corrected: float  # on images that did not choose: by bootstrap, or measured on outer folds
    nested: bool

    @property
    def optimism(self) -> float:
        """How much too good the score is."""
        return self.score - self.corrected


@dataclass(frozen=True)
class PooledAnswer:
    """A row for each finished cell and each variant, the one that others are compared with first."""

    rows: list[FoldRow]
    table: list[PooledRow]
    choice: Choice | None
    complete: bool  # no cell is missing
    headline: Headline
    noun: str  # what a person calls an image of these

    @property
    def tests(self) -> list[PairedTest]:
        """The comparisons with the first."""
        return [row.test for row in self.table[1:]]


def pool(
    variants: Sequence[str],
    results: Folds,
    folds: int,
    seeds: Sequence[int],
    ratio: float,
    headline: Headline,
    noun: str = "image",
) -> PooledAnswer:
    """Return what the finished cells say; `ratio` is images held out by images trained on."""
    correct = {
        (name, seed): np.concatenate([results[name, fold, seed].per_image for fold in range(folds)])
        for name in variants
        for seed in seeds
        if all((name, fold, seed) in results for fold in range(folds))
    }
    images = image_tests(variants[0], variants[1:], correct, seeds, discordant_pairs)
    tests = fold_tests(variants, results, folds, seeds, ratio)
    table = [
        pooled_row(name, results, correct, folds, seeds, test, images.get(name, []))
        for name, test in zip(variants, tests, strict=True)
    ]
    rows = [
        FoldRow(name, fold, seed, results[name, fold, seed].scores.test_n, results[name, fold, seed].scores.test_score)
        for seed in seeds
        for fold in range(folds)
        for name in variants
        if (name, fold, seed) in results
    ]
    complete = len(correct) == len(variants) * len(seeds)
    choice = choice_of(variants, correct, seeds) if complete else None
    return PooledAnswer(rows, table, choice, complete, headline, noun)


def pooled_row(
    name: str,
    results: Folds,
    correct: Mapping[tuple[str, int], np.ndarray],
    folds: int,
    seeds: Sequence[int],
    test: PairedTest,
    images: Sequence[SeedImageTest],
) -> PooledRow:
    """Return the row of a variant over its finished repetitions."""
    pooled = [correct[name, seed].mean() for seed in seeds if (name, seed) in correct]
    if not pooled:
        return PooledRow(name, folds, 0, None, None, None, None, None, None, test, tuple(images))
    scores = [
        results[name, fold, seed].scores.test_score
        for seed in seeds
        if (name, seed) in correct
        for fold in range(folds)
    ]
    # All repetitions predict the same images: their mean is no surer of them than one repetition is.
    n, mean = next(len(right) for (of, _), right in correct.items() if of == name), float(np.mean(pooled))
    low, high = wilson(round(mean * n), n)
    spread = float(np.std(pooled, ddof=1)) if len(pooled) > 1 else None
    sd_folds = float(np.std(scores, ddof=1))
    return PooledRow(name, folds, len(pooled), n, mean, low, high, sd_folds, spread, test, tuple(images))


def fold_tests(
    variants: Sequence[str], results: Folds, folds: int, seeds: Sequence[int], ratio: float
) -> list[PairedTest]:
    """Return the test of each variant against the first over all folds, without numbers where cells are missing."""
    first, tests = variants[0], []
    places = [(fold, seed) for seed in seeds for fold in range(folds)]
    for name in variants:
        absent = sum((each, *place) not in results for each in dict.fromkeys((first, name)) for place in places)
        reason = f"{name}: no verdict, {absent} cell{'' if absent == 1 else 's'} missing." if absent else None
        if reason or name == first:
            tests.append(PairedTest(name, first, reason))
            continue
        scores = [[results[each, *place].scores.test_score for place in places] for each in (first, name)]
        mean, low, high, p = corrected_t(np.subtract(scores[1], scores[0]).tolist(), ratio)
        tests.append(PairedTest(name, first, "", pairs=len(places), delta=mean, delta_low=low, delta_high=high, p=p))
    corrected = holm_correction([test.p for test in tests])
    return [judged(test, p_holm) if p_holm is not None else test for test, p_holm in zip(tests, corrected, strict=True)]


def judged(test: PairedTest, p_holm: float) -> PairedTest:
    """Return a test with its corrected p and its sentence."""
    assert test.delta is not None and test.delta_low is not None and test.delta_high is not None
    significant = is_significant(test.delta_low, test.delta_high, p_holm)
    over = f"over {test.pairs} folds"
    if significant:
        change = difference_words(test.name, test.reference, test.delta, test.delta_low, test.delta_high)
        verdict = f"{change} {over}: significant (corrected t, p = {p_holm:.2g})."
    else:
        ends = f"{points(test.delta_low)} … {points(test.delta_high)}"
        verdict = (
            f"{test.name} and {test.reference} do not differ significantly {over}: {points(test.delta)} points "
            f"({ends}; corrected t, p = {p_holm:.2g})."
        )
    return replace(test, p_holm=p_holm, significant=significant, verdict=verdict)


def choice_of(
    variants: Sequence[str], correct: Mapping[tuple[str, int], np.ndarray], seeds: Sequence[int]
) -> Choice | None:
    """Return the best variant with how much too good its score is; None where there is nothing to choose.

    The first repetition decides, whose folds give every image one prediction.
    """
    if len(variants) < 2:
        return None
    best, score, corrected = corrected_best(np.stack([correct[name, seeds[0]] for name in variants]))
    return Choice(variants[best], score, corrected, nested=False)


def chosen(variants: Sequence[str], inner: Mapping[str, Sequence[np.ndarray]]) -> tuple[str, float]:
    """Return the variant with the highest pooled accuracy on inner folds, the first of equal ones, and it."""
    scores = {name: float(np.concatenate(inner[name]).mean()) for name in variants}
    best = max(variants, key=lambda name: scores[name])
    return best, scores[best]


# In words, and to JSON.


def claim(answer: PooledAnswer) -> str:
    """Return the sentence that an answer comes down to."""
    first = answer.table[0]
    if first.score is None:
        return "Nothing can be said yet: cells are missing."
    if answer.choice and not answer.choice.nested:
        return (
            f"The best of {len(answer.table)} variants is {answer.choice.best}. {optimism(answer.choice, answer.noun)}"
        )
    return pooled_words(first, answer.noun)


def pooled_words(row: PooledRow, noun: str) -> str:
    """Say what a variant's pooled accuracy is."""
    if row.score is None or row.score_low is None or row.score_high is None:
        return f"{row.variant}: cells are missing."
    times = "once" if row.seeds == 1 else f"{row.seeds} times"
    return (
        f"{row.variant}: {100 * row.score:.1f} % ({100 * row.score_low:.1f} … {100 * row.score_high:.1f}) of {row.n:,} "
        f"{noun}s, each predicted {times} by a network that has not seen it."
    )


def optimism(choice: Choice, noun: str) -> str:
    """Say how much too good a score is that was chosen."""
    scores = f"{100 * choice.score:.1f} %", f"{100 * choice.corrected:.1f} %"
    if choice.nested:
        good = f"{points(choice.optimism)[1:]} points too good" if choice.optimism > 0 else "not too good here"
        return (
            f"Mean score by which it was chosen on inner folds: {scores[0]}, {good}; on outer ones it is {scores[1]}, "
            f"from networks that were trained on more {noun}s."
        )
    return (
        f"{scores[0]} is the score by which it was chosen, and so too good: {scores[1]} is expected on {noun}s that "
        f"did not choose ({points(choice.optimism)} points, by bootstrap; nested=true measures it)."
    )


def sentences(answer: PooledAnswer) -> list[str]:
    """Return what an answer says, a sentence for each comparison."""
    words = [test.verdict for test in answer.tests if test.verdict]
    if answer.table[0].test.verdict:
        words.insert(0, answer.table[0].test.verdict)
    return [*words, *([optimism(answer.choice, answer.noun)] if answer.choice and answer.choice.nested else [])]


def as_json(answer: PooledAnswer) -> dict[str, Any]:
    """Return an answer with its stable keys, in which the task's headline stands for the score."""
    key = answer.headline.key
    rows = [{name.replace("score", key): value for name, value in asdict(row).items()} for row in answer.rows]
    table = []
    for row in answer.table:
        values = {name.replace("score", key): value for name, value in asdict(row).items() if name != "test"}
        images = values.pop("mcnemar")
        test = row.test
        tested = {
            "delta_mean": test.delta,
            "delta_low": test.delta_low,
            "delta_high": test.delta_high,
            "p_corrected": test.p,
            "p_holm": test.p_holm,
            "significant": test.significant,
            "mcnemar": list(images),
            "verdict": test.verdict,
        }
        table.append(values | tested)
    choice = asdict(answer.choice) | {"optimism": answer.choice.optimism} if answer.choice else None
    return {"rows": rows, "table": table, "choice": choice, "complete": answer.complete}
