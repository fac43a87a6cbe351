"""Attention in place of global average pooling: equal scores are the average, and everything else still holds."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from cnntrain.config.build import build_model
from cnntrain.data.storage.images import DatasetInfo
from cnntrain.nn.attention import SpatialAttention, attentive
from cnntrain.nn.fully_convolutional import fully_convolutional
from cnntrain.nn.geometry import geometry, outline
from cnntrain.nn.stages import StageError, walk

CIFAR = DatasetInfo("cifar10", tuple("0123456789"), (3, 32, 32), (0.5,) * 3, (0.25,) * 3)


def test_equal_scores_are_global_average_pooling() -> None:
    x = torch.randn(3, 5, 4, 6)
    layer = attentive(nn.AdaptiveAvgPool2d(1), (5, 4, 6))
    assert isinstance(layer, SpatialAttention)
    layer.reset_parameters()
    torch.testing.assert_close(layer(x), nn.AdaptiveAvgPool2d(1)(x))
    constant = torch.cat([x, torch.full((3, 1, 4, 6), 7.0)], dim=1)  # a channel that is the same everywhere
    scored = SpatialAttention(6)
    with torch.no_grad():
        scored.weight.copy_(torch.tensor([0.0, 0, 0, 0, 0, 3]))
    torch.testing.assert_close(scored(constant), constant.mean(dim=(2, 3), keepdim=True))


def test_attention_is_a_softmax_over_positions_of_a_1x1_convolution() -> None:
    x, layer = torch.randn(2, 3, 4, 5, dtype=torch.float64), SpatialAttention(3).double()
    nn.init.normal_(layer.weight)
    scores = np.einsum("nchw,c->nhw", x, layer.weight.detach())
    shares = np.exp(scores) / np.exp(scores).sum(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(layer.attention(x).detach(), shares, rtol=1e-12)
    np.testing.assert_allclose(layer.attention(x).detach().sum(dim=(1, 2)), 1, rtol=1e-12)
    expected = (x.numpy() * shares[:, None]).sum(axis=(2, 3))
    np.testing.assert_allclose(layer(x).detach()[:, :, 0, 0], expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["resnet20", "nin", "mobilenet_v1", "googlenet", "all_cnn"])
def test_a_network_with_global_pooling_starts_as_the_one_without_attention(name: str) -> None:
    plain, attends = (build_model({"name": name, "attention": on}, CIFAR, seed=1).eval() for on in (False, True))
    added = attends.state_dict().keys() - plain.state_dict().keys()
    assert len(added) == 1 and all(torch.equal(attends.state_dict()[key], t) for key, t in plain.state_dict().items())
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(plain(x), attends(x), rtol=1e-4, atol=1e-4)


def test_geometry_counts_the_scores_and_the_weighted_means() -> None:
    plain, attends = (build_model({"name": "resnet20", "attention": on}, CIFAR, device="meta") for on in (False, True))
    one, other = ({row.name: row for row in geometry(net, CIFAR.shape)} for net in (plain, attends))
    assert other["pool"].out_shape == one["pool"].out_shape == (64,)
    assert other["pool"].receptive_field == one["pool"].receptive_field and other["pool"].stride == (None, None)
    assert other["pool"].params == 64 and other["pool"].macs == 2 * 64 * 8 * 8  # a 1×1 score, and a weighted sum
    assert other["pool"].macs == {row.name: row for row in outline(attends, CIFAR.shape)}["pool"].macs
    assert other["fc"] == one["fc"]


def test_scores_are_trained() -> None:
    net = build_model({"name": "resnet20", "attention": True}, CIFAR, seed=0)
    nn.functional.cross_entropy(net(torch.randn(4, 3, 32, 32)), torch.arange(4)).backward()
    gradient = net.get_parameter("pool.pool.weight").grad
    assert gradient is not None and gradient.norm() > 0


def test_a_fully_convolutional_network_attends_to_the_whole_image_only() -> None:
    net = build_model({"name": "nin", "attention": True}, CIFAR, seed=0).eval()
    with pytest.raises(StageError, match="pool.*head=global"):
        fully_convolutional(net, CIFAR.shape)
    x = torch.randn(1, 3, 32, 32)
    *_, (_, logits) = walk(net, x)
    torch.testing.assert_close(fully_convolutional(net, CIFAR.shape, "global")(x)[:, :, 0, 0], logits)


def test_networks_without_global_pooling_are_refused(refused: Callable[..., str]) -> None:
    assert "model.attention=true" in refused("fit", "model=lenet5", "model.attention=true")
    assert "model.attention" in refused("fit", "model=torchvision", "model.arch=resnet18", "model.attention=true")
