"""Running a network over a whole split."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnntrain.data.augment.tta import TTA, View
from cnntrain.nn.conv_matmul import as_products, candidates
from cnntrain.runtime import distributed
from cnntrain.runtime.devices import autocast
from cnntrain.stats.intervals import wilson


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


def outputs(
    net: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    precision: Literal["fp32", "bf16"],
    views: Sequence[tuple[float, View]] = tuple(TTA["none"]),
) -> Outputs:
    """Return a network's logits for all batches of (images, labels), in evaluation mode.

    With several `views` (weight, change) the logits are their weighted sum. The network's mode is put back.
    """
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    with evaluating(net), torch.inference_mode(), as_products(candidates(net)):
        for x, y in batches:
            total: Tensor | None = None
            for weight, view in views:
                with autocast(precision, x.device):
                    out = net(view(x))
                total = out.float() * weight if total is None else total.add_(out.float(), alpha=weight)
            assert total is not None
            logits.append(total)
            labels.append(y)
    if not logits:
        return Outputs(torch.empty(0, 1), torch.empty(0, dtype=torch.int64))
    return Outputs(torch.cat(logits).cpu(), torch.cat(labels).cpu())


def score(result: Outputs) -> dict[str, float]:
    """Return n, mean cross-entropy, top-1 and its Wilson interval at 95 %, of what all processes have together."""
    mine = len(result.labels)
    right = int((result.logits.argmax(dim=1) == result.labels).sum())
    n, right = map(int, distributed.total(mine, right))
    low, high = wilson(right, n)
    part = float(F.cross_entropy(result.logits, result.labels)) * (mine / n) if mine else 0.0
    (loss,) = distributed.total(part)
    return {"n": n, "loss": loss, "top1": right / n, "top1_low": low, "top1_high": high}


def by_class(result: Outputs, classes: Sequence[str]) -> dict[str, Any]:
    """Return the balanced accuracy (the mean recall of the classes that have images) and those of them that are never
    predicted, of what all processes have together.
    """
    predicted, labels = result.logits.argmax(dim=1), result.labels
    counts = [x.bincount(minlength=len(classes)) for x in (labels, predicted, labels[predicted == labels])]
    n, named, right = np.reshape(distributed.total(*torch.cat(counts).tolist()), (3, -1))
    there = n > 0
    absent = [name for name, lacking in zip(classes, there & (named == 0), strict=True) if lacking]
    return {"balanced_accuracy": float((right[there] / n[there]).mean()), "never_predicted": absent}
