"""Running a network over a whole split."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from cnntrain.data.augment.tta import TTA, View
from cnntrain.nn.equivalents import computed_as, equivalents
from cnntrain.runtime.devices import autocast
from cnntrain.runtime.errors import InputError

DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


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


@contextlib.contextmanager
def dropping(net: nn.Module, seed: int) -> Iterator[None]:
    """Let the dropout layers of a network draw masks for a while, from `seed`, whatever mode the network is in.

    Raises `InputError` for a network without dropout.
    """
    layers = [module for module in net.modules() if isinstance(module, DROPOUT) and module.p > 0]
    if not layers:
        raise InputError("tta=dropout samples dropout masks, and this network has no dropout")
    devices = {parameter.device for parameter in net.parameters() if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        for layer in layers:
            layer.training = True
        try:
            yield
        finally:
            for layer in layers:
                layer.training = False


def answers(
    net: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    precision: Literal["fp32", "bf16"],
    views: Sequence[tuple[float, View]] = tuple(TTA["none"]),
    dropout_seed: int | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a network's answers to batches of (images, targets), in evaluation mode, each with its targets.

    With several `views` (weight, change) an answer is their weighted sum. With a `dropout_seed` dropout draws masks
    from it: the mean of logits is then the geometric mean of the thinned networks' probabilities (Hinton et al. 2012).
    The network's mode is put back at the end.
    """
    with evaluating(net), contextlib.nullcontext() if dropout_seed is None else dropping(net, dropout_seed):
        computed = equivalents(net)
        for x, target in batches:
            total: Tensor | None = None
            with torch.inference_mode(), computed_as(computed):
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
    dropout_seed: int | None = None,
) -> Outputs:
    """Return all that `answers` yields."""
    pairs = list(answers(net, batches, precision=precision, views=views, dropout_seed=dropout_seed))
    if not pairs:
        return Outputs(torch.empty(0, 1), torch.empty(0, dtype=torch.int64))
    logits, labels = zip(*pairs, strict=True)
    return Outputs(torch.cat(logits).cpu(), torch.cat(labels).cpu())
