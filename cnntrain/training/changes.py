"""What changes between two steps of a training: stages come to rest, images grow."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import ceil

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnntrain.errors import InputError, unknown

Change = tuple[int, Callable[[], None]]  # from which step on, and what to do before it


def freezing(net: nn.Sequential, shares: Mapping[str, float], total: int) -> list[Change]:
    """Return from which of `total` steps on the parameters of each stage rest, `shares` being fractions of them.

    What nothing trained lies before needs no gradient either, so that freezing the first stages makes steps cheaper
    (Brock et al. 2017, "FreezeOut", arXiv:1706.04983). Batch norm goes on to follow its inputs' statistics. Raises
    `InputError` for a stage that is not there, and when nothing would be left to learn.
    """
    stages = dict(net.named_children())
    if missing := [name for name in shares if name not in stages]:
        raise InputError(f"trainer.freeze: {unknown('stage', missing[0], stages)} (the stages: {', '.join(stages)})")
    learning = [stage for name, stage in stages.items() if shares.get(name, 1.0) == 1.0]
    if shares and not any(p.requires_grad for stage in learning for p in stage.parameters()):
        raise InputError("trainer.freeze leaves no stage that learns to the end")
    return [(ceil(share * total), partial(rest, [*stages[name].parameters()])) for name, share in shares.items()]


def rest(parameters: Sequence[nn.Parameter]) -> None:
    """Let parameters learn no more."""
    for parameter in parameters:
        parameter.requires_grad_(False)


class Scale:
    """Scales images [N, C, H, W] until their shorter side has `pixels`; None leaves them as they are."""

    def __init__(self) -> None:
        self.pixels: int | None = None

    def to(self, pixels: int | None) -> None:
        """Scale to that size from now on."""
        self.pixels = pixels

    def __call__(self, images: Tensor) -> Tensor:
        if self.pixels is None:
            return images
        size = scaled(images.shape[2:], self.pixels)
        smaller = F.interpolate(images, size, mode="bilinear", antialias=True)
        return smaller.contiguous(memory_format=torch.channels_last)


def scaled(size: tuple[int, ...], pixels: int) -> list[int]:
    """Return a size of the same proportions whose shorter side has `pixels`."""
    return [round(side * pixels / min(size)) for side in size]


def resizing(scale: Scale, shares: Mapping[int, float], total: int) -> list[Change]:
    """Return at which of `total` steps images change to which size, `shares` saying until which fraction each holds.

    Small images are cheap, and early steps do not need the detail (Tan & Le 2021, "EfficientNetV2", arXiv:2104.00298,
    section 4, "progressive learning").
    """
    if not shares:
        return []
    sizes = sorted(shares, key=shares.__getitem__)
    begins = [0, *(ceil(shares[pixels] * total) for pixels in sizes)]
    return [(step, partial(scale.to, pixels)) for step, pixels in zip(begins, [*sizes, None], strict=True)]
