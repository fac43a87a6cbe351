"""Words to vectors: the first layer of a network that reads sentences."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnntrain.nn.measures import POINTWISE, Cost, Windows
from cnntrain.nn.shapes import Shape

WordTables = Literal["learnt", "fixed", "both"]
FIRST = 2  # the number of the first word: 0 is padding and 1 an unknown word, which are vectors of zeros


class WordEmbedding(nn.Module):
    """Sentences whose words are three bytes each, [N, 3, length, 1], to `dim` maps [N, dim, length, 1].

    A word's vector is the row of a table that learns (`weight`), of one that is fixed (`fixed`), or the sum of both:
    filters that read two channels with the same weights read their sum (Kim 2014, section 2.1, "multichannel").
    """

    def __init__(self, words: int, dim: int, tables: WordTables = "learnt") -> None:
        super().__init__()
        self.words, self.dim = words, dim
        self.weight = nn.Parameter(torch.empty(words, dim)) if tables != "fixed" else None
        self.register_buffer("fixed", torch.empty(words, dim) if tables != "learnt" else None)

    @property
    def tables(self) -> list[Tensor]:
        """The tables that there are, [words, dim] each."""
        return [table for table in (self.weight, self.fixed) if isinstance(table, Tensor)]

    def reset_parameters(self) -> None:
        """Draw the vectors from -0.25 to 0.25 (Kim 2014, section 3.2); where there are two tables they begin equal."""
        first, *others = self.tables
        nn.init.uniform_(first, -0.25, 0.25)
        with torch.no_grad():
            for other in others:
                other.copy_(first)

    def numbers(self, x: Tensor) -> Tensor:
        """Return the numbers of words, int64 [N, length], of sentences [N, 3, length, 1]."""
        low, middle, high = x.round().long().unbind(1)
        return (low + 256 * middle + 65536 * high).squeeze(-1)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 3 or x.shape[3] != 1:
            raise ValueError("words are expected: 3 bytes × length × 1")
        numbers = self.numbers(x)
        rows = (numbers - FIRST).clamp_(0, self.words - 1)
        vectors = torch.stack([F.embedding(rows, table) for table in self.tables]).sum(0)
        known = (numbers >= FIRST).unsqueeze(-1)
        return (vectors * known).permute(0, 2, 1).unsqueeze(-1)

    def windows(self) -> Windows:
        return POINTWISE

    def cost(self, in_shape: Shape, out_shape: Shape) -> Cost:
        return Cost(activations=math.prod(out_shape))

    def extra_repr(self) -> str:
        return f"{self.words}, {self.dim}, tables={len(self.tables)}"
