"""What each stage of a network sees and costs, by exact arithmetic over its leaves.

A position i of a map sees the input positions [i·jump + low, i·jump + high] on each axis; a layer that reads
[i·stride + low, i·stride + high] of that map composes with it (Araujo, Norris and Sim, "Computing Receptive Fields of
Convolutional Neural Networks", Distill 2019). Branches unite to the smallest low and the largest high.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cnntrain.nn.composite import Add, Concat, MultistepBlock
from cnntrain.nn.layers import (
    Absolute,
    BlurPool2d,
    FirstHalf,
    LocalContrastNorm,
    LocallyConnected2d,
    LocalResponseNorm,
    Maxout,
    PadShortcut,
    PartialConv2d,
    RadialBasis,
    RotatedConv2d,
    ScaledTanh,
    StochasticPool2d,
    Subsample,
    Twice,
)
from cnntrain.nn.shapes import Shape, describe_shape, shape_after

POINTWISE = (
    *(nn.Identity, nn.ReLU, nn.GELU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, ScaledTanh, Absolute, Maxout),
    *(nn.Dropout, nn.BatchNorm2d, LocalResponseNorm, Twice, FirstHalf),
)
RESHAPING = (Maxout, Twice, FirstHalf)  # of those: they change the number of maps
CONVOLUTIONS = (nn.Conv2d, RotatedConv2d, PartialConv2d, LocallyConnected2d)


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
    """What one image's forward pass takes.

    Multiplications; connections: every input or bias of a unit that has weights; numbers written: what layers, sums and
    joins give, which is what training holds for the backward pass.
    """

    macs: int = 0
    connections: int = 0
    numbers: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.macs + other.macs, self.connections + other.connections, self.numbers + other.numbers)


@dataclass(frozen=True)
class StageGeometry:
    """One row of a network's table; receptive field and stride are (height, width), with a stride of None all is seen.

    What cannot be known of a foreign part is None: receptive field and stride, connections. `numbers` are written for
    one image: times four bytes, the memory of its activations in fp32.
    """

    name: str
    out_shape: Shape
    receptive_field: tuple[int, int] | None
    stride: tuple[int | None, int | None] | None
    params: int
    macs: int
    connections: int | None
    numbers: int

    @property
    def flops(self) -> int:
        """Multiplications and as many additions."""
        return 2 * self.macs


def count_parameters(module: nn.Module) -> int:
    """Return the number of parameters of a module, each shared one once."""
    return sum(parameter.numel() for parameter in module.parameters())


def describe(net: nn.Sequential, in_shape: Shape) -> tuple[list[StageGeometry], str]:
    """Return one row a stage of a network on the meta device, and what the rows lack, or nothing.

    Where a layer's window or cost is not known, as in other libraries' networks, receptive fields and connections are
    lacking, and the multiplications are those that torch counts.
    """
    try:
        return geometry(net, in_shape), ""
    except (TypeError, ValueError) as error:
        return outline(net, in_shape), f"without receptive fields and connections: {error}"


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
        params = sum(fresh.values())
        rows.append(StageGeometry(name, shape, fields, strides, params, cost.macs, cost.connections, cost.numbers))
    return rows


def stage_spans(net: nn.Sequential, in_shape: Shape) -> dict[str, Spans]:
    """Return what one position of each spatial stage sees, as far as the layers' windows are known."""
    found: dict[str, Spans] = {}
    shape, spans = tuple(in_shape), (Span(), Span())
    for name, stage in net.named_children():
        try:
            shape, spans, _ = measure(stage, shape, spans)
        except (TypeError, ValueError):
            break
        if len(shape) == 3 and None not in (spans[0].jump, spans[1].jump):
            found[name] = spans
    return found


def outline(net: nn.Sequential, in_shape: Shape) -> list[StageGeometry]:
    """Return the rows of a network of any layers, on the meta device: shapes, parameters and what torch counts."""
    rows: list[StageGeometry] = []
    x, numbers = torch.empty(1, *in_shape, device="meta"), [0]

    def count(module: nn.Module, inputs: object, out: object) -> None:
        if isinstance(out, Tensor) and not list(module.children()) and not isinstance(module, nn.Identity | nn.Flatten):
            numbers[-1] += math.prod(out.shape)

    handles = [module.register_forward_hook(count) for module in net.modules()]
    with torch.no_grad():
        for name, stage in net.eval().named_children():
            numbers.append(0)
            with FlopCounterMode(display=False) as counter:
                x = stage(x)
            params = count_parameters(stage)
            macs = counter.get_total_flops() // 2
            rows.append(StageGeometry(name, tuple(x.shape[1:]), None, None, params, macs, None, numbers[-1]))
    for handle in handles:
        handle.remove()
    return rows


def measure(module: nn.Module, shape: Shape, spans: Spans) -> tuple[Shape, Spans, Cost]:
    """Follow shape, spans and cost through a module: chains in order, branches side by side, leaves by their kind."""
    if isinstance(module, nn.Sequential):
        total = Cost()
        for child in module:
            shape, spans, cost = measure(child, shape, spans)
            total = total + cost
        return shape, spans, total
    if isinstance(module, Add | Concat | MultistepBlock):
        return measure_branches(module, shape, spans)
    out = leaf_shape(module, shape)
    return out, leaf_spans(module, shape, spans), leaf_cost(module, shape, out)


def measure_branches(module: Add | Concat | MultistepBlock, shape: Shape, spans: Spans) -> tuple[Shape, Spans, Cost]:
    """Follow the branches of a composite, which all read what arrives, to their sum or their join."""
    total = Cost()
    if isinstance(module, Add):
        shape, spans, total = measure(module.before, shape, spans)
    if isinstance(module, MultistepBlock):  # both states have the same shape and one passes the body
        followed = [measure(branch, (shape[0] // 2, *shape[1:]), spans) for branch in (module.main, module.skip)]
    else:
        followed = [measure(getattr(module, name), shape, spans) for name in module.names]
    shapes, united = [branch[0] for branch in followed], unite([branch[1] for branch in followed])
    total = sum((cost for _, _, cost in followed), total)
    out = shapes[0]
    if isinstance(module, Concat):
        out = (sum(part[0] for part in shapes), *out[1:])
    elif isinstance(module, MultistepBlock):
        out = (2 * out[0], *out[1:])
    total = total + Cost(numbers=math.prod(out))
    if isinstance(module, Add):
        out, united, cost = measure(module.after, out, united)
        total = total + cost
    return out, united, total


def unite(branches: list[Spans]) -> Spans:
    """Return what positions see through any of the branches, which must step over the input alike."""

    def union(spans: list[Span]) -> Span:
        if len({span.jump for span in spans}) > 1:
            raise ValueError(f"branches have different strides: {', '.join(str(span.jump) for span in spans)}")
        return Span(spans[0].jump, min(span.low for span in spans), max(span.high for span in spans))

    return union([spans[0] for spans in branches]), union([spans[1] for spans in branches])


def leaf_shape(leaf: nn.Module, shape: Shape) -> Shape:
    """Return the shape that leaves a leaf."""
    return shape if isinstance(leaf, POINTWISE) and not isinstance(leaf, RESHAPING) else shape_after(leaf, shape)


def leaf_spans(leaf: nn.Module, shape: Shape, spans: Spans) -> Spans:
    """Compose the spans with what one position of the leaf reads."""
    if isinstance(leaf, nn.Flatten):
        return (spans[0].whole(shape[1]), spans[1].whole(shape[2])) if len(shape) == 3 else spans
    if isinstance(leaf, nn.AdaptiveAvgPool2d):
        height, width = (adaptive(leaf, side, out) for side, out in zip(shape[1:], pair(leaf.output_size), strict=True))
        if pair(leaf.output_size) == (1, 1):
            return spans[0].whole(shape[1]), spans[1].whole(shape[2])
        return spans[0].after(height), spans[1].after(width)
    if isinstance(leaf, (nn.Linear, RadialBasis, *POINTWISE)):
        return spans
    height, width = window(leaf)
    return spans[0].after(height), spans[1].after(width)


def adaptive(leaf: nn.AdaptiveAvgPool2d, side: int, out: int) -> tuple[int, int, int]:
    """Return the window of an adaptive pooling whose windows are all alike."""
    if side % out:
        raise TypeError(f"the receptive field through {leaf} is not known: its windows differ in size on {side}")
    return side // out, 0, side // out - 1


def window(leaf: nn.Module) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return (stride, low, high) on each axis: position i reads [i·stride + low, i·stride + high].

    Raises `TypeError` for a layer of another kind: there is no default that would be right.
    """
    if isinstance(leaf, PadShortcut):
        return (leaf.stride, 0, 0), (leaf.stride, 0, 0)
    if isinstance(leaf, BlurPool2d):
        return (leaf.stride, -1, 1), (leaf.stride, -1, 1)
    if isinstance(leaf, Subsample):
        return (2, 0, 1), (2, 0, 1)
    if isinstance(leaf, LocalContrastNorm):  # the deviation is that of centred values, which see as far again
        reach = 2 * (leaf.size // 2)
        return (1, -reach, reach), (1, -reach, reach)
    if isinstance(leaf, (*CONVOLUTIONS, nn.MaxPool2d, nn.AvgPool2d, StochasticPool2d)):
        kernel, stride, padding = pair(leaf.kernel_size), pair(leaf.stride), pair(leaf.padding)
        dilation = pair(getattr(leaf, "dilation", 1))
        low = [-p for p in padding]
        high = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
        return (stride[0], low[0], high[0]), (stride[1], low[1], high[1])
    if isinstance(leaf, nn.ConvTranspose2d) and pair(leaf.stride) == (1, 1):  # a stride gives positions unlike windows
        (top, left), (tall, wide) = pair(leaf.padding), pair(leaf.kernel_size)
        down, across = pair(leaf.dilation)
        return (1, top - down * (tall - 1), top), (1, left - across * (wide - 1), left)
    raise TypeError(f"the receptive field through {type(leaf).__name__} is not known")


def pair(value: object) -> tuple[int, int]:
    """Read a torch layer's setting: one number for both axes, or two."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, tuple) and len(value) == 2:
        return int(value[0]), int(value[1])
    raise TypeError(f"{value!r} does not say how many positions an axis takes")


def leaf_cost(leaf: nn.Module, shape: Shape, out: Shape) -> Cost:
    """Return the cost of a leaf; pooling, normalisation and activations multiply by no weight.

    Raises `TypeError` for an unknown layer with parameters.
    """
    numbers = 0 if isinstance(leaf, nn.Identity | nn.Flatten) else math.prod(out)
    if isinstance(leaf, nn.Conv2d | nn.Linear | RotatedConv2d):
        weights = leaf.weight[0].numel()
        return Cost(math.prod(out) * weights, math.prod(out) * (weights + (leaf.bias is not None)), numbers)
    if isinstance(leaf, nn.ConvTranspose2d):
        macs = math.prod(shape) * leaf.weight[0].numel()
        return Cost(macs, macs + (math.prod(out) if leaf.bias is not None else 0), numbers)
    if isinstance(leaf, PartialConv2d):
        area = math.prod(out[1:])
        return Cost(area * leaf.weight.numel(), area * (leaf.weight.numel() + leaf.bias.numel()), numbers)
    if isinstance(leaf, LocallyConnected2d):
        return Cost(leaf.weight.numel(), leaf.weight.numel() + leaf.bias.numel(), numbers)
    if isinstance(leaf, Subsample):
        return Cost(0, math.prod(out) * (4 + 1), numbers)
    if isinstance(leaf, RadialBasis):
        return Cost(leaf.codes.numel(), leaf.codes.numel(), numbers)
    if isinstance(leaf, POINTWISE) or not list(leaf.parameters()):
        return Cost(numbers=numbers)
    raise TypeError(f"the cost of {type(leaf).__name__} with {describe_shape(shape)} inputs is not known")
