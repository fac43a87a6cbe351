"""Modules made of modules: chains, sums and joins of branches."""

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from cnntrain.nn.measures import Cost, LayerGeometry, Measure, Spans, measure_branches
from cnntrain.nn.shapes import Shape, describe_shape


def chain(**parts: nn.Module | None) -> nn.Sequential:
    """Name the parts of a stage; None leaves a part out."""
    return nn.Sequential(OrderedDict((name, part) for name, part in parts.items() if part is not None))


class Branches(nn.Module):
    """A module whose parts do not follow one another: it says itself how they make up its shape, spans and cost."""

    def measured(self, measure: Measure, shape: Shape, spans: Spans) -> LayerGeometry:
        """Return the shape that leaves the module, what a position of it sees, and its cost, by those of its parts."""
        raise NotImplementedError


class Add(Branches):
    """The sum of named branches that read the same input, itself read through `before`; then `after`."""

    def __init__(self, before: nn.Module | None = None, after: nn.Module | None = None, **branches: nn.Module) -> None:
        super().__init__()
        self.names = tuple(branches)
        self.before = before if before is not None else nn.Identity()
        for name, branch in branches.items():
            self.add_module(name, branch)
        self.after = after if after is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        outputs = [getattr(self, name)(x) for name in self.names]
        if x.is_meta and len({out.shape for out in outputs}) > 1:  # addition would broadcast silently
            raise ValueError(f"branches differ: {', '.join(describe_shape(tuple(out.shape[1:])) for out in outputs)}")
        total = outputs[0]
        for out in outputs[1:]:
            total = total + out
        return self.after(total)  # type: ignore[no-any-return]

    def measured(self, measure: Measure, shape: Shape, spans: Spans) -> LayerGeometry:
        shape, spans, before = measure(self.before, shape, spans)
        branches = [getattr(self, name) for name in self.names]
        (shape, *_), spans, inside = measure_branches(measure, branches, shape, spans)
        total = Cost(activations=math.prod(shape))
        shape, spans, after = measure(self.after, shape, spans)
        return shape, spans, before + inside + total + after


class Concat(Branches):
    """Named branches that read the same input, joined along the channels."""

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        self.names = tuple(branches)
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([getattr(self, name)(x) for name in self.names], dim=1)

    def measured(self, measure: Measure, shape: Shape, spans: Spans) -> LayerGeometry:
        shapes, spans, inside = measure_branches(measure, self.children(), shape, spans)
        out = (sum(channels for channels, *_ in shapes), *shapes[0][1:])
        return out, spans, inside + Cost(activations=math.prod(out))
