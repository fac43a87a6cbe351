"""Classifiers as fully convolutional networks: equal to window by window where nothing is padded."""

import pytest
import torch
from torch import nn

from cnntrain.models import MODELS
from cnntrain.nn.blocks import Maker, conv, dense, global_average, linear, pooling
from cnntrain.nn.fully_convolutional import by_windows, cell_step, fully_convolutional
from cnntrain.nn.stages import BuildOptions, StageError, assemble


def network(*, padding: int = 0, gap: bool = False) -> nn.Sequential:
    makers: dict[str, Maker] = {"conv1": conv(4, 3, padding=padding), "pool1": pooling("max", 2), "conv2": conv(5, 3)}
    makers |= {"gap": global_average()} if gap else {"fc1": dense(7, dropout=0.5)}
    return assemble({**makers, "fc2": linear(3)}, (2, 10, 10), out_shape=(3,)).eval()


@pytest.mark.parametrize("gap", [False, True])
def test_without_padding_the_map_is_what_windows_give(gap: bool) -> None:
    net = network(gap=gap)
    whole = fully_convolutional(net, (2, 10, 10))
    images = torch.randn(2, 2, 16, 14)
    step = cell_step(whole, (2, 10, 10))
    assert step == (2, 2)
    expected = by_windows(net, images, (10, 10), step)
    assert expected.shape == (2, 3, 4, 3)
    torch.testing.assert_close(whole(images), expected, rtol=1e-4, atol=1e-5)


def test_its_own_size_gives_its_own_answer_and_stages_keep_their_names() -> None:
    net = network(padding=1)
    whole, x = fully_convolutional(net, (2, 10, 10)), torch.randn(2, 2, 10, 10)
    torch.testing.assert_close(whole(x)[:, :, 0, 0], net(x), rtol=1e-4, atol=1e-5)
    assert [name for name, _ in whole.named_children()] == [name for name, _ in net.named_children()]


def test_with_padding_windows_see_zeros_where_the_image_goes_on() -> None:
    net = network(padding=1)
    whole, images = fully_convolutional(net, (2, 10, 10)), torch.randn(1, 2, 16, 16)
    apart = (whole(images) - by_windows(net, images, (10, 10), cell_step(whole, (2, 10, 10)))).abs()
    assert apart.max() > 1e-3


def test_weights_are_shared() -> None:
    net = network()
    whole = fully_convolutional(net, (2, 10, 10))
    before = whole(torch.ones(1, 2, 10, 10))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2)
    assert not torch.allclose(before, whole(torch.ones(1, 2, 10, 10)))
    assert sum(p.numel() for p in whole.parameters()) == sum(p.numel() for p in net.parameters())


def test_a_global_pooling_may_stay() -> None:
    net = network(gap=True)
    whole = fully_convolutional(net, (2, 10, 10), head="global")
    images = torch.randn(2, 2, 16, 14)
    assert whole(images).shape == (2, 3, 1, 1)
    torch.testing.assert_close(whole(images)[:, :, 0, 0], net(images))


def test_the_first_full_connection_of_vgg16_keeps_its_parameters() -> None:
    net = MODELS["vgg11"]((3, 64, 64), 10, BuildOptions())
    whole = fully_convolutional(net, (3, 64, 64))
    (layer,) = [m for m in whole.get_submodule("fc6").modules() if isinstance(m, nn.Conv2d)]
    (full,) = [m for m in net.get_submodule("fc6").modules() if isinstance(m, nn.Linear)]
    assert layer.weight.numel() == full.weight.numel() and layer.kernel_size == tuple(layer.weight.shape[2:])


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [("lenet5_1998", (1, 32, 32), "'rbf'.*RadialBasis"), ("googlenet", (3, 64, 64), "")],
)
def test_a_network_that_cannot_be_converted_says_why(name: str, shape: tuple[int, int, int], reason: str) -> None:
    net = MODELS[name](shape, 10, BuildOptions())
    if not reason:
        assert fully_convolutional(net, shape).eval()(torch.zeros(1, *shape)).shape == (1, 10, 1, 1)
        return
    with pytest.raises(StageError, match=reason):
        fully_convolutional(net, shape)
