"""Running a network over a whole split."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from cnntrain.data.augment.tta import TTA, View
from cnntrain.nn.conv_matmul import as_products, candidates
from cnntrain.runtime.devices import autocast


class Outputs(NamedTuple):
    """What a network says of a split, on the CPU."""

    logits: Tensor  # float32 [N, classes]
    labels: Tensor  # int64 [N]


@contextlib.contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode for a while, and then each of its modules into the mode that it had."""
    training = [module for module in net.modules() if module.training]
    net.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def answers(
    net: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    precision: Literal["fp32", "bf16"],
    views: Sequence[tuple[float, View]] = tuple(TTA["none"]),
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a network's answers to batches of (images, targets), in evaluation mode, each with its targets.

    With several `views` (weight, change) an answer is their weighted sum. The network's mode is put back at the end.
    """
    with evaluating(net):
        computed = candidates(net)
        for x, target in batches:
            total: Tensor | None = None
            with torch.inference_mode(), as_products(computed):
                for weight, view in views:
                    with autocast(precision, x.device):
                        out = net(view(x))
                    total = out.float() * weight if total is None else total.add_(out.float(), alpha=weight)
            assert total is not None
            yield total, target


def outputs(
    net: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    precision: Literal["fp32", "bf16"],
    views: Sequence[tuple[float, View]] = tuple(TTA["none"]),
) -> Outputs:
    """Return all that `answers` yields."""
    pairs = list(answers(net, batches, precision=precision, views=views))
    if not pairs:
        return Outputs(torch.empty(0, 1), torch.empty(0, dtype=torch.int64))
    logits, labels = zip(*pairs, strict=True)
    return Outputs(torch.cat(logits).cpu(), torch.cat(labels).cpu())
