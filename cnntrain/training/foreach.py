"""Operations of a step on many small tensors as one each: a GPU takes longer to begin a kernel than to run these."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

CONVERTED = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)  # what autocast computes in bf16; no subclass of them


def converted_layers(net: nn.Module) -> list[nn.Module]:
    """Return the layers of a network whose weights autocast converts to bf16 at every pass."""
    return [module for module in net.modules() if type(module) in CONVERTED]


@contextmanager
def converted_together(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Have layers find their learning weights in bf16, all converted at once, and likewise their gradients in fp32."""
    places = [
        (layer, name) for layer in layers for name, p in layer._parameters.items() if p is not None and p.requires_grad
    ]
    if places:
        halves = Bfloat16.apply(*(layer._parameters[name] for layer, name in places))
        for (layer, name), half in zip(places, halves, strict=True):
            layer.__dict__[name] = half  # found before the parameter of that name
    try:
        yield
    finally:
        for layer, name in places:
            del layer.__dict__[name]


class Bfloat16(torch.autograd.Function):
    """Tensors in bf16, by one operation in each direction."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(copies(tensors, torch.bfloat16))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        found = iter(copies([gradient for gradient in gradients if gradient is not None], torch.float32))
        return tuple(None if gradient is None else next(found) for gradient in gradients)


def copies(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Return tensors as another type."""
    new = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    if new:
        torch._foreach_copy_(new, list(tensors))
    return new


def counted_layers(net: nn.Module) -> list[nn.Module]:
    """Return the batch norms of a network that count their batches for the record alone."""
    return [m for m in net.modules() if isinstance(m, _BatchNorm) and m.training and m.momentum is not None]


@contextmanager
def counted_together(norms: Sequence[nn.Module]) -> Iterator[None]:
    """Have batch norms count the batch when the context ends, all at once."""
    counters = [norm._buffers["num_batches_tracked"] for norm in norms]
    for norm in norms:
        norm._buffers["num_batches_tracked"] = None
    try:
        yield
    finally:
        for norm, counter in zip(norms, counters, strict=True):
            norm._buffers["num_batches_tracked"] = counter
    if counting := [counter for counter in counters if counter is not None]:
        torch._foreach_add_(counting, 1)


def total_norm(tensors: list[Tensor]) -> Tensor:
    """Return the norm of all numbers of some tensors, float32 [].

    As `torch.nn.utils.get_total_norm` of tensors on one device in one type, which it would sort by both first.
    """
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
    return norm
