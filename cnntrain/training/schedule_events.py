"""What changes between two steps of a training: stages come to rest, images grow."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from math import ceil

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnntrain.nn.stages import require
from cnntrain.runtime.errors import InputError

BACKBONE = "backbone"  # every stage before the last one that has weights: all but the classifier
Freeze = str | Sequence[str] | Mapping[str, float] | None  # stages that rest, and from which share of the steps on
Change = tuple[int, Callable[[], None]]  # from which step on, and what to do before it


def freezing(net: nn.Sequential, freeze: Freeze, total: int) -> list[Change]:
    """Return from which of `total` steps on each stage rests.

    What nothing trained lies before needs no gradient either, so that freezing the first stages makes steps cheaper
    (Brock et al. 2017, "FreezeOut", arXiv:1706.04983). Raises `InputError` for a stage that is not there, and when
    nothing would be left to learn.
    """
    stages, resting = dict(net.named_children()), dict[str, float]()
    for name, share in sorted(shares(freeze).items(), key=lambda entry: entry[0] in stages):  # names after patterns
        resting |= dict.fromkeys(meant(name, stages), share)
    learning = [stage for name, stage in stages.items() if resting.get(name, 1.0) == 1.0]
    if resting and not any(p.requires_grad for stage in learning for p in stage.parameters()):
        raise InputError("trainer.freeze leaves no stage that learns to the end")
    return [(ceil(share * total), partial(rest, stages[name])) for name, share in resting.items()]


def shares(freeze: Freeze) -> dict[str, float]:
    """Return which stages are to rest from which share of the steps on; from the first where no share is given."""
    if isinstance(freeze, Mapping):
        return dict(freeze)
    return dict.fromkeys([freeze] if isinstance(freeze, str) else freeze or (), 0.0)


def meant(word: str, stages: Mapping[str, nn.Module]) -> list[str]:
    """Return the stages that a name, a pattern (block*) or the word backbone means."""
    if word in stages:
        return [word]
    if word == BACKBONE:
        *before, head = [name for name, stage in stages.items() if [*stage.parameters()]]
        if not before:
            raise InputError(f"trainer.freeze=backbone: the network has no weights before its last stage, {head}")
        return [*stages][: [*stages].index(head)]
    matching = [name for name in stages if fnmatchcase(name, word)]
    if not matching:
        require([word], stages, "trainer.freeze: ")
    return matching


def rest(stage: nn.Module) -> None:
    """Let a stage learn no more: it keeps its weights, and its statistics too since it computes as in evaluation."""
    stage.requires_grad_(False).eval()


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
