"""Optimizers decay what they should; schedules equal torch's own on the same settings."""

import copy
import itertools
from functools import partial

import numpy as np
import pytest
import torch
from made import create_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, StepLR

from cnntrain.config.build import build_optimizer
from cnntrain.nn.blocks import conv, global_average, linear
from cnntrain.nn.stages import assemble
from cnntrain.runtime.errors import InputError
from cnntrain.tasks.classification import Classification
from cnntrain.training.lr_schedules import SCHEDULES, cosine, learning_rates, one_cycle, steps, triangular
from cnntrain.training.optimizers import (
    OPTIMIZERS,
    add_l1,
    bound_norms,
    muon,
    orthogonalised,
    parameter_groups,
    sgd,
    stage_factors,
)
from cnntrain.training.step_program import StepProgram, StepSettings
from cnntrain.training.train_state import TrainState

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
    net = create_model("resnet20", (3, 32, 32), 10)
    decayed, spared = parameter_groups(net, 0.1)
    assert decayed["weight_decay"] == 0.1 and spared["weight_decay"] == 0.0
    assert {p.ndim for p in decayed["params"]} == {2, 4} and {p.ndim for p in spared["params"]} == {1}
    assert sum(len(group["params"]) for group in (decayed, spared)) == len(list(net.parameters()))
    assert [group["weight_decay"] for group in parameter_groups(net, 0.1, decay_all=True)] == [0.1, 0.1]
    net.fc.requires_grad_(False)
    assert sum(len(group["params"]) for group in parameter_groups(net, 0.1)) == len(list(net.parameters())) - 2


def test_biases_learn_by_their_factor_and_decay_as_much_a_step() -> None:
    layer = nn.Linear(3, 2)
    nn.init.ones_(layer.bias)
    optimizer = sgd(layer, lr=0.1, momentum=0.0, weight_decay=0.5, decay_all=True, bias_factor=4.0)
    before = copy.deepcopy(layer)
    for group in optimizer.param_groups:
        group["lr"] = 0.1 * group["factor"]
    for p in layer.parameters():
        p.grad = torch.full_like(p, 0.25)
    optimizer.step()
    with torch.no_grad():
        torch.testing.assert_close(layer.weight, before.weight * (1 - 0.1 * 0.5) - 0.1 * 0.25)
        torch.testing.assert_close(layer.bias, before.bias * (1 - 0.1 * 0.5) - 0.4 * 0.25)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (3, 8, 24)])
def test_orthogonalising_keeps_singular_vectors_and_moves_each_value_by_the_iterations_polynomial(
    shape: tuple[int, ...],
) -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=shape))
    left, values, right = np.linalg.svd(x.numpy(), full_matrices=False)
    values /= np.sqrt((values**2).sum(-1, keepdims=True))
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    found = orthogonalised(x, 5)
    np.testing.assert_allclose(found, left * values[..., None, :] @ right, atol=1e-5)
    spread = torch.linalg.svdvals(found)  # of well-conditioned matrices
    assert spread.min() > 0.67 and spread.max() < 1.14


def test_orthogonalising_in_fp32_holds_for_singular_values_far_apart() -> None:
    """The polynomials are multiplied as products of x·xᵀ, in which a value of 0.001 is a millionth."""
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(size, 16)))[0] for size in (16, 40))
    values = np.logspace(0, -3, 16)
    x = torch.from_numpy(left * values @ right.T).float()
    values /= np.sqrt((values**2).sum())
    for _ in range(3):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    np.testing.assert_allclose(orthogonalised(x, 3), left * values @ right.T, atol=1e-5)


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 8, 3), nn.Tanh(), nn.Conv2d(8, 8, 3, padding=1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def step(net: nn.Sequential, optimizer: torch.optim.Optimizer, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(16, 3, 8, 8, generator=rng)
    loss = F.cross_entropy(net(x), x.mean(dim=(2, 3)).argmax(1))
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


@pytest.mark.parametrize("renormalise", [True, False])
def test_muon_is_its_published_steps_on_filters_and_sgd_on_the_rest(renormalise: bool) -> None:
    """The oracle takes each filter bank alone, in float64, through its singular values; SGD is torch's plain one."""
    net = small_net().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    reference = copy.deepcopy(net).to(memory_format=torch.contiguous_format)
    optimizer = muon(net, lr=0.1, momentum=0.6, iterations=4, renormalise=renormalise, weight_decay=0.01)
    filters = [p for p in reference.parameters() if p.ndim == 4]
    rest = [{"params": [reference[-1].weight], "weight_decay": 0.01}]
    rest += [{"params": [p for p in reference.parameters() if p.ndim == 1], "weight_decay": 0.0}]
    by_sgd = SGD(rest, lr=0.02, momentum=0.85, nesterov=True, foreach=False)
    momenta = [torch.zeros_like(p) for p in filters]
    for group in optimizer.param_groups:
        group["lr"] = 0.1 * group["factor"]
    for seed in range(4):
        step(net, optimizer, seed)
        rng = torch.Generator().manual_seed(seed)
        x = torch.randn(16, 3, 8, 8, generator=rng)
        F.cross_entropy(reference(x), x.mean(dim=(2, 3)).argmax(1)).backward()
        by_sgd.step()
        for p, momentum in zip(filters, momenta, strict=True):
            assert p.grad is not None
            momentum.mul_(0.6).add_(p.grad)
            left, values, right = torch.linalg.svd((p.grad + 0.6 * momentum).flatten(1).double(), full_matrices=False)
            values = values / values.square().sum().sqrt()
            for _ in range(4):
                values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
            with torch.no_grad():
                p.mul_(len(p) ** 0.5 / p.norm() if renormalise else 1 - 0.1 * 0.01)
                p.sub_(0.1 * (left * values @ right).float().view_as(p))
        reference.zero_grad()
    for one, other in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_muon_learns_faster_than_sgd_on_a_small_problem() -> None:
    losses = {}
    for name, optimizer in (("muon", partial(muon, sgd_lr=0.02)), ("sgd", partial(sgd, lr=0.02))):
        net = small_net()
        made = optimizer(net)
        for group in made.param_groups:
            group["lr"] = made.defaults["lr"] * group["factor"]
        losses[name] = torch.stack([step(net, made, seed) for seed in range(60)])[-10:].mean()
    assert losses["muon"] < 0.8 * losses["sgd"]


def test_muon_changes_nothing_where_the_gradient_is_no_number() -> None:
    net = small_net()
    optimizer = muon(net)
    step(net, optimizer, 0)
    before = copy.deepcopy((net.state_dict(), optimizer.state_dict()["state"]))
    optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
    net(torch.full((2, 3, 8, 8), torch.nan)).sum().backward()
    optimizer.step()
    assert all(torch.equal(net.state_dict()[key], kept) for key, kept in before[0].items())
    after = optimizer.state_dict()["state"]
    assert all(torch.equal(after[key]["momentum_buffer"], kept["momentum_buffer"]) for key, kept in before[1].items())


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "muon"])
def test_fused_optimizers_equal_torchs_plain_ones_in_channels_last(name: str) -> None:
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 36, 4)) for _ in "ab"]
    nets[1].load_state_dict(nets[0].state_dict())
    nets[0].to(memory_format=torch.channels_last)
    ours = OPTIMIZERS[name](nets[0], lr=0.05, weight_decay=0.01)
    named = {"sgd": SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "adadelta": torch.optim.Adadelta}
    extra = {"momentum": 0.9, "nesterov": True} if name == "sgd" else {"rho": 0.95} if name == "adadelta" else {}
    reference = named[name](parameter_groups(nets[1], 0.01), lr=0.05, foreach=False, **extra)
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


def test_l1_adds_the_sign_of_filters_and_matrices_to_their_gradient() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 3)).double()
    plain, x = copy.deepcopy(net), torch.randn(4, 1, 3, 3, dtype=torch.float64)
    optimizer = sgd(net, lr=0.1, weight_decay=0.0, l1=0.01)
    net(x).square().sum().backward()
    add_l1(optimizer)
    penalty = sum(p.abs().sum() for p in plain.parameters() if p.ndim > 1)
    (plain(x).square().sum() + 0.01 * penalty).backward()
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_l1_makes_weights_sparse_that_nothing_needs() -> None:
    layer = nn.Linear(6, 1, bias=False)
    optimizer = sgd(layer, lr=0.05, momentum=0.0, weight_decay=0.0, l1=0.5)
    x = torch.randn(256, 6)
    for _ in range(300):
        (layer(x)[:, 0] - x[:, 0]).square().mean().backward()  # the first input alone matters
        add_l1(optimizer)
        optimizer.step()
        optimizer.zero_grad()
    weights = layer.weight.detach()[0]
    assert weights[0] > 0.5 and weights[1:].abs().max() < 0.06


@pytest.mark.parametrize("largest", [0.5, 100.0])
def test_filters_and_rows_stay_within_a_norm(largest: float) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 3)).to(memory_format=torch.channels_last)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(20)
    before = [p.detach().clone() for p in net.parameters()]
    bound_norms(sgd(net, lr=0.1, max_norm=largest))
    for p, was in zip(net.parameters(), before, strict=True):
        if p.ndim == 1:
            assert torch.equal(p, was)  # biases are not bounded
            continue
        norms, earlier = p.flatten(1).norm(dim=1), was.flatten(1).norm(dim=1)
        torch.testing.assert_close(norms, earlier.clamp(max=largest))
        torch.testing.assert_close(
            p / norms.view(-1, *(1,) * (p.ndim - 1)), was / earlier.view(-1, *(1,) * (p.ndim - 1))
        )


def test_without_bounds_groups_are_as_they_were() -> None:
    net = nn.Linear(3, 2)
    assert [set(group) for group in parameter_groups(net, 0.1)] == [{"params", "weight_decay", "factor"}] * 2
    assert parameter_groups(net, 0.1, max_norm=3.0)[0]["max_norm"] == 3.0


def staged_net() -> nn.Sequential:
    makers = {"conv1": conv(4, 3, norm=True), "conv2": conv(4, 3), "average": global_average(), "fc3": linear(2)}
    return assemble(makers, (3, 8, 8), out_shape=(2,))


def test_each_stage_learns_with_its_share_of_the_rate() -> None:
    """Each stage before the last has a factor more; its own multiplies that, and a name counts before a pattern."""
    net = staged_net()
    assert stage_factors(net) == {"conv1": 1.0, "conv2": 1.0, "fc3": 1.0}
    assert stage_factors(net, layer_decay=0.5) == {"conv1": 0.25, "conv2": 0.5, "fc3": 1.0}
    factors = {"conv1": 3.0, "conv*": 2.0, "backbone": 10.0}
    assert stage_factors(net, layer_decay=0.5, factors=factors) == {"conv1": 0.75, "conv2": 5.0, "fc3": 1.0}
    for wrong, message in (("conv3", "optimizer.factors.*'conv3'"), ("average", "no weights")):
        with pytest.raises(InputError, match=message):
            stage_factors(net, factors={wrong: 0.1})


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_the_factors_of_stages_reach_every_optimizer(name: str) -> None:
    """Every parameter stands in one group, whose factor is that of its stage times the optimizer's own."""
    options = {"name": name, "bias_factor": 3.0, "factors": {"conv1": 0.1}}
    net = staged_net()
    plain, split = (build_optimizer(given, net) for given in (options | {"factors": {}}, options))

    def by_parameter(optimizer: torch.optim.Optimizer) -> dict[Tensor, tuple[float, float]]:
        rows = [(p, (g["factor"], g["weight_decay"])) for g in optimizer.param_groups for p in g["params"]]
        assert len(rows) == len(dict(rows))
        return dict(rows)

    before, after = by_parameter(plain), by_parameter(split)
    assert before.keys() == after.keys() == set(net.parameters())
    for key, p in net.named_parameters():
        factor, decay = before[p]
        assert after[p] == (pytest.approx(factor * (0.1 if key.startswith("conv1") else 1.0)), decay), key


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_every_optimizer_goes_on_from_its_state(name: str) -> None:
    """A checkpoint's state, loaded into another one, continues to the same bits; without it the weights are others."""
    x = torch.randn(3, 8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    nets = [staged_net() for _ in "abc"]
    optimizers = [build_optimizer({"name": name}, net) for net in nets]

    def take(which: int, batch: Tensor) -> None:
        nets[which](batch).square().mean().backward()
        optimizers[which].step()
        optimizers[which].zero_grad()

    take(0, x[0])
    for net in nets[1:]:
        net.load_state_dict(nets[0].state_dict())
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    for which, batch in itertools.product(range(3), x[1:]):
        take(which, batch)
    whole, loaded, fresh = (torch.cat([p.detach().flatten() for p in net.parameters()]) for net in nets)
    assert torch.equal(whole, loaded) and not torch.equal(whole, fresh)


def test_a_stage_of_a_tenth_of_the_rate_moves_a_tenth_as_far() -> None:
    """SGD's first step is the gradient times the rate; the others move as without factors."""
    nets, moved = [staged_net() for _ in "ab"], []
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for net, factors in zip(nets, ({}, {"conv1": 0.1}), strict=True):
        student = TrainState(net, build_optimizer({"name": "sgd", "weight_decay": 0.0, "factors": factors}, net))
        program = StepProgram(student, [0.5], Classification(("a", "b")), StepSettings("fp32", 0))
        before = {key: p.detach().clone() for key, p in net.named_parameters()}
        net(x).square().sum().backward()
        program.set_rates()
        student.optimizer.step()
        moved.append({key: p.detach() - before[key] for key, p in net.named_parameters()})
    for key, step in moved[0].items():
        torch.testing.assert_close(
            moved[1][key], step * (0.1 if key.startswith("conv1") else 1.0), rtol=1e-4, atol=1e-7
        )
