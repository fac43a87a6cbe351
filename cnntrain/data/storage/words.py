"""Sentences as images: each word is a pixel whose three bytes are its number, so that whatever holds images holds them.

A sentence is uint8 [length, 1, 3], the lowest byte first. Number 0 is padding, 1 an unknown word, and 2 the first of
the vocabulary.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

PADDING, UNKNOWN, FIRST = 0, 1, 2  # numbers of words
BYTES = 3
MOST_WORDS = 256**BYTES - FIRST


def as_pixels(numbers: np.ndarray) -> Tensor:
    """Return the numbers of words [N, length] as images, uint8 [N, length, 1, 3]."""
    shifts = 8 * np.arange(BYTES)
    return torch.from_numpy((numbers[:, :, None, None] >> shifts & 255).astype(np.uint8))


def as_numbers(pixels: Tensor) -> np.ndarray:
    """Return the numbers of words [N, length] of images uint8 [N, length, 1, 3]."""
    return np.asarray((pixels.numpy().astype(np.int64) << 8 * np.arange(BYTES)).sum(axis=3)[:, :, 0])


def numbered(sentences: Sequence[Sequence[str]], words: Sequence[str], length: int, padding: int) -> np.ndarray:
    """Return sentences as numbers of words, int64 [N, length + 2 padding]; longer ones are cut."""
    known = {word: number for number, word in enumerate(words, FIRST)}
    numbers = np.full((len(sentences), length + 2 * padding), PADDING, dtype=np.int64)
    for row, sentence in zip(numbers, sentences, strict=True):
        here = [known.get(word, UNKNOWN) for word in sentence[:length]]
        row[padding : padding + len(here)] = here
    return numbers


def written(numbers: Sequence[int] | np.ndarray, words: Sequence[str], padding: str = "") -> str:
    """Return a sentence, or a part of one, from the numbers of its words; where one is unknown, a question mark."""
    special = {PADDING: padding, UNKNOWN: "⟨?⟩"}
    return " ".join(filter(None, (special.get(int(n)) if n < FIRST else words[int(n) - FIRST] for n in numbers)))
