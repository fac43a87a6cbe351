"""Random numbers as a function of words: the same words give the same draws, whatever else was drawn before."""

from hashlib import sha256

import numpy as np


def generator(seed: int, *words: int | str) -> np.random.Generator:
    """Return the generator of `(seed, *words)`; no two tuples of words share a stream.

    numpy's `SeedSequence` keeps every bit of the seed, where torch's CPU generator keeps the low 32.
    """
    text = "/".join(f"{type(word).__name__}:{word}" for word in (seed, *words))
    return np.random.default_rng(np.random.SeedSequence(int.from_bytes(sha256(text.encode()).digest())))
