"""What changes between two steps of a training: the schedules by which stages are frozen and images grow."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import ceil
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnntrain.nn.stages import matching_stages
from cnntrain.runtime.errors import InputError

# Names of stages to freeze, each with the share of the steps from which on it is frozen, or [from, until].
Freeze = str | Sequence[str] | Mapping[str, float | Sequence[float]] | None
# What a frozen stage does: compute as in evaluation, its statistics fixed; or as in training, batch norm with the
# statistics of the batch and following them, dropout on.
FrozenMode = Literal["evaluation", "training"]
Event = tuple[int, Callable[[], None]]  # a step, and what to do before it


def freeze_schedule(net: nn.Sequential, freeze: Freeze, total: int, mode: FrozenMode = "evaluation") -> list[Event]:
    """Return before which of `total` steps each stage is frozen, and before which it learns again.

    What nothing trained lies before needs no gradient either, so that freezing the first stages makes steps cheaper
    (Brock et al. 2017, "FreezeOut", arXiv:1706.04983). Raises `InputError` for a stage that is not there, and when
    nothing would be left to learn.
    """
    stages, frozen = dict(net.named_children()), dict[str, tuple[float, float]]()
    for word, span in sorted(freeze_spans(freeze).items(), key=lambda entry: entry[0] in stages):
        frozen |= dict.fromkeys(matching_stages(word, stages, "trainer.freeze"), span)  # names come after patterns
    refuse_nothing_to_learn(stages, frozen)
    events = list[Event]()
    for name, (begin, end) in frozen.items():
        learning = [p for p in stages[name].parameters() if p.requires_grad]
        events.append((ceil(begin * total), partial(freeze_stage, stages[name], mode)))
        if end < 1:
            events.append((ceil(end * total), partial(thaw_stage, stages[name], learning)))
    return events


def freeze_spans(freeze: Freeze) -> dict[str, tuple[float, float]]:
    """Return between which shares of the steps each name is frozen: to the end where no end is given.

    Raises `InputError` for a span that does not go forwards.
    """
    if not isinstance(freeze, Mapping):
        return dict.fromkeys([freeze] if isinstance(freeze, str) else freeze or (), (0.0, 1.0))
    spans = {}
    for name, span in freeze.items():
        begin, *rest = span if isinstance(span, Sequence) else (span,)
        end = rest[0] if rest else 1.0
        if len(rest) > 1 or (rest and begin >= end):
            raise InputError(f"trainer.freeze.{name}={span} should be a share of the steps, or two: [from, until]")
        spans[name] = begin, end
    return spans


def refuse_nothing_to_learn(stages: Mapping[str, nn.Module], frozen: Mapping[str, tuple[float, float]]) -> None:
    """Raise `InputError` when at some share of the steps no stage with weights learns."""
    for share in {share for span in frozen.values() for share in span if share < 1}:
        learning = [
            stage
            for name, stage in stages.items()
            if name not in frozen or not frozen[name][0] <= share < frozen[name][1]
        ]
        if not any(p.requires_grad for stage in learning for p in stage.parameters()):
            when = (
                "until the end"
                if share == max(begin for begin, _ in frozen.values())
                else f"after {share:.0%} of the steps"
            )
            raise InputError(f"trainer.freeze leaves no stage that learns {when}")


def freeze_stage(stage: nn.Module, mode: FrozenMode = "evaluation") -> None:
    """Freeze the weights of a stage, and its statistics too where it computes as in evaluation."""
    stage.requires_grad_(False).train(mode == "training")


def thaw_stage(stage: nn.Module, parameters: Sequence[nn.Parameter]) -> None:
    """Let a stage learn again: those of its parameters that did before."""
    stage.train()
    for parameter in parameters:
        parameter.requires_grad_(True)


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
