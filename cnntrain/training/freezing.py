"""Stages that stop learning before the training ends."""

from collections.abc import Mapping
from math import ceil

from torch import nn

from cnntrain.errors import InputError, unknown

Freezing = list[tuple[int, list[nn.Parameter]]]  # from which step on which parameters rest, in that order


def freezing(net: nn.Sequential, shares: Mapping[str, float], total: int) -> Freezing:
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
    return sorted(
        ((ceil(share * total), list(stages[name].parameters())) for name, share in shares.items()), key=lambda at: at[0]
    )
