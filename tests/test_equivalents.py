"""Layers computed in another way: a ReLU after its max pooling gives what a ReLU before it gives, to the bit."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from steps import step_of
from torch import Tensor, nn

from cnntrain.config.build import build_model
from cnntrain.data.storage.images import DatasetInfo
from cnntrain.nn.equivalents import computed_as, equivalents, pooled_first
from cnntrain.training.optimizers import sgd

COLOUR = DatasetInfo("made", ("a", "b", "c"), (3, 32, 32), (0.5,) * 3, (0.25,) * 3)
MAPS = replace(COLOUR, targets="maps")


def learnt(net: nn.Module, x: Tensor) -> list[Tensor]:
    """Return what a network makes of x, and all gradients of a sum of it with fixed weights."""
    out = net(x)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(out.dtype)
    return [out, *torch.autograd.grad(out, [x, *net.parameters()], weights)]


def same_bits(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in zip(one, other, strict=True))


def inputs() -> Iterator[Tensor]:
    """Yield maps with many equal values, positive and not, with none, and with numbers that are none."""
    generator = torch.Generator().manual_seed(0)
    tied = torch.randint(-1, 3, (4, 5, 9, 8), generator=generator).float()
    drawn = torch.randn(4, 5, 9, 8, generator=generator)
    yield from (tied, -tied.abs(), drawn, torch.where(drawn > 1.5, torch.nan, drawn))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("kernel", "stride", "padding", "ceil"), [(2, 2, 0, False), (3, 2, 1, True), (3, 1, 0, False)])
def test_relu_after_pooling_is_relu_before_it(
    kernel: int, stride: int, padding: int, ceil: bool, layout: torch.memory_format
) -> None:
    net = nn.Sequential(nn.ReLU(), nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil))
    other = pooled_first(net)
    assert set(other) == set(net)
    for x, kind in itertools.product(inputs(), (torch.float32, torch.bfloat16)):
        maps = x.to(kind).contiguous(memory_format=layout).requires_grad_()
        plain = learnt(net, maps)
        with computed_as(other):
            assert same_bits(learnt(net, maps), plain)
            assert net[0](maps) is maps


@pytest.mark.parametrize(
    ("name", "exchanged"),
    [
        ("lenet5", 2),
        ("convnet", 2),
        ("alexnet", 1),
        ("resnet20", 0),
        ("unet", 0),
        ("segnet", 0),
    ],
)
def test_networks_learn_the_same(name: str, exchanged: int) -> None:
    """Skips read what leaves a ReLU: only within one chain is it exchanged with the pooling."""
    dense = name in ("unet", "segnet")
    options = {"name": name} | ({"width": 4, "depth": 2} if dense else {})
    net = build_model(options, MAPS if dense else COLOUR, seed=0)
    other, x = pooled_first(net), torch.randn(2, 3, 32, 32).requires_grad_()
    assert len(other) == 2 * exchanged
    found = []
    for forwards in ({}, other):
        torch.manual_seed(0)  # of dropout
        with computed_as(forwards):
            found.append(learnt(net, x))
    assert same_bits(*found)


def test_only_a_relu_that_nothing_else_reads() -> None:
    relu, pool = nn.ReLU(), nn.MaxPool2d(2)
    stages = nn.Sequential(nn.Sequential(nn.Conv2d(1, 1, 1), relu), nn.Sequential(pool))
    assert pooled_first(stages).keys() == {relu, pool}
    assert not pooled_first(nn.Sequential(relu, nn.Conv2d(1, 1, 1), relu, pool))  # one layer in two places
    assert not pooled_first(nn.Sequential(relu, nn.Dropout(), pool))
    for others in ((nn.Tanh(), pool), (relu, nn.AvgPool2d(2)), (relu, nn.MaxPool2d(2, return_indices=True))):
        assert not pooled_first(nn.Sequential(*others))
    assert not equivalents(nn.Sequential(relu, pool), tapped=True)


def test_a_layer_is_left_as_it_was_even_after_an_error() -> None:
    net = nn.Sequential(nn.ReLU(), nn.MaxPool2d(4))
    before = [dict(layer.__dict__) for layer in net]
    with pytest.raises(RuntimeError), computed_as(pooled_first(net)):
        net(torch.randn(1, 1, 2, 2))
    assert [layer.__dict__ for layer in net] == before


def test_training_steps_use_them() -> None:
    net = build_model({"name": "lenet5"}, COLOUR, seed=0)
    student = step_of(net, sgd(net, lr=0.1), [0.1])
    assert student.program.equivalents.keys() == pooled_first(net).keys() != set()
