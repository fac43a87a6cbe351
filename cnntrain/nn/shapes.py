"""The shapes that leave modules, found without computing anything."""

import contextlib
import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Shape = tuple[int, ...]  # the batch axis excluded


def shape_after(module: nn.Module, shape: Shape) -> Shape:
    """Return the shape that leaves `module` in eval mode when `shape` arrives.

    Raises `ValueError` when the module swallows the batch axis or leaves nothing, and what the module itself raises.
    """
    tensor = next(itertools.chain(module.parameters(), module.buffers()), None)
    training, device = module.training, "meta" if tensor is None else tensor.device
    with torch.no_grad(), ShapesOnly():
        out = module.eval()(torch.empty(2, *shape, device=device))
    module.train(training)
    after = tuple(out.shape)
    if after[:1] != (2,) or 0 in after:
        raise ValueError(f"turns {describe_shape((2, *shape))} into {describe_shape(after)}")
    return after[1:]


class ShapesOnly(TorchFunctionMode):
    """Answer for the commonest operators on the meta device, where torch's first answer imports its compiler (1.5 s).

    Those that treat every image by itself run on the CPU on no image at all, which computes nothing. What does not fit
    goes to torch, which says why.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not args:  # everything by keyword
            return func(**kwargs)
        alike = func is Tensor.add and [getattr(value, "shape", None) for value in args] == 2 * [args[0].shape]
        if func in KEEPING or alike:
            return args[0]
        if func in ALONE or (func is torch.cat and kwargs == {"dim": 1}):
            x, *rest = args
            images = x if isinstance(x, Tensor) else x[0]
            with contextlib.suppress(RuntimeError):
                out = func(nothing(x, images=0), *map(nothing, rest), **(kwargs or {}))
                return images.new_empty((len(images), *out.shape[1:]))
        return func(*args, **(kwargs or {}))


KEEPING = {F.batch_norm, F.relu, F.dropout, F.gelu, torch.tanh, torch.sigmoid}  # the shape of what they take
ALONE = {
    F.conv2d,
    F.conv_transpose2d,
    F.linear,
    F.max_pool2d,
    F.avg_pool2d,
    F.adaptive_avg_pool2d,
}  # every image by itself


def nothing(value: Any, images: int | None = None) -> Any:
    """Return memory of the shape of each tensor that nobody reads or writes, and anything else as it is."""
    if isinstance(value, list):
        return [nothing(item, images) for item in value]
    if not isinstance(value, Tensor):
        return value
    shape = value.shape if images is None else (images, *value.shape[1:])
    return torch.empty(shape, dtype=value.dtype, device="cpu")


def describe_shape(shape: Shape) -> str:
    """Write a shape as people do: 16×5×5."""
    return "×".join(str(size) for size in shape)
