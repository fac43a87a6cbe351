"""Which of several ways scores more on the same images: each against each other, paired image by image."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cnntrain.runtime.tables import Row
from cnntrain.stats.jackknife import mean_band
from cnntrain.stats.paired_tests import PairedTest, holm_correction, is_significant, sign_flips

AREAS, LESS_IS_BETTER = ("insertion", "deletion"), ("deletion",)
PAIRS = (
    "The row minus the column, the mean over the same images; * is significant after Holm's "
    "correction over all pairs and scores. pairs.csv has their intervals and p."
)


@dataclass(frozen=True, eq=False)
class ImageScores:
    """One score of one method, image by image [N]."""

    method: str
    score: str
    values: np.ndarray
    threshold: float | None = None

    @property
    def counts(self) -> bool:
        """Whether the mean is a share of images."""
        return self.score not in AREAS


def all_pairs(scores: Sequence[ImageScores]) -> dict[str, list[PairedTest]]:
    """Return by score the test of each method against each one before it."""
    pairs = [pair for pair in itertools.combinations(scores, 2) if pair[0].score == pair[1].score]
    tests: dict[str, list[PairedTest]] = {}
    for (_, second), test in zip(pairs, tested([(second, first) for first, second in pairs]), strict=True):
        tests.setdefault(second.score, []).append(test)
    return tests


def tested(pairs: Sequence[tuple[ImageScores, ImageScores]]) -> list[PairedTest]:
    """Test the first of each pair against the second, image by image, corrected over all pairs."""
    if not pairs:
        return []
    differences = np.stack([first.values - second.values for first, second in pairs])
    ps = sign_flips(differences).tolist()
    return [
        difference_test(*pair, difference, p, p_holm)
        for pair, difference, p, p_holm in zip(pairs, differences, ps, holm_correction(ps), strict=True)
    ]


def difference_test(
    score: ImageScores, other: ImageScores, difference: np.ndarray, p: float, p_holm: float | None
) -> PairedTest:
    """Return the test of a score against another method's, from their differences [N] and its p."""
    delta, low, high = mean_band(difference, (-1, 1) if score.counts else None)
    significant = is_significant(low, high, p_holm)
    better = (delta > 0) != (score.score in LESS_IS_BETTER)
    verdict = "not told apart" if not significant else "better" if better else "worse"
    return PairedTest(
        score.method,
        other.method,
        verdict,
        pairs=len(difference),
        delta=delta,
        delta_low=low,
        delta_high=high,
        p=p,
        p_holm=p_holm,
        significant=significant,
    )


def pair_rows(pairs: Mapping[str, Sequence[PairedTest]]) -> list[Row]:
    """Return the rows of all pairs, which are those of `--json`."""
    return [
        {
            "score": score,
            "method": test.name,
            "other": test.reference,
            "delta": test.delta,
            "delta_low": test.delta_low,
            "delta_high": test.delta_high,
            "p": test.p,
            "p_holm": test.p_holm,
            "verdict": test.verdict,
        }
        for score, tests in pairs.items()
        for test in tests
    ]


def pair_matrix(name: str, tests: Sequence[PairedTest]) -> list[Row]:
    """Return a row for each method: its differences from those before it."""
    rows: dict[str, dict[str, object]] = {}
    methods = list(dict.fromkeys(test.reference for test in tests))
    for test in tests:
        row = rows.setdefault(test.name, {name: test.name, **dict.fromkeys(methods)})
        row[test.reference] = f"{test.delta:+.3f}{' *' if test.significant else ''}"
    return list(rows.values())
