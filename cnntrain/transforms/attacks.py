"""Adversarial change as a family of transformations: the amount is a budget, and the network is asked where it hurts.

An image counts as robust within a budget only if it is right unchanged and at every candidate, those of smaller
budgets included; the point that is passed on is the worst of all these. So accuracy can only fall with the budget, and
PGD, whose candidates include FGSM's, is never above FGSM. Budgets are in parts of the range of pixels (0..1).
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cnntrain.runtime.errors import InputError
from cnntrain.runtime.ranges import Count, Natural
from cnntrain.runtime.seeding import generator
from cnntrain.transforms.transform import Amount, ImageShape, Logits, Transform

Norm = Literal["linf", "l2"]
Target = int | Literal["least_likely"] | None
RANGE = 255.0
BUDGETS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3)


class Worst(NamedTuple):
    """The worst point found for each image, by its badness (2 the target reached, 1 wrong, 0 right), then its loss."""

    pixels: Tensor
    badness: Tensor
    loss: Tensor


def fgsm(
    shape: ImageShape, *, amounts: Sequence[float] | None = None, norm: Norm = "linf", target: Target = None
) -> Transform:
    """One step along the sign of the gradient, or along the gradient in L2 (Goodfellow et al. 2015)."""
    return attack("fgsm", shape, amounts, norm, target, steps=0, restarts=0, seed=0)


def pgd(
    shape: ImageShape,
    *,
    amounts: Sequence[float] | None = None,
    norm: Norm = "linf",
    target: Target = None,
    steps: Count = 10,
    restarts: Count = 1,
    seed: Natural = 0,
) -> Transform:
    """Steps of 2.5 budgets in all, projected, from the image and then from random points (Madry et al. 2018)."""
    return attack("pgd", shape, amounts, norm, target, steps=steps, restarts=restarts, seed=seed)


def attack(
    name: str,
    shape: ImageShape,
    amounts: Sequence[float] | None,
    norm: Norm,
    target: Target,
    *,
    steps: int,
    restarts: int,
    seed: int,
) -> Transform:
    """Return the family of one attack, its budgets in ascending order."""
    budgets = sorted(float(budget) for budget in (BUDGETS if amounts is None else amounts))
    if not budgets or budgets[0] < 0 or (norm == "linf" and budgets[-1] > 1):
        rule = "at least one budget, from 0" + (" to 1, the range of pixels" if norm == "linf" else "")
        raise InputError(f"warp.{name}.amounts={budgets} is refused: {rule}")

    def changed(logits: Logits, pixels: Tensor, labels: Tensor, places: np.ndarray) -> Iterator[Tensor]:
        goal = None if target is None else goals(logits, pixels, labels, target)
        slope = gradient(logits, pixels, labels, goal)
        worst = judged(logits, pixels, labels, goal)
        for budget in budgets:
            worst = worse(worst, judged(logits, moved(pixels, pixels, slope, budget, budget, norm), labels, goal))
            for restart in range(restarts):
                x = started(pixels, budget, norm, places, seed, restart)
                for _ in range(steps):
                    x = moved(x, pixels, gradient(logits, x, labels, goal), 2.5 * budget / steps, budget, norm)
                worst = worse(worst, judged(logits, x, labels, goal))
            yield worst.pixels

    protocol: dict[str, object] = {"norm": norm, "target": target}
    protocol |= {"steps": steps, "restarts": restarts, "seed": seed} if steps else {}
    return Transform(
        name,
        "of the range",
        (0.0,),
        tuple((budget,) for budget in budgets),
        (shape[1], shape[2]),
        unchanged,
        protocol=protocol,
        attack=changed,
        goals=None if target is None else partial(goals, target=target),
    )


def unchanged(pixels: Tensor, amount: Amount, places: np.ndarray) -> Tensor:
    """Return the pixels: without a network to attack there is no change."""
    return pixels


# What an attack climbs.


def goals(logits: Logits, pixels: Tensor, labels: Tensor, target: int | Literal["least_likely"]) -> Tensor:
    """Return the class that each image is to be taken for, never its own: then it is the least likely."""
    with torch.no_grad():
        scores = logits(pixels)
    if isinstance(target, int) and not 0 <= target < scores.shape[1]:
        raise InputError(f"target={target}: the classes are numbered 0 to {scores.shape[1] - 1}")
    others = scores.scatter(1, labels[:, None], torch.inf).argmin(dim=1)
    return others if target == "least_likely" else torch.where(labels == target, others, target)


def losses(scores: Tensor, labels: Tensor, goal: Tensor | None) -> Tensor:
    """Return what is to grow, for each image: the loss of its class, or minus the loss of its target."""
    if goal is None:
        return F.cross_entropy(scores.float(), labels, reduction="none")
    return -F.cross_entropy(scores.float(), goal, reduction="none")


def gradient(logits: Logits, pixels: Tensor, labels: Tensor, goal: Tensor | None) -> Tensor:
    """Return the gradient of each image's loss in its pixels."""
    with torch.enable_grad():
        x = pixels.detach().clone().requires_grad_()
        loss = losses(logits(x), labels, goal).sum()
        (slope,) = torch.autograd.grad(loss, x)
    return slope


def judged(logits: Logits, pixels: Tensor, labels: Tensor, goal: Tensor | None) -> Worst:
    """Return how bad points are."""
    with torch.no_grad():
        scores = logits(pixels)
    predicted = scores.argmax(dim=1)
    badness = (predicted != labels).long() + (0 if goal is None else (predicted == goal).long())
    return Worst(pixels, badness, losses(scores, labels, goal))


def worse(first: Worst, second: Worst) -> Worst:
    """Return the worse of two points of each image."""
    takes = (second.badness > first.badness) | ((second.badness == first.badness) & (second.loss > first.loss))
    return Worst(
        torch.where(takes.view(-1, 1, 1, 1), second.pixels, first.pixels),
        torch.where(takes, second.badness, first.badness),
        torch.where(takes, second.loss, first.loss),
    )


# Steps within a budget.


def moved(x: Tensor, clean: Tensor, slope: Tensor, step: float, budget: float, norm: Norm) -> Tensor:
    """Return a step of `step` from `x` along `slope`, brought back to within `budget` of `clean` and into the range."""
    if norm == "linf":
        return projected(x + step * RANGE * slope.sign(), clean, budget, norm)
    length = slope.flatten(1).norm(dim=1).clamp(min=1e-30).view(-1, 1, 1, 1)
    return projected(x + step * RANGE * slope / length, clean, budget, norm)


def projected(x: Tensor, clean: Tensor, budget: float, norm: Norm) -> Tensor:
    """Return `x` brought to within `budget` of `clean`, exactly, and cut off at black and white.

    No pixel, or in L2 no image, is further away than `budget` * 255 in float64.
    """
    reach, middle = budget * RANGE, clean.double()
    if norm == "linf":
        return rounded(x.double().clamp(middle - reach, middle + reach), clean, reach).clamp(0, RANGE)
    gap = x.double() - middle
    length = gap.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    # The sum of squares is itself rounded, in whatever order it is taken: hence a billionth less.
    gap = gap * (reach * (1 - 1e-9) / length.clamp(min=1e-30)).clamp(max=1)
    return rounded(middle + gap, clean, gap.abs()).clamp(0, RANGE)


def rounded(x: Tensor, clean: Tensor, reach: Tensor | float) -> Tensor:
    """Return float64 `x`, up to `reach` from `clean`, in the precision of `clean`, rounded towards it if need be."""
    pixels = x.to(clean.dtype)
    over = (pixels.double() - clean.double()).abs() > reach
    return torch.where(over, torch.nextafter(pixels, clean), pixels)


def started(clean: Tensor, budget: float, norm: Norm, places: np.ndarray, seed: int, restart: int) -> Tensor:
    """Return where a restart begins: the images themselves first, then points drawn for (seed, image, restart)."""
    if restart == 0:
        return clean
    drawn = np.stack([generator(seed, "pgd", restart, int(place)).uniform(-1, 1, clean.shape[1:]) for place in places])
    direction = torch.from_numpy(drawn).to(clean)
    if norm == "l2":
        return moved(clean, clean, direction, budget, budget, norm)
    return projected(clean + budget * RANGE * direction, clean, budget, norm)
