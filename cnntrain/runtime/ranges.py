"""Ranges as types: an annotation says what a number may be, and the configuration check reads it."""

import math
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """A closed interval of finite numbers, open at the bottom with `above=True`, at the top with `below=True`."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        over = value > self.low if self.above else value >= self.low
        return math.isfinite(value) and over and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        bottom = f"{'above' if self.above else 'at least'} {self.low:g}" if math.isfinite(self.low) else ""
        top = f"{'below' if self.below else 'at most'} {self.high:g}" if math.isfinite(self.high) else ""
        return " and ".join(part for part in (bottom, top) if part)


Count = Annotated[int, Range(low=1)]
Several = Annotated[int, Range(low=2)]
Natural = Annotated[int, Range(low=0)]
Positive = Annotated[float, Range(low=0, above=True)]
NonNegative = Annotated[float, Range(low=0)]
Fraction = Annotated[float, Range(low=0, high=1)]
PositiveFraction = Annotated[float, Range(low=0, high=1, above=True)]
Decay = Annotated[float, Range(low=0, high=1, below=True)]  # what a moving average keeps of the past: never all of it
