"""What each stage of a network sees and costs, by exact arithmetic over its leaves.

A position i of a map sees the input positions [i·jump + low, i·jump + high] on each axis; a layer that reads
[i·stride + low, i·stride + high] of that map composes with it (Araujo, Norris and Sim, "Computing Receptive Fields of
Convolutional Neural Networks", Distill 2019). Branches unite to the smallest low and the largest high.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnntrain.models.blocks import PadShortcut, ScaledTanh
from cnntrain.models.lenet import PartialConv2d, RadialBasis, Subsample
from cnntrain.models.stages import Add, Concat, Shape, describe_shape

POINTWISE = (
    *(nn.Identity, nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, ScaledTanh),
    *(nn.Dropout, nn.BatchNorm2d),
)


@dataclass(frozen=True)
class Span:
    """The input positions that position i of a map sees on one axis; `jump` None: one position sees all there is."""

    jump: int | None = 1
    low: int = 0
    high: int = 0

    def after(self, window: tuple[int, int, int]) -> "Span":
        """Compose with a layer that reads (stride, low, high)."""
        stride, low, high = window
        if self.jump is None:
            return self
        return Span(self.jump * stride, self.low + self.jump * low, self.high + self.jump * high)

    def whole(self, size: int) -> "Span":
        """Compose with a layer that reads all `size` positions."""
        return self if self.jump is None else Span(None, self.low, self.high + self.jump * (size - 1))

    @property
    def size(self) -> int:
        """Input positions seen, those beyond the border included."""
        return self.high - self.low + 1


Spans = tuple[Span, Span]  # height, width


@dataclass(frozen=True)
class Cost:
    """Multiplications of one image's forward pass, and connections: every input or bias of a unit that has weights."""

    macs: int = 0
    connections: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.macs + other.macs, self.connections + other.connections)


@dataclass(frozen=True)
class StageGeometry:
    """One row of a network's table; receptive field and stride are (height, width), with stride None all is seen."""

    name: str
    out_shape: Shape
    receptive_field: tuple[int, int]
    stride: tuple[int | None, int | None]
    params: int
    macs: int
    connections: int


def geometry(net: nn.Sequential, in_shape: Shape) -> list[StageGeometry]:
    """Return one row a stage of a network for images of `in_shape` (channels, height, width).

    The network may live on the meta device. Raises `TypeError` for a layer whose window or cost is not known, and
    `ValueError` for branches of different strides.
    """
    rows, shape, spans = [], tuple(in_shape), (Span(), Span())
    counted: set[int] = set()
    for name, stage in net.named_children():
        shape, spans, cost = measure(stage, shape, spans)
        fresh = {id(p): p.numel() for p in stage.parameters() if id(p) not in counted}
        counted |= fresh.keys()
        fields, strides = (spans[0].size, spans[1].size), (spans[0].jump, spans[1].jump)
        rows.append(StageGeometry(name, shape, fields, strides, sum(fresh.values()), cost.macs, cost.connections))
    return rows


def measure(module: nn.Module, shape: Shape, spans: Spans) -> tuple[Shape, Spans, Cost]:
    """Follow shape, spans and cost through a module: chains in order, branches side by side, leaves by their kind."""
    if isinstance(module, nn.Sequential):
        total = Cost()
        for child in module:
            shape, spans, cost = measure(child, shape, spans)
            total = total + cost
        return shape, spans, total
    if isinstance(module, Add | Concat):
        followed = [measure(getattr(module, name), shape, spans) for name in module.names]
        total = sum((cost for _, _, cost in followed), Cost())
        united = unite([branch[1] for branch in followed])
        shapes = [branch[0] for branch in followed]
        if isinstance(module, Concat):
            return (sum(s[0] for s in shapes), *shapes[0][1:]), united, total
        shape, spans, cost = measure(module.after, shapes[0], united)
        return shape, spans, total + cost
    out = leaf_shape(module, shape)
    return out, leaf_spans(module, shape, spans), leaf_cost(module, shape, out)


def unite(branches: list[Spans]) -> Spans:
    """Return what positions see through any of the branches, which must step over the input alike."""

    def union(spans: list[Span]) -> Span:
        if len({span.jump for span in spans}) > 1:
            raise ValueError(f"branches have different strides: {', '.join(str(span.jump) for span in spans)}")
        return Span(spans[0].jump, min(span.low for span in spans), max(span.high for span in spans))

    return union([spans[0] for spans in branches]), union([spans[1] for spans in branches])


def leaf_shape(leaf: nn.Module, shape: Shape) -> Shape:
    """Return the shape that leaves a leaf, from a forward pass without memory."""
    was_training, device = leaf.training, "meta"
    held = next((t for t in (*leaf.parameters(), *leaf.buffers())), None)
    if held is not None and not held.is_meta:
        device = str(held.device)
    with torch.no_grad():
        out: Tensor = leaf.eval()(torch.empty(1, *shape, device=device))
    leaf.train(was_training)
    return tuple(out.shape[1:])


def leaf_spans(leaf: nn.Module, shape: Shape, spans: Spans) -> Spans:
    """Compose the spans with what one position of the leaf reads."""
    if isinstance(leaf, nn.Flatten | nn.AdaptiveAvgPool2d):
        if isinstance(leaf, nn.AdaptiveAvgPool2d) and leaf.output_size not in (1, (1, 1)):
            raise TypeError(f"the receptive field through {leaf} is not known: its windows differ in size")
        return (spans[0].whole(shape[1]), spans[1].whole(shape[2])) if len(shape) == 3 else spans
    if isinstance(leaf, (nn.Linear, RadialBasis, *POINTWISE)):
        return spans
    height, width = window(leaf)
    return spans[0].after(height), spans[1].after(width)


def window(leaf: nn.Module) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return (stride, low, high) on each axis: position i reads [i·stride + low, i·stride + high].

    Raises `TypeError` for a layer of another kind: there is no default that would be right.
    """
    if isinstance(leaf, PadShortcut):
        return (leaf.stride, 0, 0), (leaf.stride, 0, 0)
    if isinstance(leaf, Subsample):
        return (2, 0, 1), (2, 0, 1)
    if isinstance(leaf, PartialConv2d):
        height, width = leaf.kernel_size
        return (1, 0, height - 1), (1, 0, width - 1)
    if isinstance(leaf, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        kernel, stride, padding = pair(leaf.kernel_size), pair(leaf.stride), pair(leaf.padding)
        dilation = (1, 1) if isinstance(leaf, nn.AvgPool2d) else pair(leaf.dilation)
        low = [-p for p in padding]
        high = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
        return (stride[0], low[0], high[0]), (stride[1], low[1], high[1])
    raise TypeError(f"the receptive field through {type(leaf).__name__} is not known")


def pair(value: object) -> tuple[int, int]:
    """Read a torch layer's setting: one number for both axes, or two."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, tuple) and len(value) == 2:
        return int(value[0]), int(value[1])
    raise TypeError(f"{value!r} does not say how many positions an axis takes")


def leaf_cost(leaf: nn.Module, shape: Shape, out: Shape) -> Cost:
    """Return multiplications and connections of a leaf; pooling, normalisation and activations have none.

    Raises `TypeError` for an unknown layer with parameters.
    """
    if isinstance(leaf, nn.Conv2d | nn.Linear):
        weights = leaf.weight[0].numel()
        return Cost(math.prod(out) * weights, math.prod(out) * (weights + (leaf.bias is not None)))
    if isinstance(leaf, PartialConv2d):
        area = math.prod(out[1:])
        return Cost(area * leaf.weight.numel(), area * (leaf.weight.numel() + leaf.bias.numel()))
    if isinstance(leaf, Subsample):
        return Cost(0, math.prod(out) * (4 + 1))
    if isinstance(leaf, RadialBasis):
        return Cost(leaf.codes.numel(), leaf.codes.numel())
    if isinstance(leaf, POINTWISE) or not list(leaf.parameters()):
        return Cost()
    raise TypeError(f"the cost of {type(leaf).__name__} with {describe_shape(shape)} inputs is not known")
