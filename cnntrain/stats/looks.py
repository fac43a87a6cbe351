"""How often a study was tested (its looks), and the significance level that is left for testing it again.

Whoever adds seeds until a difference is significant finds one where there is none. So a study has 0.05 to spend over
all its looks (alpha spending; Lan and DeMets 1983). A first look may spend all of it, as a study that is tested once
does. What sign flips leave unspent, as their p has few values, is there for later looks: each takes half of what is
left. A study that says beforehand how often it will be tested shares the level evenly. The chances of false findings at
most add up (Bonferroni), whatever seeds the looks have in common.
"""

from collections.abc import Sequence
from typing import NamedTuple

from cnntrain.stats.paired_tests import DRAWS, EXACT_SEEDS, LEVEL, seeds_needed


class Look(NamedTuple):
    """A study tested once."""

    seeds: tuple[int, ...]
    level: float  # of significance
    spent: float  # the chance of a false finding
    found: tuple[str, ...] = ()  # the comparisons that were significant


def take_look(earlier: Sequence[Look], seeds: Sequence[int], comparisons: int, planned: int = 1) -> Look:
    """Return this look at a study of so many comparisons; at seeds that were looked at before it is that look again."""
    here = tuple(sorted(seeds))
    same = [look for look in earlier if look.seeds == here]
    others = [look for look in earlier if look.seeds != here]
    level = min(same[0].level, level_left(others)) if same else next_level(others, planned)
    cost = level_spent(len(here), comparisons, level)
    return same[0]._replace(level=level, spent=max(cost, same[0].spent)) if same else Look(here, level, cost)


def next_level(earlier: Sequence[Look], planned: int = 1) -> float:
    """Return the level of one more look; those that could find nothing do not count."""
    asked = sum(look.spent > 0 for look in earlier)
    return level_left(earlier) / (planned - asked if asked < planned else 2)


def level_left(earlier: Sequence[Look]) -> float:
    """Return what is left of the level, 0.05."""
    return max(0.0, LEVEL - sum(look.spent for look in earlier))


def level_spent(n: int, comparisons: int, level: float) -> float:
    """Return the most probable false finding, at `level` after Holm's correction, with n seeds.

    Of m comparisons without a difference Holm tests the first that is found at `level` / m or less, and p has 2^(n - 1)
    values, or as many as there are draws.
    """
    values = 2 ** (n - 1) if n <= EXACT_SEEDS else DRAWS + 1

    def chance(m: int) -> float:
        return m * int(level / m * values + 1e-9) / values

    if (needed := seeds_needed(comparisons, level)) is None or n < needed:
        return 0.0
    return max(chance(m) for m in range(1, comparisons + 1))


def look_words(earlier: Sequence[Look], now: Look, again: float) -> list[str]:
    """Say what looking more than once means for the level."""
    before = [str(len(look.seeds)) for look in earlier if look.seeds != now.seeds]
    sentences = []
    if before:
        sentences.append(
            f"This study was tested before, with {' and '.join(before)} seeds. What was significant then stays "
            f"significant. The rest is tested at the level {now.level:.2g}, so that the chance of any false finding, "
            "over all tests together, is at most 5 %."
        )
    if seeds_needed(1, again) is None:
        sentences.append("Nothing is left of the significance level 0.05: take other seeds in a new study.")
    elif again < LEVEL:
        sentences.append(f"Tested again with more seeds, this study has the level {again:.2g}.")
    return sentences
