"""Sentences drawn from a grammar, for a first try without any file: judgements that one word alone never tells.

Good and bad words stand in both classes equally often: only with the word before them (not, hardly, never) do they say
whether a sentence praises or blames.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cnntrain.data.datasets.sentences import sentence_info
from cnntrain.data.storage.images import Dataset, DatasetInfo, Pixels, Split
from cnntrain.data.storage.words import as_pixels, numbered
from cnntrain.runtime.ranges import Count, Natural
from cnntrain.runtime.seeding import generator

CLASSES = ("blame", "praise")
SUBJECTS = ("the film", "this story", "her first play", "the long book", "his new song", "the last scene")
VERBS = ("is", "was", "seems", "remains")
TURNS = ("not", "hardly", "never")
DEGREES = ("", "very", "quite", "really")
BAD, GOOD = ("dull", "weak", "clumsy", "boring", "awful"), ("bright", "moving", "clever", "funny", "superb")
ENDS = ("", "to me", "in the end", "for a sunday evening", "and i saw it twice", "though my friend slept")
PHRASES = (*SUBJECTS, *VERBS, *TURNS, *DEGREES, *BAD, *GOOD, *ENDS)
WORDS = tuple(sorted({word for phrase in PHRASES for word in phrase.split()}))
LONGEST = 12


@dataclass(frozen=True)
class Grammar:
    """Sentences such as `the film is not very dull in the end`."""

    root: Path
    train_images: Count = 1000
    test_images: Count = 500
    padding: Natural = 4

    def info(self) -> DatasetInfo:
        """Return the two classes and the words of the grammar."""
        return sentence_info("grammar", CLASSES, LONGEST + 2 * self.padding, WORDS)

    def read(self) -> Dataset:
        """Return the training and the test sentences, each drawn from a generator of its own."""
        train, test = (self.draw(*part) for part in ((self.train_images, "train"), (self.test_images, "test")))
        return Dataset(self.info(), train, None, test)

    def draw(self, number: int, part: str) -> Split:
        """Draw `number` sentences, the classes in turn."""
        rng = generator(0, "grammar", part)
        labels = np.arange(number) % 2
        sentences = [sentence(bool(label), rng) for label in labels]
        numbers = numbered(sentences, WORDS, LONGEST, self.padding)
        return Split(Pixels(as_pixels(numbers)), torch.from_numpy(labels))


def sentence(praises: bool, rng: np.random.Generator) -> list[str]:
    """Draw a sentence: half of each class is turned around by a word such as not."""

    def one(phrases: tuple[str, ...]) -> str:
        return phrases[rng.integers(len(phrases))]

    turned = bool(rng.integers(2))
    kind = GOOD if praises != turned else BAD
    parts = (one(SUBJECTS), one(VERBS), one(TURNS) if turned else "", one(DEGREES), one(kind), one(ENDS))
    return " ".join(parts).split()
