"""How many seeds a comparison needs: the power of the verdict itself, sign flips and interval together.

Differences are taken as normal, in units of their standard deviation, and the level is Bonferroni's, 0.05 / rows: the
least that Holm's correction grants any of the rows, so that the power holds whatever the other rows show.
"""

import bisect
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import special

from cnntrain.runtime.seeding import generator
from cnntrain.stats.paired_tests import EXACT_SEEDS, LEVEL, seeds_needed, sign_flips

POWER, MOST_SEEDS = 0.8, 1000
STUDIES = 2000  # that are simulated for a number of seeds
SIMULATED_SEEDS = 60  # beyond them the t test decides as sign flips do: their power differs by less than 0.002


def seeds_for_power(differences: Sequence[float], rows: int, level: float = LEVEL) -> int | None:
    """Return how many seeds find a difference like this one, in one of so many rows, in four studies of five.

    Mean and deviation are taken as measured. They are themselves uncertain, the more the fewer seeds they are from. The
    number is above those that were not enough; None above 1,000, and where `level` is out of reach.
    """
    mean, spread = abs(float(np.mean(differences))), float(np.std(differences, ddof=1))
    needed = seeds_needed(rows, level)
    if mean < 1e-12 or needed is None:
        return None
    least = max(needed, len(differences) + 1)
    if spread < 1e-12:
        return least
    count = bisect.bisect_left(
        range(MOST_SEEDS + 1), True, lo=least, key=lambda n: detectable(n, level / rows) <= mean / spread
    )
    return count if count <= MOST_SEEDS else None


@functools.cache
def detectable(n: int, level: float) -> float:
    """Return the smallest difference, in standard deviations, that `n` seeds find at `level` with 80 % power."""
    if n > SIMULATED_SEEDS:
        edge = float(special.stdtrit(n - 1, 1 - level / 2))
        return smallest(lambda effect: 1 - float(special.nctdtr(n - 1, effect * n**0.5, edge)), n)
    noise = standard_differences(n)
    means, half = noise.mean(axis=1), special.stdtrit(n - 1, 1 - LEVEL / 2) * noise.std(axis=1, ddof=1) / math.sqrt(n)

    def power(effect: float) -> float:
        return float(((np.abs(means + effect) > half) & (sign_flip_p(noise + effect) <= level)).mean())

    return smallest(power, n)


def smallest(power: Callable[[float], float], n: int) -> float:
    """Return where `power` of an effect reaches 80 %, to two thousandths; infinity where it does not."""
    low, high = 0.0, 12 / math.sqrt(n)
    if power(high) < POWER:
        return math.inf
    while high - low > 2e-3 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high


def standard_differences(n: int) -> np.ndarray:
    """Return the standard normal differences of many studies under `n` seeds: [studies, n].

    Their means are the quantiles of a mean rather than draws of it, which leaves little to chance.
    """
    drawn = generator(0, "studies", n).standard_normal((STUDIES, n))
    means = special.ndtri((np.arange(STUDIES) + 0.5) / STUDIES) / n**0.5
    return np.asarray(drawn - drawn.mean(axis=1, keepdims=True) + means[:, None])


def sign_flip_p(values: np.ndarray) -> np.ndarray:
    """Return the p [R] of sign flips for rows of differences [R, n].

    Beyond what is counted exactly, the distribution of the sum under random signs is expanded around the normal one, by
    its fourth and sixth cumulants (Edgeworth; Hall 1992, section 2.4).
    """
    if values.shape[1] <= EXACT_SEEDS:
        return sign_flips(values)
    squares = values * values
    variance = squares.sum(axis=1)
    x = np.abs(values.sum(axis=1)) / np.sqrt(variance)
    fourth = -2 * (squares * squares).sum(axis=1) / variance**2
    sixth = 16 * (squares * squares * squares).sum(axis=1) / variance**3
    tail = special.ndtr(-x)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    tail += density * fourth / 24 * special.eval_hermitenorm(3, x)
    tail += density * (sixth / 720 * special.eval_hermitenorm(5, x) + fourth**2 / 1152 * special.eval_hermitenorm(7, x))
    return np.asarray(2 * tail)
