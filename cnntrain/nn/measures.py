"""The terms in which a layer says what it reads and what it costs.

A position i of a map sees the input positions [i·jump + low, i·jump + high] on each axis; a layer that reads
[i·stride + low, i·stride + high] of that map composes with it (Araujo, Norris and Sim, "Computing Receptive Fields of
Convolutional Neural Networks", Distill 2019). Branches unite to the smallest low and the largest high.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from torch import nn

from cnntrain.nn.shapes import Shape


class Window(NamedTuple):
    """What position i of a layer's output reads on one axis: [i·stride + low, i·stride + high].

    A stride of None: every position reads all of low to high. A stride of 0: the layer upsamples, so that its positions
    no longer lie on the grid of what it reads.
    """

    stride: int | None = 1
    low: int = 0
    high: int = 0


Windows = tuple[Window, Window]  # height, width
POINTWISE: Windows = (Window(), Window())  # every position reads itself


@dataclass(frozen=True)
class Span:
    """The input positions that position i of a map sees on one axis.

    `jump` None: one position sees all there is. `jump` 0: the map is upsampled, and no two positions need see as many.
    """

    jump: int | None = 1
    low: int = 0
    high: int = 0

    def after(self, window: Window) -> "Span":
        """Compose with what a layer reads of the map."""
        if not self.jump:
            return self
        if window.stride == 0:
            return UPSAMPLED
        jump = None if window.stride is None else self.jump * window.stride
        return Span(jump, self.low + self.jump * window.low, self.high + self.jump * window.high)

    @property
    def size(self) -> int:
        """Input positions seen, those beyond the border included."""
        return self.high - self.low + 1


UPSAMPLED = Span(0)
Spans = tuple[Span, Span]  # height, width


@dataclass(frozen=True)
class Cost:
    """What one image's forward pass takes.

    Multiplications; connections: every input or bias of a unit that has weights; activations: the values that layers,
    sums and joins give, which is what training holds for the backward pass.
    """

    macs: int = 0
    connections: int = 0
    activations: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.macs + other.macs, self.connections + other.connections, self.activations + other.activations)


@runtime_checkable
class Reads(Protocol):
    """A layer that says what its positions read; without it the receptive field through a layer is not known."""

    def windows(self) -> Windows: ...


@runtime_checkable
class Costs(Protocol):
    """A layer with weights that says what it costs for the shapes that reach and leave it."""

    def cost(self, in_shape: Shape, out_shape: Shape) -> Cost: ...


@runtime_checkable
class Strides(Protocol):
    """A layer with a `stride` that brings the form in which it does not stride: itself and its blur, in their order."""

    stride: int

    def antialiased(self) -> list[nn.Module]: ...


LayerGeometry = tuple[Shape, Spans, Cost]  # what leaves a layer, what a position of it sees, its cost
Measure = Callable[[nn.Module, Shape, Spans], LayerGeometry]  # of a module that a shape and spans reach


def pair(value: object) -> tuple[int, int]:
    """Read a layer's setting: one number for both axes, or two."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, tuple) and len(value) == 2:
        return int(value[0]), int(value[1])
    raise TypeError(f"{value!r} does not say how many positions an axis takes")


def sliding(kernel: object, stride: object = 1, padding: object = 0, dilation: object = 1) -> Windows:
    """Return the windows of a convolution or a pooling."""
    height, width = (
        Window(step, -before, distance * (size - 1) - before)
        for size, step, before, distance in zip(pair(kernel), pair(stride), pair(padding), pair(dilation), strict=True)
    )
    return height, width


def units_cost(out: Shape, weights: int, bias: bool) -> Cost:
    """Return the cost of a layer whose every output is a unit of so many weights."""
    outputs = math.prod(out)
    return Cost(outputs * weights, outputs * (weights + bias), outputs)


def measure_branches(
    measure: Measure, branches: Iterable[nn.Module], shape: Shape, spans: Spans
) -> tuple[list[Shape], Spans, Cost]:
    """Return the shapes that leave branches that read the same, what a position sees through any, and their cost."""
    shapes, through, costs = zip(*(measure(branch, shape, spans) for branch in branches), strict=True)
    heights, widths = zip(*through, strict=True)
    return list(shapes), (united(heights), united(widths)), sum(costs, Cost())


def united(spans: Iterable[Span]) -> Span:
    """Return what a position sees through any of several branches.

    Raises `ValueError` where they step over the input differently.
    """
    spans = list(spans)
    if UPSAMPLED in spans:
        return UPSAMPLED
    if len({span.jump for span in spans}) > 1:
        raise ValueError(f"branches have different strides: {', '.join(str(span.jump) for span in spans)}")
    return Span(spans[0].jump, min(span.low for span in spans), max(span.high for span in spans))
