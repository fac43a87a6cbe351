"""The controls of a removal: the same stages removed, and their neighbours widened until nothing is saved by it."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from cnntrain.config.build import build_model
from cnntrain.data.storage.images import DatasetInfo
from cnntrain.nn.geometry import count_parameters
from cnntrain.nn.stages import StageError
from cnntrain.runtime.errors import InputError
from cnntrain.studies.ablation.variants import Removal, stage_names, widened
from cnntrain.studies.sizes import network, rows_of
from cnntrain.studies.variants import info_of

EXACT, NEAR = 0.002, 0.05  # relative: good enough to stop searching; too far to be called equal
SizeOf = Callable[[nn.Sequential, DatasetInfo], int]


def with_controls(variants: Sequence[Removal], control: str) -> list[Removal]:
    """Return the variants, each removal followed by its control in `params` or `macs`.

    Raises `InputError` where no width makes up for what was removed.
    """
    if control == "none":
        return list(variants)
    size = parameters if control == "params" else multiplications
    target = size(network(variants[0]), info_of(variants[0].settings))
    controlled = []
    for variant in variants:
        controlled.append(variant)
        if variant.stages:
            controlled.append(widened(variant, widths(variants[0], variant, size, target), control))
    return controlled


def parameters(net: nn.Sequential, info: DatasetInfo) -> int:
    """Return the number of parameters."""
    return count_parameters(net)


def multiplications(net: nn.Sequential, info: DatasetInfo) -> int:
    """Return the multiplications of one image; an `InputError` where they are not known."""
    macs = rows_of(net, info.shape)[1]
    if macs is None:
        raise InputError("control=macs: the multiplications of this network are not known; use control=params")
    return macs


def widths(full: Removal, variant: Removal, size: SizeOf, target: int) -> dict[str, float]:
    """Return by which factors stages must be wider for a variant to reach `target`, to 5 % or much better.

    They are the nearest stages with a width on both sides of what is removed, together or one of them; where what
    follows could not take wider maps (blocks with shortcuts), stages as wide as those.
    """
    info = info_of(variant.settings)

    def sized(stages: Sequence[str], fixed: Mapping[str, float], factor: float) -> int | None:
        widen = {**fixed, **dict.fromkeys(stages, factor)}
        try:
            return size(build_model(variant.settings["model"] | {"widen": widen}, info, device="meta"), info)
        except StageError:
            return None

    names, plain = stage_names(full), network(variant)
    left = [name for name, _ in plain.named_children()]
    wide = [name for name in left if sized([name], {}, 1.0) is not None]
    near = neighbours(names, variant.stages, wide)
    out = {name: row.out_shape[0] for name, row in zip(left, rows_of(plain, info.shape)[0], strict=True)}
    family = [name for name in wide if out[name] in {out[other] for other in near}]
    best: tuple[float, dict[str, float]] = (math.inf, {})
    for stages in (near, family, *([name] for name in (*near, *family))):
        if stages and best[0] > EXACT:
            gap, factor = search(functools.partial(sized, stages, {}), target)
            best = min(best, (gap, dict.fromkeys(stages, factor)), key=lambda pair: pair[0])
    for name in list(best[1]):
        if best[0] > EXACT:
            gap, factor = search(functools.partial(sized, [name], best[1]), target)
            best = min(best, (gap, best[1] | {name: factor}), key=lambda pair: pair[0])
    if best[0] > NEAR:
        raise InputError(
            f"{variant.name}: no width of {', '.join(near) or 'its neighbours'} makes up for what is removed; leave "
            "out control=, or name a variant of your own with model.widen={…}"
        )
    return best[1]


def neighbours(names: Sequence[str], removed: Sequence[str], wide: Sequence[str]) -> list[str]:
    """Return, for each run of removed stages, the nearest stages before and after it that have a width."""
    nearest: dict[str, None] = {}
    for i, name in enumerate(names):
        if name in removed:
            before = [other for other in names[:i] if other in wide]
            after = [other for other in names[i:] if other in wide]
            nearest |= dict.fromkeys(before[-1:] + after[:1])
    return list(nearest)


def search(size: Callable[[float], int | None], target: int, steps: int = 16) -> tuple[float, float]:
    """Return how near `size` comes to `target`, relatively, and the factor from 1/64 to 64 at which it does."""
    low, high, best = 1 / 64, 64.0, (math.inf, 1.0)
    for _ in range(steps):
        middle = math.sqrt(low * high)
        reached = size(middle)
        if reached is None:  # too narrow or too wide for a shortcut: towards the width as it is
            low, high = (middle, high) if middle < 1 else (low, middle)
            continue
        best = min(best, (abs(reached - target) / target, round(middle, 4)))
        low, high = (middle, high) if reached < target else (low, middle)
    return best
