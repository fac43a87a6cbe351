"""Blurs wherever a network strides: no parameter, no other shape, less of a jump."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from cnntrain.config.build import build_model
from cnntrain.data.storage.images import DatasetInfo
from cnntrain.models import DENSE, GRIDS, MODELS, TEXT
from cnntrain.nn.antialias import antialiased
from cnntrain.nn.composite import chain
from cnntrain.nn.layers import BlurPool2d, StochasticPool2d

CIFAR = DatasetInfo("cifar10", tuple("0123456789"), (3, 32, 32), (0.5,) * 3, (0.25,) * 3)
GREY = DatasetInfo("mnist", tuple("0123456789"), (1, 28, 28), (0.1,), (0.3,))
# Networks without anything that strides, or whose striding layers are their own.
WITHOUT = {"softmax", "mlp", "locally_connected", "lenet5_1998", "torchvision", "timm"}
WITHOUT |= {"colour_histogram", "filter_bank", "gabor", "kmeans"}
DEEPER = {"preact_resnet1001", "resnet152", "resnet101", "resnet110", "lm_resnet110"}  # the same blocks, more of them


@pytest.mark.parametrize("name", sorted(MODELS.keys() - DENSE.keys() - GRIDS.keys() - TEXT.keys() - WITHOUT - DEEPER))
def test_every_network_keeps_its_parameters_shapes_and_strides(name: str) -> None:
    from cnntrain.nn.geometry import geometry

    info = GREY if name in ("lenet5", "maxout") else CIFAR
    plain, blurred = (build_model({"name": name, "antialias": on}, info, device="meta") for on in (False, True))
    assert any(isinstance(module, BlurPool2d) for module in blurred.modules())
    for one, other in zip(geometry(plain, info.shape), geometry(blurred, info.shape), strict=True):
        assert (one.name, one.out_shape, one.params, one.stride) == (
            other.name,
            other.out_shape,
            other.params,
            other.stride,
        )
        assert other.receptive_field >= one.receptive_field  # type: ignore[operator]


def test_a_blur_is_a_binomial_and_keeps_every_second_position() -> None:
    x = torch.rand(2, 3, 9, 12)
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    rows = (padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]) / 4
    expected = (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 4
    assert np.allclose(BlurPool2d(2)(x), expected[:, :, ::2, ::2], atol=1e-6)
    assert torch.allclose(BlurPool2d(3)(torch.ones(1, 2, 7, 7)), torch.ones(1, 2, 3, 3))
    assert BlurPool2d(2, ceil=True)(torch.ones(1, 1, 8, 8)).shape == (1, 1, 5, 5)


def test_the_blur_stands_behind_the_activation_and_before_a_projection() -> None:
    net = build_model({"name": "resnet20", "antialias": True, "shortcut": "B"}, CIFAR, device="meta")
    block = net.get_submodule("block2_1")
    assert [name for name, _ in block.get_submodule("main").named_children()] == [
        *("conv1", "norm1", "act1", "conv1_blur", "conv2", "norm2"),
    ]
    assert [name for name, _ in block.get_submodule("skip").named_children()] == ["conv_blur", "conv", "norm"]


def test_initial_weights_are_those_of_the_plain_network() -> None:
    plain, blurred = (build_model({"name": "lenet5", "antialias": on}, GREY, seed=3) for on in (False, True))
    one, other = plain.state_dict(), blurred.state_dict()
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_features_jump_less_when_the_image_moves_by_a_pixel() -> None:
    x = torch.rand(8, 1, 28, 28)
    moved = torch.roll(x, 1, 3)
    jumps = {}
    for on in (False, True):
        net = build_model({"name": "convnet", "hidden": 0, "antialias": on}, GREY, seed=0)[:-1].eval()
        with torch.no_grad():
            a, b = net(x), net(moved)
        jumps[on] = float((a - b).norm() / a.std())
    assert jumps[True] < 0.7 * jumps[False]


def test_what_cannot_be_blurred_is_refused(refused: Callable[..., str]) -> None:
    line = refused("fit", "model=mlp", "model.antialias=true")
    assert "model.antialias=true" in line and "mlp" in line
    with pytest.raises(ValueError, match="StochasticPool2d"):
        antialiased(chain(conv=nn.Conv2d(1, 2, 3), pool=StochasticPool2d(2, 2)))
    assert "model.antialias=3" in refused("fit", "model=lenet5", "model.antialias=3")
