"""The mean of several processes' gradients: what travels, when, and what arrives."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from cnntrain.runtime import distributed
from cnntrain.training import gradient_average
from cnntrain.training.gradient_average import GradientAverage, divided


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What this process sends, beside another that sends ones; messages come when they are waited for."""
    sent: list[Tensor] = []

    def begin(flat: Tensor) -> SimpleNamespace:
        sent.append(flat.clone())
        return SimpleNamespace(wait=lambda: flat.add_(1))

    monkeypatch.setattr(distributed, "WORLD", 2)
    monkeypatch.setattr(gradient_average, "begin_all_reduce", begin)
    monkeypatch.setattr(gradient_average, "BUCKET", 25)
    return sent


def test_parameters_are_divided_in_order_and_by_size() -> None:
    sizes = [5, 5, 30, 1, 9, 10, 1]
    lists = divided([nn.Parameter(torch.zeros(size)) for size in sizes], 10)
    assert [[p.numel() for p in one] for one in lists] == [[5, 5], [30], [1, 9], [10], [1]]


def test_gradients_of_the_last_layers_leave_before_the_first_ones_are_known(messages: list[Tensor]) -> None:
    net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    average = GradientAverage(list(net.parameters()))
    known: list[int] = []
    net[0].weight.register_hook(lambda gradient: known.append(len(messages)))
    average.begin()
    x = torch.randn(2, 4)
    net(x).square().sum().backward()
    assert known == [2] and len(messages) == 3
    average.finish()
    plain = torch.autograd.grad(net(x).square().sum(), list(net.parameters()))
    assert all(
        torch.equal(p.grad, g / 2 + 1) for p, g in zip(net.parameters(), plain, strict=True) if p.grad is not None
    )


def test_batches_of_a_step_add_up_before_they_travel_and_nothing_is_sent_for_what_rests(messages: list[Tensor]) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    net[0].requires_grad_(False)
    unreached = nn.Parameter(torch.zeros(3))
    parameters = [*net.parameters(), unreached]
    average = GradientAverage(parameters)
    batches = torch.randn(3, 2, 4)
    for left, batch in zip((2, 1, 0), batches, strict=True):
        if left == 0:
            average.begin()
        net(batch).square().sum().backward()
    average.finish()
    learning = [p for p in net.parameters() if p.requires_grad]
    plain = torch.autograd.grad(sum(net(batch).square().sum() for batch in batches), learning)
    for p, gradient in zip(learning, plain, strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad, gradient / 2 + 1)
    assert unreached.grad is None and all(p.grad is None for p in net[0].parameters())
    assert sum(message.numel() for message in messages) == sum(p.numel() for p in learning) + unreached.numel()
    average.remove()
    net(batches[0]).sum().backward()
    assert sum(message.numel() for message in messages) == sum(p.numel() for p in learning) + unreached.numel()
