"""Modules made of modules: chains, sums and joins of branches."""

import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnntrain.nn.measures import UPSAMPLED, Cost, LayerGeometry, Measure, Spans, measure_branches
from cnntrain.nn.shapes import Shape, describe_shape, shape_after


def chain(**parts: nn.Module | None) -> nn.Sequential:
    """Name the parts of a stage; None leaves a part out."""
    return nn.Sequential(OrderedDict((name, part) for name, part in parts.items() if part is not None))


class Branches(nn.Module, ABC):
    """A module whose parts do not follow one another: it says itself how they make up its shape, spans and cost."""

    @abstractmethod
    def measured(self, measure: Measure, shape: Shape, spans: Spans) -> LayerGeometry:
        """Return the shape that leaves the module, what a position of it sees, and its cost, by those of its parts."""


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
        branches = [getattr(self, name) for name in self.names]  # one may stand there twice
        shapes, spans, inside = measure_branches(measure, branches, shape, spans)
        out = (sum(channels for channels, *_ in shapes), *shapes[0][1:])
        return out, spans, inside + Cost(activations=math.prod(out))


Fitting = Literal["crop", "pad"]


class Level(Branches):
    """Named stages in a chain, and a `skip` past them that is joined to what leaves them: by channels, or as a sum.

    Where the two differ in size, `fit=crop` cuts the centre of the skipped maps, and `fit=pad` sets what leaves the
    chain among zeros. With an `offset` both are cut to what they share: the skipped maps begin so many positions from
    their corner, or, where it is negative, what leaves the chain from its own.
    """

    def __init__(
        self,
        stages: Mapping[str, nn.Module],
        skip: nn.Module | None,
        *,
        join: Literal["channels", "sum"],
        fit: Fitting = "crop",
        offset: int | None = None,
    ) -> None:
        super().__init__()
        self.names, self.join, self.fit, self.offset = tuple(stages), join, fit, offset
        for name, stage in stages.items():
            self.add_module(name, stage)
        self.skip = skip

    @property
    def stages(self) -> list[nn.Module]:
        """The stages of the chain."""
        return [getattr(self, name) for name in self.names]

    def forward(self, x: Tensor) -> Tensor:
        inner = x
        for stage in self.stages:
            inner = stage(inner)
        if self.offset is not None and self.offset < 0:
            inner = inner[:, :, -self.offset :, -self.offset :]
        if self.skip is None:
            return inner
        past = self.skip(x)
        if self.offset is not None:
            past = past[:, :, max(self.offset, 0) :, max(self.offset, 0) :]
            height, width = (min(sides) for sides in zip(past.shape[2:], inner.shape[2:], strict=True))
            past, inner = past[:, :, :height, :width], inner[:, :, :height, :width]
        gaps = [have - want for have, want in zip(past.shape[2:], inner.shape[2:], strict=True)]
        if self.fit == "pad":
            if not all(0 <= gap <= 1 for gap in gaps):
                raise ValueError(
                    f"{describe_shape(tuple(inner.shape[2:]))} positions leave a level that "
                    f"{describe_shape(tuple(past.shape[2:]))} pass by: it halves maps and doubles them, or neither"
                )
            (above, left), (down, right) = [gap // 2 for gap in gaps], [gap - gap // 2 for gap in gaps]
            inner = F.pad(inner, (left, right, above, down)) if any(gaps) else inner
        else:
            top, left = (gap // 2 for gap in gaps)
            past = past[:, :, top : top + inner.shape[2], left : left + inner.shape[3]]
        if past.shape[2:] != inner.shape[2:]:  # a sum would broadcast silently
            raise ValueError(
                f"the maps of {describe_shape(tuple(past.shape[2:]))} past a level do not cover the "
                f"{describe_shape(tuple(inner.shape[2:]))} that leave it"
            )
        return torch.cat([past, inner], dim=1) if self.join == "channels" else past + inner

    def measured(self, measure: Measure, shape: Shape, spans: Spans) -> LayerGeometry:
        chain = nn.Sequential(*self.stages)
        branches = [chain] if self.skip is None else [self.skip, chain]
        _, spans, inside = measure_branches(measure, branches, shape, spans)
        out = shape_after(self, shape)
        return out, spans, inside + Cost(activations=math.prod(out) if len(branches) > 1 else 0)


class Unpool(Branches):
    """Max pooling, a body that keeps the shape, and unpooling to the places of the maxima, zero elsewhere."""

    def __init__(self, kernel_size: int, body: nn.Module) -> None:
        super().__init__()
        self.pool, self.body = nn.MaxPool2d(kernel_size, return_indices=True), body

    def forward(self, x: Tensor) -> Tensor:
        pooled, places = self.pool(x)
        inner = self.body(pooled)
        if inner.shape != pooled.shape:
            raise ValueError(
                f"the body turns {tuple(pooled.shape[1:])} into {tuple(inner.shape[1:])}: no places for it"
            )
        # torch's own unpooling is refused among repeatable algorithms, since places might be the same.
        out = inner.new_zeros(*x.shape[:2], x.shape[2] * x.shape[3])
        out.scatter_(2, places.flatten(2), inner.flatten(2))
        return out.view(x.shape)  # type: ignore[no-any-return]

    def measured(self, measure: Measure, shape: Shape, spans: Spans) -> LayerGeometry:
        pool = nn.MaxPool2d(self.pool.kernel_size)
        _, _, inside = measure(nn.Sequential(pool, self.body), shape, spans)
        return shape, (UPSAMPLED, UPSAMPLED), inside + Cost(activations=math.prod(shape))
