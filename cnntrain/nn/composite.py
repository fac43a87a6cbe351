"""Modules with branches: chains, sums, joins and the two-step block."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from cnntrain.nn.shapes import describe_shape


class MultistepBlock(nn.Module):
    """A residual block that also adds the state before the last: [N, 2C, H, W] to [N, 2C', H', W']."""

    def __init__(self, main: nn.Module, skip: nn.Module) -> None:
        super().__init__()
        self.main, self.skip = main, skip
        self.step = nn.Parameter(torch.empty(()))

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.step, -0.1, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        now, last = x.chunk(2, dim=1)
        skipped = self.skip(now)
        kept = (1 - self.step) * skipped + self.step * self.skip(last)
        return torch.cat([(self.main(now) + kept).relu(), skipped], dim=1)


def chain(**parts: nn.Module | None) -> nn.Sequential:
    """Name the parts of a stage; None leaves a part out."""
    return nn.Sequential(OrderedDict((name, part) for name, part in parts.items() if part is not None))


class Add(nn.Module):
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


class Concat(nn.Module):
    """Named branches that read the same input, joined along the channels."""

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        self.names = tuple(branches)
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([getattr(self, name)(x) for name in self.names], dim=1)
