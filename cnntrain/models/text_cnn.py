"""Kim's network for sentences: "Convolutional Neural Networks for Sentence Classification", EMNLP 2014, section 2.

Deviations: the vectors of unknown words and of padding are zero; dropout scales in training, not in testing.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cnntrain.nn.blocks import spatial
from cnntrain.nn.composite import Concat, chain
from cnntrain.nn.embedding import WordEmbedding, WordTables
from cnntrain.nn.layers import GlobalMaxPool
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, Maker, StageError, assemble, nested
from cnntrain.runtime.disk import expanded
from cnntrain.runtime.errors import InputError, as_text
from cnntrain.runtime.ranges import Count, Fraction

WINDOWS = [3, 4, 5]


def text_cnn(
    in_shape: Shape,
    num_classes: int,
    build: BuildOptions,
    *,
    windows: list[Count] = WINDOWS,
    maps: Count = 100,
    dim: Count = 300,
    tables: WordTables = "learnt",
    vectors: str | None = None,
    dropout: Fraction = 0.5,
) -> nn.Sequential:
    """Words to vectors, windows of several widths with the maximum over time, and a linear layer behind dropout.

    `vectors` is a text file of word vectors, word2vec's or GloVe's, from which the tables begin. Raises `StageError`
    where the images are no sentences, and `InputError` for such a file that does not fit.
    """
    if not build.words:
        raise StageError("text_cnn reads words, not images: take dataset=sentences, or dataset=grammar for a first try")
    if not windows or len(set(windows)) < len(windows):
        raise StageError(f"model.windows={windows}: each width once, at least one")
    if vectors is not None:
        check_vectors(expanded(vectors), dim)
    net = assemble(
        {
            "embed": lambda shape: chain(words=WordEmbedding(len(build.words), dim, tables)),
            "windows": nested(joined, {f"words{width}": window(width, maps) for width in windows}),
            "fc": dropped_linear(num_classes, dropout),
        },
        in_shape,
        out_shape=(num_classes,),
        build=build,
        keep=("embed", "windows"),
        init=kim_initial,
    )
    if vectors is not None and build.device != "meta":
        layer = net.get_submodule("embed.words")
        assert isinstance(layer, WordEmbedding)
        set_vectors(layer, build.words, expanded(vectors))
    return net


def joined(shape: Shape, inner: Mapping[str, Maker]) -> nn.Module:
    """Join windows that read the same words."""
    if not inner:
        raise ValueError("no window is left")
    return Concat(**{name: maker(shape) for name, maker in inner.items()})


def window(width: int, maps: int) -> Maker:
    """Filters over `width` words, ReLU, and the maximum over time of each map."""

    def make(shape: Shape) -> nn.Module:
        dim, length, _ = spatial(shape)
        if length < width:
            raise ValueError(f"windows of {width} words do not fit into {length}")
        return chain(conv=nn.Conv2d(dim, maps, (width, 1)), act=nn.ReLU(), pool=GlobalMaxPool())

    return make


def dropped_linear(out: int, dropout: float) -> Maker:
    """Dropout of what arrives, then one weight from each number to each output."""

    def make(shape: Shape) -> nn.Module:
        size = int(np.prod(shape))
        return chain(flatten=nn.Flatten(), dropout=nn.Dropout(dropout), linear=nn.Linear(size, out))

    return make


def kim_initial(leaf: nn.Module) -> None:
    """Filters from -0.01 to 0.01, the last layer and all biases zero, as in the code of the paper."""
    if isinstance(leaf, nn.Conv2d):
        nn.init.uniform_(leaf.weight, -0.01, 0.01)
    if isinstance(leaf, nn.Linear):
        nn.init.zeros_(leaf.weight)
    if isinstance(leaf, nn.Conv2d | nn.Linear):
        assert leaf.bias is not None
        nn.init.zeros_(leaf.bias)


# Vectors from a file.


def check_vectors(path: Path, dim: int) -> None:
    """Raise `InputError` for a file of vectors that cannot be read or has another length than `dim`."""
    for _, numbers in vector_lines(path):
        if len(numbers) < 2 or not all(map(is_number, numbers)):
            raise InputError(f"model.vectors={as_text(path)} is no text with a word and its numbers a line")
        if len(numbers) != dim:
            raise InputError(
                f"model.vectors={as_text(path)} holds vectors of {len(numbers)} numbers; take model.dim={len(numbers)}"
            )
        return
    raise InputError(f"model.vectors={as_text(path)} holds no vectors")


def vector_lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the words of a text file of vectors with their numbers; word2vec's first line, two counts, is passed over.

    Raises `InputError` where it cannot be read.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines):
                word, *numbers = re.split("[ \t]+", line.strip(" \t\r\n"))
                if word and (number or len(numbers) != 1):
                    yield word, numbers
    except OSError as error:
        raise InputError(f"model.vectors={as_text(path)} cannot be read: {error.strerror}") from error


def is_number(text: str) -> bool:
    """Say whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


@torch.no_grad()
def set_vectors(layer: WordEmbedding, words: Sequence[str], path: Path) -> None:
    """Give the words that a file has its vectors, in every table; the others keep theirs.

    Raises `InputError` for a line that is no vector of the right length, and where no word is found.
    """
    rows, found = {word: row for row, word in enumerate(words) if word}, 0
    for first, pieces in vector_lines(path):
        word = " ".join([first, *pieces[: -layer.dim]])  # some of GloVe's words hold spaces
        if (row := rows.get(word)) is None:
            continue
        try:
            vector = torch.tensor([float(number) for number in pieces[-layer.dim :]])
        except ValueError:
            vector = torch.empty(0)
        if len(vector) != layer.dim or not vector.isfinite().all():
            raise InputError(f"model.vectors={as_text(path)}: the vector of {word!r} is damaged")
        for table in layer.tables:
            table[row] = vector
        found += 1
    if not found:
        raise InputError(f"model.vectors={as_text(path)} has none of the {len(rows):,} words of the sentences")
