"""Optimizers, their parameter groups, and the learning rate as a pure function of the step."""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from cnntrain.bounds import Bounds, Fraction, NonNegative, Positive

Groups = list[dict[str, Any]]
Beta = Annotated[float, Bounds(low=0, high=0.999999)]


def parameter_groups(net: nn.Module, weight_decay: float, *, decay_all: bool = False) -> Groups:
    """Split the parameters into those that decay and those that do not: biases, norms and other vectors.

    `decay_all` lets every parameter decay, as older recipes do.
    """
    decayed = [p for p in net.parameters() if decay_all or p.ndim > 1]
    spared = [p for p in net.parameters() if not (decay_all or p.ndim > 1)]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def sgd(
    net: nn.Module,
    *,
    lr: Positive = 0.05,
    momentum: Fraction = 0.9,
    nesterov: bool = True,
    weight_decay: NonNegative = 5e-4,
    decay_all: bool = False,
) -> Optimizer:
    """Stochastic gradient descent with momentum (Sutskever et al. 2013 for Nesterov's)."""
    groups = parameter_groups(net, weight_decay, decay_all=decay_all)
    return SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0, fused=True)


def adam(
    net: nn.Module,
    *,
    lr: Positive = 1e-3,
    beta1: Beta = 0.9,
    beta2: Beta = 0.999,
    weight_decay: NonNegative = 0.0,
    decay_all: bool = False,
) -> Optimizer:
    """Adam (Kingma and Ba 2015); its weight decay is added to the gradient."""
    return Adam(parameter_groups(net, weight_decay, decay_all=decay_all), lr=lr, betas=(beta1, beta2), fused=True)


def adamw(
    net: nn.Module,
    *,
    lr: Positive = 1e-3,
    beta1: Beta = 0.9,
    beta2: Beta = 0.999,
    weight_decay: NonNegative = 1e-2,
    decay_all: bool = False,
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""
    return AdamW(parameter_groups(net, weight_decay, decay_all=decay_all), lr=lr, betas=(beta1, beta2), fused=True)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": sgd, "adam": adam, "adamw": adamw}


# A schedule maps steps (an array from 0) and their total to factors of the peak learning rate.


def constant(step: np.ndarray, total: int) -> np.ndarray:
    """The same learning rate throughout."""
    return np.ones_like(step)


def steps(
    step: np.ndarray, total: int, *, milestones: Sequence[Fraction] = (0.5, 0.75), gamma: Fraction = 0.1
) -> np.ndarray:
    """Multiply by `gamma` at each milestone, a fraction of the run (He et al. 2016: 0.5 and 0.75)."""
    passed = np.sum([step >= milestone * total for milestone in milestones], axis=0, dtype=float)
    return np.asarray(gamma**passed)


def cosine(step: np.ndarray, total: int, *, end: Fraction = 0.0) -> np.ndarray:
    """Half a cosine from 1 to `end` (Loshchilov and Hutter 2017, without restarts)."""
    return np.asarray(end + (1 - end) * (1 + np.cos(math.pi * step / total)) / 2)


def one_cycle(
    step: np.ndarray, total: int, *, peak: Fraction = 0.3, start: Fraction = 0.04, end: Fraction = 4e-6
) -> np.ndarray:
    """Half cosines from `start` up to 1 at the fraction `peak` of the run and down to `end` (Smith and Topin 2018)."""
    top, last = max(peak * total - 1, 0.0), max(total - 1, 1)
    rise = start + (1 - start) * (1 - np.cos(math.pi * step / max(top, 1e-12))) / 2
    fall = end + (1 - end) * (1 + np.cos(math.pi * (step - top) / max(last - top, 1e-12))) / 2
    return np.where(step <= top, rise, fall) if top > 0 else fall


def triangular(
    step: np.ndarray, total: int, *, peak: Fraction = 0.3, start: Fraction = 0.0, end: Fraction = 0.0
) -> np.ndarray:
    """Straight lines from `start` up to 1 at the fraction `peak` of the run and down to `end`."""
    return np.asarray(np.interp(step + 1, [0, max(peak * total, 1e-12), total], [start, 1, end]))


SCHEDULES: dict[str, Callable[..., np.ndarray]] = {
    "constant": constant,
    "step": steps,
    "cosine": cosine,
    "onecycle": one_cycle,
    "triangular": triangular,
}


def learning_rates(
    peak: float, total: int, schedule: Callable[[np.ndarray, int], np.ndarray], *, warmup: int = 0
) -> list[float]:
    """Return the learning rate of each of `total` optimizer steps.

    A linear rise over the first `warmup` steps precedes the schedule, which then has the steps that are left.
    """
    warmup = min(warmup, total)
    rise = np.arange(1, warmup + 1) / (warmup + 1)
    rest = schedule(np.arange(total - warmup, dtype=float), total - warmup) if total > warmup else np.ones(0)
    return [float(peak * factor) for factor in np.concatenate([rise, rest])]
