"""Evaluation over dropout masks: the geometric mean of thinned networks, whatever the mode before."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cnntrain.data.augment.tta import TTA
from cnntrain.nn.blocks import dense, linear
from cnntrain.nn.stages import assemble
from cnntrain.runtime.errors import InputError
from cnntrain.training.evaluate import answers, dropping

Call = Callable[..., dict[str, Any]]


@pytest.fixture
def net() -> nn.Sequential:
    makers = {"fc1": dense(6, activation="tanh", dropout=0.5), "fc2": linear(3)}
    return assemble(makers, (4,), out_shape=(3,)).eval()


def test_halved_weights_are_the_geometric_mean_of_every_mask(net: nn.Sequential) -> None:
    x = torch.randn(5, 4)
    hidden = torch.tanh(net.get_submodule("fc1.linear")(x))
    last = net.get_submodule("fc2.linear")
    logs = [last(2 * hidden * torch.tensor(mask)).log_softmax(1) for mask in itertools.product((0.0, 1.0), repeat=6)]
    mean = torch.stack(logs).mean(0).softmax(1)
    torch.testing.assert_close(net(x).softmax(1), mean)


def test_the_mean_over_sampled_masks_comes_near_it(net: nn.Sequential) -> None:
    batch = (torch.randn(5, 4), torch.zeros(5, dtype=torch.int64))
    many = [(1 / 4000, TTA["none"][0][1])] * 4000
    ((sampled, _),) = answers(net, [batch], precision="fp32", views=many, dropout_seed=0)
    assert (sampled.softmax(1) - net(batch[0]).softmax(1)).abs().max() < 0.02


def test_masks_are_those_of_the_seed_and_leave_no_trace(net: nn.Sequential) -> None:
    batch = (torch.randn(5, 4), torch.zeros(5, dtype=torch.int64))
    state = torch.default_generator.get_state()
    one, two, other = (
        next(answers(net, [batch], precision="fp32", views=TTA["dropout"], dropout_seed=seed))[0] for seed in (1, 1, 2)
    )
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert torch.equal(torch.default_generator.get_state(), state) and not net.training
    assert not any(module.training for module in net.modules())


def test_a_network_without_dropout_is_refused() -> None:
    with pytest.raises(InputError, match="no dropout"), dropping(nn.Linear(2, 2), 0):
        pass


def test_eval_over_masks_stands_beside_the_plain_one(cnntrain: Call, tiny: tuple[str, ...]) -> None:
    cnntrain("fit", *tiny, "model=alexnet", "model.hidden=32", "dataset.image_size=32", "output_dir=run")
    plain, masked = (cnntrain("eval", "run=run", f"tta={tta}") for tta in ("none", "dropout"))
    assert masked["tta"] == "dropout" and masked["n"] == plain["n"] and masked["loss"] != plain["loss"]
    assert masked["loss"] == pytest.approx(plain["loss"], rel=0.5)
