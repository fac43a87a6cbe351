"""Whether classifiers differ: paired tests and intervals, over images and over seeds, and what they allow to say.

Two networks on the same images are two fixed things, and the images are the sample; two ways of training over the same
seeds are the question people mean, and the seeds are the sample. The two are tested apart.
"""

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

T = TypeVar("T")
LEVEL = 0.05
EXACT_SEEDS = 12  # up to here every pattern of signs is counted, beyond it many are drawn
DRAWS, SIGNS_AT_ONCE = 99_999, 5_000_000


class DiscordantPairs(NamedTuple):
    """Two classifiers on the same `n` images: how many only one of them gets right."""

    only_first: int
    only_second: int
    n: int

    @property
    def delta(self) -> float:
        """Accuracy of the second minus that of the first."""
        return (self.only_second - self.only_first) / self.n


@dataclass(frozen=True)
class PairedScores:
    """Two networks on the same `n` images, by a score of all images that no image has right or wrong."""

    n: int
    only_first: int  # images on which the first alone is better
    only_second: int
    delta: float  # the second's score minus the first's
    low: float  # 95 % interval
    high: float
    p: float  # two-sided


Pairs = DiscordantPairs | PairedScores


@dataclass(frozen=True)
class PairedTest:
    """One comparison, `name` minus `reference`, over the same images or over shared seeds.

    Differences are in accuracy as a share: 0.01 is one percentage point. What is not tested is None.
    """

    name: str
    reference: str
    verdict: str | None  # a sentence; None for the reference itself
    pairs: int | None = None  # images, or seeds
    only_this: int | None = None  # images that only `name` gets right; None over seeds
    only_reference: int | None = None  # images that only `reference` gets right; None over seeds
    delta: float | None = None  # over seeds the mean
    delta_low: float | None = None  # 95 % interval: Tango's over images, Student's over seeds
    delta_high: float | None = None
    p: float | None = None  # two-sided: McNemar's test over images, sign flips over seeds
    p_holm: float | None = None  # after Holm's correction over all comparisons of the family
    significant: bool | None = None
    seeds_needed: int | None = None  # for 80 % power in a new study; None unless asked, and for more than 1,000
    seeds_needed_again: int | None = None  # the same for this study asked again, at the level that is left
    seeds: tuple[int, ...] = ()  # those that both share, where runs are compared over seeds


@dataclass(frozen=True)
class SeedImageTest:
    """The test of a variant against the first under one seed, on the test images: McNemar's for accuracies."""

    seed: int
    n: int  # images
    only_this: int  # images that only the variant has right
    only_other: int  # images that only the first has right
    p: float
    p_holm: float  # corrected over the variants of this seed


def discordant_pairs(first: np.ndarray, second: np.ndarray) -> DiscordantPairs:
    """Count the images that only one of two classifiers gets right, from truth values [N] in the same order."""
    if first.shape != second.shape or first.ndim != 1 or len(first) == 0:
        raise ValueError(f"outcomes of shapes {first.shape} and {second.shape} are not of the same images")
    return DiscordantPairs(int((first & ~second).sum()), int((second & ~first).sum()), len(first))


def mcnemar(pairs: DiscordantPairs) -> float:
    """Return the exact two-sided p of McNemar's test: given a disagreement, either is right with probability 1/2.

    The binomial distribution is used at any number of disagreements (McNemar 1947 approximates it by chi-squared).
    """
    from scipy import special

    total = pairs.only_first + pairs.only_second
    fewer = min(pairs.only_first, pairs.only_second)
    return min(1.0, 2 * float(special.bdtr(fewer, total, 0.5)))


def p_of(pairs: Pairs) -> float:
    """Return the two-sided p of a comparison over images."""
    return pairs.p if isinstance(pairs, PairedScores) else mcnemar(pairs)


def interval_of(pairs: Pairs) -> tuple[float, float]:
    """Return the 95 % interval of a difference over images."""
    return (pairs.low, pairs.high) if isinstance(pairs, PairedScores) else image_interval(pairs)


def image_interval(pairs: DiscordantPairs, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return the interval of the difference in accuracy over images, at 95 % unless another `z` is given.

    Tango's score interval for paired proportions (1998, equations 6 to 9), which holds for few disagreements too: the
    differences from which what was seen lies less than `z` standard errors away.
    """
    from scipy import optimize

    observed = pairs.delta

    def score(delta: float) -> float:
        gap = pairs.only_second - pairs.only_first - pairs.n * delta
        if gap == 0:
            return 0.0
        # The likeliest share of images that only the first gets right, if `delta` were the difference.
        linear = (2 * pairs.n - pairs.only_second + pairs.only_first) * delta - pairs.only_second - pairs.only_first
        constant = -pairs.only_first * delta * (1 - delta)
        share = (math.sqrt(linear**2 - 8 * pairs.n * constant) - linear) / (4 * pairs.n)
        return gap / math.sqrt(pairs.n * (2 * share + delta * (1 - delta)))

    edge = 1 - 1e-12
    low = optimize.brentq(lambda delta: score(delta) - z, -edge, observed) if observed > -edge else -1.0
    high = optimize.brentq(lambda delta: score(delta) + z, observed, edge) if observed < edge else 1.0
    return float(low), float(high)


def seed_interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of paired differences and its 95 % t interval over seeds.

    Raises `ValueError` for fewer than two.
    """
    if len(differences) < 2:
        raise ValueError("an interval over seeds needs at least two")
    from scipy import special

    values, n = np.asarray(differences, dtype=np.float64), len(differences)
    mean = float(values.mean())
    half = float(special.stdtrit(n - 1, 0.975) * values.std(ddof=1) / math.sqrt(n))
    return mean, mean - half, mean + half


def sign_flip(differences: Sequence[float]) -> float:
    """Return the two-sided p of the sign-flip permutation test of paired differences (Fisher 1935, section 21).

    It is exact for up to 12 differences. Beyond, the share among 99,999 draws, the observed signs counted with them.
    """
    return float(sign_flips(np.asarray(differences, dtype=np.float64)[None])[0])


def sign_flips(values: np.ndarray) -> np.ndarray:
    """Return the p [R] of the sign-flip test for each row of differences [R, n]; all rows share the draws of signs."""
    if values.shape[1] <= EXACT_SEEDS:
        return np.asarray((np.abs(sign_patterns(values.shape[1]) @ values.T) >= reached(values)).mean(axis=0))
    rng, as_far, at_once = np.random.default_rng(0), np.ones(len(values)), -(-SIGNS_AT_ONCE // values.shape[1])
    for start in range(0, DRAWS, at_once):
        signs = rng.choice((-1.0, 1.0), size=(min(at_once, DRAWS - start), values.shape[1]))
        as_far += (np.abs(signs @ values.T) >= reached(values)).sum(axis=0)
    return np.asarray(as_far / (DRAWS + 1))


def reached(values: np.ndarray) -> np.ndarray:
    """Return the sums [...] of differences [..., n] that a pattern of signs must reach.

    Accuracies are ratios of counts: sums that are equal on paper differ in the last digits.
    """
    return np.asarray(np.abs(values.sum(axis=-1)) - 1e-9 * np.abs(values).sum(axis=-1))


@functools.cache
def sign_patterns(n: int) -> np.ndarray:
    """Return the patterns of n signs, ±1 of shape [2ⁿ⁻¹, n], whose first is +: the others turn the sum."""
    return np.array([(1.0, *signs) for signs in itertools.product((-1.0, 1.0), repeat=n - 1)])


def holm_correction(ps: Sequence[float | None]) -> list[float | None]:
    """Return the p of each row after Holm's correction over the rows that have one (Holm 1979)."""
    order = sorted((p, row) for row, p in enumerate(ps) if p is not None)
    corrected: list[float | None] = [None] * len(ps)
    largest = 0.0
    for rank, (p, row) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        corrected[row] = largest
    return corrected


def seeds_needed(rows: int, level: float = LEVEL) -> int | None:
    """Return the fewest shared seeds with which a row of so many can reach `level` after Holm's correction.

    With n seeds the smallest two-sided p is 2^(1 - n); None where `level` is below what the draws can show.
    """
    return None if level / rows < 1 / (DRAWS + 1) else 1 + math.ceil(math.log2(rows / level) - 1e-9)


def is_significant(low: float, high: float, p: float | None, level: float = LEVEL) -> bool:
    """Say whether a difference is significant: corrected p and interval agree that it is not zero."""
    return p is not None and p <= level + 1e-12 and not low <= 0 <= high


# Comparisons with a reference: tested, or not, for a reason (text).


def compare_over_images(
    reference: str, names: Sequence[str], outcomes: Sequence[Pairs | str], noun: str = "image"
) -> list[PairedTest]:
    """Test each network against `reference` on the same images; an outcome that is text says why it cannot be.

    `noun` is what a person calls an image of these.
    """
    ps = [None if isinstance(pairs, str) else p_of(pairs) for pairs in outcomes]
    tests = []
    for name, pairs, p, p_holm in zip(names, outcomes, ps, holm_correction(ps), strict=True):
        if isinstance(pairs, str) or p_holm is None:
            tests.append(PairedTest(name, reference, f"{name} cannot be compared with {reference}: {pairs}."))
            continue
        low, high = interval_of(pairs)
        tests.append(
            PairedTest(
                name,
                reference,
                image_verdict(name, reference, pairs, p_holm, noun),
                pairs=pairs.n,
                only_this=pairs.only_second,
                only_reference=pairs.only_first,
                delta=pairs.delta,
                delta_low=low,
                delta_high=high,
                p=p,
                p_holm=p_holm,
                significant=is_significant(low, high, p_holm),
            )
        )
    return tests


def image_tests(
    first: str,
    names: Sequence[str],
    measured: Mapping[tuple[str, int], T],
    seeds: Sequence[int],
    paired: Callable[[T, T], Pairs],
) -> dict[str, list[SeedImageTest]]:
    """Return the test of each variant against the first over images, for each seed, corrected over its variants.

    `measured` says what a variant and a seed give on the images, in the same order for all, which `paired` compares.
    """
    tests: dict[str, list[SeedImageTest]] = {name: [] for name in names}
    for seed in seeds:
        pairs = {
            name: paired(measured[first, seed], measured[name, seed])
            for name in names
            if {(first, seed), (name, seed)} <= measured.keys()
        }
        ps = {name: p_of(counts) for name, counts in pairs.items()}
        corrected = dict(zip(names, holm_correction([ps.get(name, 1.0) for name in names]), strict=True))
        for name, counts in pairs.items():
            p_holm = corrected[name]
            assert p_holm is not None
            tests[name].append(SeedImageTest(seed, counts.n, counts.only_second, counts.only_first, ps[name], p_holm))
    return tests


def compare_over_seeds(
    reference: str, names: Sequence[str], differences: Sequence[Sequence[float] | str]
) -> list[PairedTest]:
    """Test each way of training against `reference` by its differences over shared seeds, or text that says why not."""
    ps = [None if isinstance(deltas, str) else sign_flip(deltas) for deltas in differences]
    tested = sum(p is not None for p in ps)
    tests = []
    for name, deltas, p, p_holm in zip(names, differences, ps, holm_correction(ps), strict=True):
        if isinstance(deltas, str) or p is None or p_holm is None:
            tests.append(PairedTest(name, reference, f"{name} cannot be compared with {reference}: {deltas}."))
        else:
            tests.append(seed_test(name, reference, deltas, p, p_holm, tested))
    return tests


def seed_test(
    name: str, reference: str, deltas: Sequence[float], p: float, p_holm: float, comparisons: int, level: float = LEVEL
) -> PairedTest:
    """Return the test of one of so many comparisons over seeds, from its differences and its p."""
    mean, low, high = seed_interval(deltas)
    return PairedTest(
        name,
        reference,
        seed_verdict(name, reference, deltas, p_holm, comparisons, level),
        pairs=len(deltas),
        delta=mean,
        delta_low=low,
        delta_high=high,
        p=p,
        p_holm=p_holm,
        significant=is_significant(low, high, p_holm, level),
    )


# In words.


def points(share: float | None) -> str:
    """Write a difference of proportions in percentage points: +1.20; nothing for None."""
    if share is None:
        return ""
    return f"{100 * share:+.2f}"


def difference_words(name: str, reference: str, delta: float, low: float, high: float) -> str:
    """Say which is better and by how much."""
    words = "better than" if delta > 0 else "worse than" if delta < 0 else "as good as"
    return f"{name} is {words} {reference} by {points(abs(delta))[1:]} points ({points(low)} … {points(high)})"


def image_verdict(name: str, first: str, pairs: Pairs, p: float, noun: str) -> str:
    """Return the sentence about two networks on the same images, from the corrected p."""
    low, high = interval_of(pairs)
    measured = f"{pairs.only_second:,} {noun}s right only by {name}, {pairs.only_first:,} only by {first}; p = {p:.2g}"
    if isinstance(pairs, PairedScores):
        measured = f"{name} is better on {pairs.only_second:,} {noun}s, worse on {pairs.only_first:,}; p = {p:.2g}"
    if is_significant(low, high, p):
        sentence = difference_words(name, first, pairs.delta, low, high)
        return f"{sentence} on {noun}s like these: significant for these two networks ({measured})."
    return (
        f"{name} and {first} do not differ significantly on {pairs.n:,} {noun}s: "
        f"{points(pairs.delta)} points ({points(low)} … {points(high)}; {measured})."
    )


def seed_verdict(name: str, first: str, differences: Sequence[float], p: float, rows: int, level: float = LEVEL) -> str:
    """Return the sentence about two ways of training over shared seeds, from the corrected p of one of `rows` rows."""
    mean, low, high = seed_interval(differences)
    n, needed = len(differences), seeds_needed(rows, level)
    if is_significant(low, high, p, level):
        after = " after Holm's correction" if rows > 1 else ""
        return (
            f"{difference_words(name, first, mean, low, high)} over {n} shared seeds: significant (p = {p:.2g}{after})."
        )
    start = f"{name} and {first} do not differ significantly over {n} shared seeds: {points(mean)} points"
    ends = f"{points(low)} … {points(high)}"
    if needed is None:
        return f"{start} ({ends}). Nothing is left of the significance level."
    if n < needed:
        asked = "One comparison needs" if rows == 1 else f"{rows} comparisons need"
        at = "" if level == LEVEL else f" at the level {level:.2g}"
        return f"{start} ({ends}). {asked} at least {needed} seeds{at}."
    return f"{start} ({ends}; p = {p:.2g})."


def conclude(tests: Sequence[PairedTest]) -> str:
    """Return one sentence for all comparisons: that of a single one, else how many are significant and which."""
    if len(tests) == 1:
        return str(tests[0].verdict)
    tested = [test for test in tests if test.significant is not None]
    significant = [f"{test.name} ({points(test.delta)} points)" for test in tested if test.significant]
    count = f"{len(tested)} difference{'' if len(tested) == 1 else 's'} from {tests[0].reference}"
    correction = " after Holm's correction" if len(tested) > 1 else ""
    which = f"{len(significant) or 'none'} {'are' if len(significant) > 1 else 'is'} significant{correction}"
    return f"Of {count}, {which}{': ' + ', '.join(significant) if significant else ''}."
