"""What changes between two steps of a training: the schedules by which stages are frozen and images grow."""

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
# Names of stages to freeze, each with the fraction of the steps from which on it is frozen.
Freeze = str | Sequence[str] | Mapping[str, float] | None
Event = tuple[int, Callable[[], None]]  # a step, and what to do before it


def freeze_schedule(net: nn.Sequential, freeze: Freeze, total: int) -> list[Event]:
    """Return before which of `total` steps each stage is frozen.

    What nothing trained lies before needs no gradient either, so that freezing the first stages makes steps cheaper
    (Brock et al. 2017, "FreezeOut", arXiv:1706.04983). Raises `InputError` for a stage that is not there, and when
    nothing would be left to learn.
    """
    stages, frozen = dict(net.named_children()), dict[str, float]()
    for name, fraction in sorted(freeze_fractions(freeze).items(), key=lambda entry: entry[0] in stages):
        frozen |= dict.fromkeys(matching_stages(name, stages), fraction)  # names come after patterns
    learning = [stage for name, stage in stages.items() if frozen.get(name, 1.0) == 1.0]
    if frozen and not any(p.requires_grad for stage in learning for p in stage.parameters()):
        raise InputError("trainer.freeze leaves no stage that learns until the end")
    return [(ceil(fraction * total), partial(freeze_stage, stages[name])) for name, fraction in frozen.items()]


def freeze_fractions(freeze: Freeze) -> dict[str, float]:
    """Return from which fraction of the steps on each name is frozen; from the first step where none is given."""
    if isinstance(freeze, Mapping):
        return dict(freeze)
    return dict.fromkeys([freeze] if isinstance(freeze, str) else freeze or (), 0.0)


def matching_stages(word: str, stages: Mapping[str, nn.Module]) -> list[str]:
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


def freeze_stage(stage: nn.Module) -> None:
    """Freeze a stage: its weights stay, and its statistics too since it computes as in evaluation."""
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


def resize_schedule(scale: Scale, until: Mapping[int, float], total: int) -> list[Event]:
    """Return before which of `total` steps images change their size; `until` maps pixels a side to a fraction of them.

    Small images are cheap, and early steps do not need the detail (Tan & Le 2021, "EfficientNetV2", arXiv:2104.00298,
    section 4, "progressive learning").
    """
    if not until:
        return []
    sizes = sorted(until, key=until.__getitem__)
    begins = [0, *(ceil(until[pixels] * total) for pixels in sizes)]
    return [(step, partial(scale.to, pixels)) for step, pixels in zip(begins, [*sizes, None], strict=True)]
