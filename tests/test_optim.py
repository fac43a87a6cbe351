"""Optimizers decay what they should; schedules equal torch's own on the same settings."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, StepLR

from cnntrain.models.resnet_cifar import resnet_cifar
from cnntrain.optim import OPTIMIZERS, SCHEDULES, cosine, learning_rates, one_cycle, parameter_groups, steps, triangular

TOTAL = 120


def follow(make: object) -> list[float]:
    """The learning rates that a scheduler of torch gives a peak of 0.5."""
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler, rates = make(optimizer), []  # type: ignore[operator]
    for _ in range(TOTAL):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < TOTAL:
            scheduler.step()
    return rates


def test_one_cycle_is_torchs() -> None:
    expected = follow(lambda o: OneCycleLR(o, 0.5, total_steps=TOTAL, pct_start=0.3, cycle_momentum=False))
    np.testing.assert_allclose(learning_rates(0.5, TOTAL, one_cycle), expected, rtol=1e-9)


def test_cosine_is_torchs() -> None:
    expected = follow(lambda o: CosineAnnealingLR(o, TOTAL, eta_min=0.05))
    np.testing.assert_allclose(learning_rates(0.5, TOTAL, partial(cosine, end=0.1)), expected, rtol=1e-9)


def test_steps_are_torchs() -> None:
    expected = follow(lambda o: StepLR(o, 30, gamma=0.2))
    schedule = partial(steps, milestones=[0.25, 0.5, 0.75], gamma=0.2)
    np.testing.assert_allclose(learning_rates(0.5, TOTAL, schedule), expected, rtol=1e-9)


def test_triangular_rises_and_falls_in_straight_lines() -> None:
    rates = np.array(learning_rates(1.0, 100, partial(triangular, peak=0.25)))
    assert rates.argmax() == 24 and rates[24] == 1 and rates[-1] == 0
    np.testing.assert_allclose(np.diff(rates[:25]), 1 / 25)
    np.testing.assert_allclose(np.diff(rates[24:]), -1 / 75)


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("total", [1, 2, 7])
def test_every_schedule_is_finite_even_in_short_runs_and_warms_up(name: str, total: int) -> None:
    rates = learning_rates(0.3, total, SCHEDULES[name])
    assert len(rates) == total and np.isfinite(rates).all() and min(rates) >= 0 and max(rates) <= 0.3 + 1e-12
    warm = learning_rates(0.3, 40, SCHEDULES[name], warmup=9)
    np.testing.assert_allclose(warm[:9], 0.3 * np.arange(1, 10) / 10)
    assert warm[9:] == learning_rates(0.3, 31, SCHEDULES[name])


def test_a_warm_up_longer_than_the_run_is_all_there_is() -> None:
    assert len(learning_rates(1.0, 5, SCHEDULES["constant"], warmup=9)) == 5


def test_biases_and_norms_do_not_decay_unless_asked() -> None:
    net = resnet_cifar(20, (3, 32, 32), 10)
    decayed, spared = parameter_groups(net, 0.1)
    assert decayed["weight_decay"] == 0.1 and spared["weight_decay"] == 0.0
    assert {p.ndim for p in decayed["params"]} == {2, 4} and {p.ndim for p in spared["params"]} == {1}
    assert sum(len(group["params"]) for group in (decayed, spared)) == len(list(net.parameters()))
    (everything,) = parameter_groups(net, 0.1, decay_all=True)
    assert len(everything["params"]) == len(list(net.parameters()))


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_fused_optimizers_equal_torchs_plain_ones_in_channels_last(name: str) -> None:
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 36, 4)) for _ in "ab"]
    nets[1].load_state_dict(nets[0].state_dict())
    nets[0].to(memory_format=torch.channels_last)
    ours = OPTIMIZERS[name](nets[0], lr=0.05, weight_decay=0.01)
    plain = {"sgd": SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    extra = {"momentum": 0.9, "nesterov": True} if name == "sgd" else {}
    reference = plain(parameter_groups(nets[1], 0.01), lr=0.05, foreach=False, fused=False, **extra)
    for _ in range(5):
        x = torch.randn(6, 3, 8, 8)
        for net, optimizer, images in zip(
            nets, (ours, reference), (x.contiguous(memory_format=torch.channels_last), x), strict=True
        ):
            optimizer.zero_grad()
            net(images).square().mean().backward()
            optimizer.step()
    for a, b in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-4)
