"""Random draws that are functions of what they are for: no generator has a state worth saving."""

import hashlib
import json

import numpy as np


def generator(seed: int, *words: int | str) -> np.random.Generator:
    """Return the generator that belongs to `seed` and `words`, the same in every process and on every machine.

    All bits of every integer count, and `3` and `"3"` are different words. The bit generator is named, not numpy's
    default, which may change.
    """
    text = json.dumps([word if isinstance(word, str) else int(word) for word in (seed, *words)])
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(int.from_bytes(digest, "big"))))
