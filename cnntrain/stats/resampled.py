"""Inference from resampling: folds share training images, so that their differences are not independent."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import special


def corrected_t(differences: Sequence[float], ratio: float) -> tuple[float, float, float, float]:
    """Return the mean of differences over folds, its 95 % interval and p: the corrected resampled t test.

    `ratio` is images held out by images trained on. The variance of the mean is taken as (1/J + ratio) s², for the J
    folds of all repetitions, in place of s²/J, which treats them as independent (Nadeau and Bengio, Machine Learning
    52, 2003, section 3; for repeated cross-validation Bouckaert and Frank 2004). Raises `ValueError` for fewer than
    two differences.
    """
    if len(differences) < 2:
        raise ValueError("a test over folds needs at least two")
    values, n = np.asarray(differences, dtype=np.float64), len(differences)
    mean, error = float(values.mean()), math.sqrt((1 / n + ratio) * values.var(ddof=1))
    half = float(special.stdtrit(n - 1, 0.975)) * error
    if error == 0:
        return mean, mean, mean, float(mean == 0)
    return mean, mean - half, mean + half, 2 * float(special.stdtr(n - 1, -abs(mean) / error))
