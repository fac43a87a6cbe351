"""Intervals of proportions."""

import math


def wilson(successes: int, trials: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion, at 95 % unless another `z` is given (Wilson 1927).

    Raises `ValueError` without trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"no interval for {successes} of {trials}")
    share, spread = successes / trials, z * z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return max(0.0, centre - half), min(1.0, centre + half)
