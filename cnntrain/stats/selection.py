"""The best of several scores on the same images is too good; by how much, a bootstrap of its choice says."""

import numpy as np

from cnntrain.runtime.seeding import generator

DRAWS = 1000


def corrected_best(correct: np.ndarray) -> tuple[int, float, float]:
    """Return which of several ways is best, its score, and what it is expected to score on images that did not choose.

    `correct` [ways, images] are truth values, or shares over repetitions. The choice is repeated on images drawn with
    replacement, and its score taken on those not drawn (bootstrap bias corrected cross-validation: Tsamardinos,
    Greasidou and Borboudakis, Machine Learning 107, 2018, section 4.1).
    """
    values = correct.astype(np.float64)
    images, rng, scores = values.shape[1], generator(0, "choice"), []
    for _ in range(DRAWS):
        counts = np.bincount(rng.integers(images, size=images), minlength=images)
        chosen, others = int((values @ counts).argmax()), counts == 0
        if others.any():
            scores.append(values[chosen, others].mean())
    best = int(values.mean(axis=1).argmax())
    return best, float(values[best].mean()), float(np.mean(scores))
