"""What each stage of a network sees and costs, by exact arithmetic over its leaves.

Torch's own layers stand in two tables; ours say what they read and cost themselves (`layers.py`, `composite.py`).
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from cnntrain.nn.composite import Branches
from cnntrain.nn.measures import (
    POINTWISE,
    Cost,
    Costs,
    LayerGeometry,
    Reads,
    Span,
    Spans,
    Window,
    Windows,
    pair,
    sliding,
    units_cost,
)
from cnntrain.nn.shapes import Shape, describe_shape, shape_after

T = TypeVar("T")


@dataclass(frozen=True)
class StageGeometry:
    """One row of a network's table; receptive field and stride are (height, width), with a stride of None all is seen.

    An upsampled map has a stride of (0, 0) and no receptive field: its positions do not all see as many pixels. What is
    not known of other libraries' layers is None: receptive field and stride, connections. `activations` are the values
    of one image: times four bytes, their memory in fp32.
    """

    name: str
    out_shape: Shape
    receptive_field: tuple[int, int] | None
    stride: tuple[int | None, int | None] | None
    params: int
    macs: int
    connections: int | None
    activations: int


def count_parameters(module: nn.Module) -> int:
    """Return the number of parameters of a module, each shared one once."""
    return sum(parameter.numel() for parameter in module.parameters())


def describe(net: nn.Sequential, in_shape: Shape) -> tuple[list[StageGeometry], str]:
    """Return one row a stage of a network, and what the rows lack, or nothing.

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
        strides = spans[0].jump, spans[1].jump
        fields = None if 0 in strides else (spans[0].size, spans[1].size)
        params = sum(fresh.values())
        rows.append(StageGeometry(name, shape, fields, strides, params, cost.macs, cost.connections, cost.activations))
    return rows


def stage_spans(net: nn.Sequential, in_shape: Shape) -> dict[str, Spans]:
    """Return what one position of each spatial stage sees, as far as the layers' windows are known."""
    known: dict[str, Spans] = {}
    shape, spans = tuple(in_shape), (Span(), Span())
    for name, stage in net.named_children():
        try:
            shape, spans, _ = measure(stage, shape, spans)
        except (TypeError, ValueError):
            break
        if len(shape) == 3 and spans[0].jump and spans[1].jump:
            known[name] = spans
    return known


def outline(net: nn.Sequential, in_shape: Shape) -> list[StageGeometry]:
    """Return the rows of a network of any layers: shapes, parameters and what torch counts on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode  # it imports triton: a tenth of a second

    rows: list[StageGeometry] = []
    net = on_meta(net).eval()
    x, written = torch.empty(1, *in_shape, device="meta"), [0]

    def count(module: nn.Module, inputs: object, out: object) -> None:
        if isinstance(out, Tensor) and not list(module.children()) and not isinstance(module, nn.Identity | nn.Flatten):
            written[-1] += math.prod(out.shape)

    for module in net.modules():
        module.register_forward_hook(count)
    with torch.no_grad():
        for name, stage in net.named_children():
            written.append(0)
            with FlopCounterMode(display=False) as counter:
                x = stage(x)
            params = count_parameters(stage)
            macs = counter.get_total_flops() // 2
            rows.append(StageGeometry(name, tuple(x.shape[1:]), None, None, params, macs, None, written[-1]))
    return rows


def on_meta(net: nn.Sequential) -> nn.Sequential:
    """Return a copy of a network on the meta device; no weight is copied."""
    tensors: dict[int, Any] = {id(b): b.to("meta") for b in net.buffers()}
    tensors |= {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in net.parameters()}
    return copy.deepcopy(net, tensors)


def measure(module: nn.Module, shape: Shape, spans: Spans) -> LayerGeometry:
    """Return the shape that leaves a module, what a position of it sees, and its cost: a chain's parts in order."""
    if isinstance(module, nn.Sequential):
        total = Cost()
        for child in module:
            shape, spans, cost = measure(child, shape, spans)
            total = total + cost
        return shape, spans, total
    if isinstance(module, Branches):
        return module.measured(measure, shape, spans)
    out = shape if isinstance(module, ELEMENTWISE) else shape_after(module, shape)
    height, width = windows(module, shape)
    return out, (spans[0].after(height), spans[1].after(width)), leaf_cost(module, shape, out)


def windows(leaf: nn.Module, shape: Shape) -> Windows:
    """Return what a position of a leaf reads, on each axis, of maps of a shape.

    Raises `TypeError` for a layer that is not known: there is no default that would be right.
    """
    if torchs := entry(TORCH_WINDOWS, leaf):
        return torchs(leaf, shape)
    if isinstance(leaf, Reads):
        return leaf.windows()
    raise TypeError(f"the receptive field through {type(leaf).__name__} is not known")


def leaf_cost(leaf: nn.Module, shape: Shape, out: Shape) -> Cost:
    """Return the cost of a leaf; without weights it multiplies by none.

    Raises `TypeError` for an unknown layer with parameters.
    """
    if torchs := entry(TORCH_COSTS, leaf):
        return torchs(leaf, shape, out)
    if isinstance(leaf, Costs):
        return leaf.cost(shape, out)
    if count_parameters(leaf):
        raise TypeError(f"the cost of {type(leaf).__name__} with {describe_shape(shape)} inputs is not known")
    return Cost(activations=math.prod(out))


def entry(table: Mapping[type[nn.Module], T], leaf: nn.Module) -> T | None:
    """Return what a table has for the class of a leaf, or for the nearest class that it derives from."""
    return next((table[kind] for kind in type(leaf).__mro__ if kind in table), None)


def everything(leaf: nn.Module, shape: Shape) -> Windows:
    """Return the windows of a layer whose outputs read whole maps."""
    if len(shape) != 3:
        return POINTWISE
    return Window(None, 0, shape[1] - 1), Window(None, 0, shape[2] - 1)


def adaptive(leaf: nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d, shape: Shape) -> Windows:
    """Return the windows of an adaptive pooling whose windows are all alike."""
    sides, outs = shape[1:], pair(leaf.output_size)
    if any(side % out for side, out in zip(sides, outs, strict=True)):
        raise TypeError(
            f"the receptive field through {leaf} is not known: its windows differ in size on {describe_shape(sides)}"
        )
    if outs == (1, 1):
        return everything(leaf, shape)
    kernel = (sides[0] // outs[0], sides[1] // outs[1])
    return sliding(kernel, kernel)


def transposed(leaf: nn.ConvTranspose2d, shape: Shape) -> Windows:
    """Return the windows of a transposed convolution."""
    if pair(leaf.stride) != (1, 1):
        return Window(0), Window(0)
    height, width = sliding(leaf.kernel_size, 1, leaf.padding, leaf.dilation)
    return Window(1, -height.high, -height.low), Window(1, -width.high, -width.low)


def transposed_cost(leaf: nn.ConvTranspose2d, shape: Shape, out: Shape) -> Cost:
    """Return the cost of a transposed convolution, in which every input has a unit's weights."""
    macs, outputs = math.prod(shape) * leaf.weight[0].numel(), math.prod(out)
    return Cost(macs, macs + (outputs if leaf.bias is not None else 0), outputs)


# Torch's layers whose every position reads itself, and that keep the number of maps.
ELEMENTWISE = (
    *(nn.Identity, nn.ReLU, nn.GELU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid),
    *(nn.Dropout, nn.BatchNorm2d),
)
TORCH_WINDOWS: dict[type[nn.Module], Callable[[Any, Shape], Windows]] = {
    **dict.fromkeys((*ELEMENTWISE, nn.Linear), lambda leaf, shape: POINTWISE),
    **dict.fromkeys(
        (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d),
        lambda leaf, shape: sliding(leaf.kernel_size, leaf.stride, leaf.padding, getattr(leaf, "dilation", 1)),
    ),
    nn.ConvTranspose2d: transposed,
    nn.ZeroPad2d: lambda leaf, shape: sliding(1, 1, (leaf.padding[2], leaf.padding[0])),
    **dict.fromkeys((nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d), adaptive),
    nn.Flatten: everything,
    nn.Unflatten: lambda leaf, shape: POINTWISE,
}
TORCH_COSTS: dict[type[nn.Module], Callable[[Any, Shape, Shape], Cost]] = {
    **dict.fromkeys((nn.Identity, nn.Flatten, nn.Unflatten), lambda leaf, shape, out: Cost()),
    **dict.fromkeys(
        (nn.Conv2d, nn.Linear),
        lambda leaf, shape, out: units_cost(out, leaf.weight[0].numel(), leaf.bias is not None),
    ),
    nn.BatchNorm2d: lambda leaf, shape, out: Cost(activations=math.prod(out)),
    nn.ConvTranspose2d: transposed_cost,
}
