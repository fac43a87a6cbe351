"""What single layers compute, each against another way to compute it."""

import math
from typing import get_args

import pytest
import torch
from made import create_model
from torch import nn
from torch.nn import functional as F

from cnntrain.models.convnet import Convolution, Normalisation, Pooling
from cnntrain.models.lenet import CONV3_TABLE
from cnntrain.nn.blocks import conv, unpooled
from cnntrain.nn.convolutions import maxout_conv, transposed_conv
from cnntrain.nn.layers import (
    BITMAPS,
    Activation,
    FractionalMaxPool2d,
    LocalContrastNorm,
    LocallyConnected2d,
    LocalResponseNorm,
    Maxout,
    PartialConv2d,
    RadialBasis,
    RotatedConv2d,
    ScaledTanh,
    StochasticPool2d,
    Subsample,
)

GRAY, CIFAR = (1, 28, 28), (3, 32, 32)


def test_conv3s_table_is_table_1_of_the_paper() -> None:
    assert [len(reads) for reads in CONV3_TABLE] == [3] * 6 + [4] * 9 + [6]
    assert [set(CONV3_TABLE[i]) for i in (5, 11, 12, 13, 14)] == [
        *({5, 0, 1}, {5, 0, 1, 2}, {0, 1, 3, 4}, {1, 2, 4, 5}, {0, 2, 3, 5}),
    ]
    reads = [sum(i in row for row in CONV3_TABLE) for i in range(6)]
    assert reads == [10] * 6  # sixty connections, spread evenly


def test_a_partial_convolution_sums_only_the_maps_of_its_table() -> None:
    layer, x = PartialConv2d(((0, 2), (1,)), 3, 3), torch.randn(2, 3, 6, 6)
    layer.reset_parameters()
    first = F.conv2d(x[:, [0, 2]], layer.weight[:2].unsqueeze(0), layer.bias[:1])
    second = F.conv2d(x[:, [1]], layer.weight[2:].unsqueeze(0), layer.bias[1:])
    torch.testing.assert_close(layer(x), torch.cat([first, second], dim=1))


def test_subsampling_adds_four_inputs_times_a_coefficient_plus_a_bias() -> None:
    layer, x = Subsample(2), torch.randn(1, 2, 4, 4)
    layer.reset_parameters()
    window = x[0, 1, 2:4, 0:2].sum() * layer.weight[1] + layer.bias[1]
    torch.testing.assert_close(layer(x)[0, 1, 1, 0], window)


def test_an_output_unit_is_minus_the_squared_distance_to_a_bitmap() -> None:
    layer = RadialBasis(10, 84)
    layer.reset_parameters()
    assert layer.codes.shape == (10, 84) and set(layer.codes.unique().tolist()) == {-1.0, 1.0}
    assert len({tuple(code.tolist()) for code in layer.codes}) == len(BITMAPS) == 10
    out = layer(layer.codes)
    assert torch.equal(out.argmax(dim=1), torch.arange(10)) and out.diag().abs().max() == 0
    assert out[0, 1] == -4 * (layer.codes[0] != layer.codes[1]).sum()


def test_the_faithful_lenet_pads_28_to_32_with_the_border() -> None:
    near = create_model("lenet5_1998", GRAY, 10).eval()
    large = create_model("lenet5_1998", (1, 32, 32), 10).eval()
    large.load_state_dict(near.state_dict())
    x = torch.randn(2, *GRAY)
    torch.testing.assert_close(near(x), large(F.pad(x, (2, 2, 2, 2), mode="replicate")))


def test_scaled_tanh_maps_one_to_one() -> None:
    assert abs(float(ScaledTanh()(torch.tensor(1.0))) - 1) < 1e-4


def test_shortcut_a_is_the_identity_on_every_second_position_with_zero_channels() -> None:
    skip = create_model("resnet20", CIFAR, 10).get_submodule("block2_1.skip")
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(skip(x)[:, :16], x[:, :, ::2, ::2])
    assert not skip(x)[:, 16:].any() and skip(x).shape == (2, 32, 4, 4)


@pytest.mark.parametrize("channels", [3, 5, 16])
def test_local_response_norm_is_torchs_with_alpha_times_its_size(channels: int) -> None:
    x = torch.randn(2, channels, 7, 5, requires_grad=True)
    ours, torchs = LocalResponseNorm(alpha=0.01)(x), F.local_response_norm(x, 5, alpha=0.05, beta=0.75, k=2.0)
    torch.testing.assert_close(ours, torchs, rtol=1e-6, atol=1e-6)
    one, two = (torch.autograd.grad(out.square().sum(), x)[0] for out in (ours, torchs))
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_local_contrast_norm_is_the_formula_at_a_position_and_forgets_offset_and_scale() -> None:
    layer, x = LocalContrastNorm(5), torch.randn(1, 3, 13, 13, dtype=torch.float64) * 4
    axis = torch.exp(-0.5 * (torch.arange(-2.0, 3.0, dtype=torch.float64) / layer.deviation) ** 2)
    weight = axis[:, None] * axis / axis.sum() ** 2

    def mean(values: torch.Tensor, i: int, j: int) -> torch.Tensor:
        return (values[0, :, i - 2 : i + 3, j - 2 : j + 3] * weight).sum() / 3

    means = torch.tensor([[float(mean(x, i, j)) for j in range(4, 9)] for i in range(4, 9)], dtype=torch.float64)
    centred = x[:, :, 4:9, 4:9] - means
    expected = centred[0, :, 2, 2] / (mean(centred.square(), 2, 2) + layer.floor**2).sqrt()
    torch.testing.assert_close(layer(x)[0, :, 6, 6], expected)
    torch.testing.assert_close(layer(x), layer(3 * x + 7), rtol=1e-3, atol=1e-3)
    assert layer(torch.full((1, 2, 9, 9), 5.0)).abs().max() < 1e-3


MATRIX = torch.tensor([[5.0, 3, 0, 3], [4, 0, 9, 4], [2, 4, 1, 2], [1, 3, 2, 3]])[None, None]


def test_stochastic_pooling_weights_in_evaluation_and_draws_in_training_with_its_probabilities() -> None:
    layer = StochasticPool2d(2, 2)
    expected = torch.tensor([[50 / 12, 106 / 16], [30 / 10, 18 / 8]])
    torch.testing.assert_close(layer.eval()(MATRIX)[0, 0], expected)
    torch.manual_seed(3)
    draws = layer.train()(MATRIX.expand(4000, -1, -1, -1))[:, 0]
    assert set(draws[:, 0, 0].tolist()) == {5.0, 4.0, 3.0} and set(draws[:, 0, 1].tolist()) == {3.0, 9.0, 4.0}
    for value, share in ((5.0, 5 / 12), (3.0, 3 / 12), (4.0, 4 / 12)):
        found = float((draws[:, 0, 0] == value).float().mean())
        assert abs(found - share) < 4 * math.sqrt(share * (1 - share) / 4000)
    assert not layer(torch.zeros(1, 1, 4, 4)).any()


def test_stochastic_pooling_sends_the_gradient_to_the_value_it_drew() -> None:
    x = MATRIX.clone().requires_grad_()
    out = StochasticPool2d(2, 2).train()(x)
    out.sum().backward()
    assert x.grad is not None and x.grad.sum() == 4 and set(x.grad.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close((x * x.grad).sum(), out.sum())


def test_fractional_pooling_shrinks_by_the_root_of_two_and_rests_in_evaluation() -> None:
    layer, x = FractionalMaxPool2d(), torch.randn(2, 3, 20, 24)
    assert layer(x).shape == layer(x.to("meta")).shape == (2, 3, 14, 16)
    assert not torch.equal(layer(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))
    assert set(layer(x).flatten().tolist()) <= set(x.flatten().tolist())


def test_maxout_takes_the_largest_of_consecutive_channels() -> None:
    x = torch.randn(2, 6, 3, 3)
    expected = torch.stack([x[:, :3].amax(1), x[:, 3:].amax(1)], dim=1)
    assert torch.equal(Maxout(3)(x), expected)


def test_rotated_kernels_are_one_kernel_in_four_directions() -> None:
    layer, x = RotatedConv2d(2, 3, 3, padding=1), torch.randn(2, 2, 8, 8)
    layer.reset_parameters()
    out = layer(x).unflatten(1, (3, 4))
    for turns in range(4):
        kernel = layer.weight.rot90(turns, (2, 3))
        torch.testing.assert_close(out[:, :, turns], F.conv2d(x, kernel, layer.bias, padding=1))


def test_a_maxout_network_over_rotated_filters_does_not_see_quarter_turns() -> None:
    x = torch.randn(3, 3, 32, 32)
    turned, upright = (create_model("maxout", CIFAR, 10, rotated=rotated).eval() for rotated in (True, False))
    torch.testing.assert_close(turned(x), turned(x.rot90(1, (2, 3))), rtol=1e-4, atol=1e-5)
    assert (upright(x) - upright(x.rot90(1, (2, 3)))).abs().max() > 1e-3


def test_a_locally_connected_layer_is_a_convolution_of_its_own_at_every_position() -> None:
    layer, x = LocallyConnected2d(2, 3, 3, 2, (3, 4)), torch.randn(2, 2, 7, 9)
    layer.reset_parameters()
    for position, (i, j) in enumerate((i, j) for i in range(3) for j in range(4)):
        patch = x[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].flatten(1)
        expected = patch @ layer.weight[:, :, position].T + layer.bias[:, position]
        torch.testing.assert_close(layer(x)[:, :, i, j], expected)


def test_a_locally_connected_network_with_equal_kernels_is_its_convolutional_twin() -> None:
    local, twin = (create_model("locally_connected", GRAY, 10, shared=shared) for shared in (False, True))
    shared = twin.state_dict()
    for stage in ("conv1", "conv2"):
        layer = local.get_submodule(f"{stage}.conv")
        assert isinstance(layer, LocallyConnected2d)
        with torch.no_grad():
            layer.weight.copy_(shared[f"{stage}.conv.weight"].flatten(1).unsqueeze(2).expand_as(layer.weight))
            layer.bias.copy_(shared[f"{stage}.conv.bias"].unsqueeze(1).expand_as(layer.bias))
    dense = {key: value for key, value in shared.items() if key.startswith("fc")}
    local.load_state_dict(dense, strict=False)
    x = torch.randn(2, *GRAY)
    torch.testing.assert_close(local(x), twin(x), rtol=1e-4, atol=1e-5)


def test_unpooling_puts_the_maxima_back_where_they_were() -> None:
    stage = unpooled(2, lambda shape: nn.Identity())((1, 4, 4))
    restored = stage(MATRIX)
    assert torch.equal(F.max_pool2d(restored, 2), F.max_pool2d(MATRIX, 2))
    assert int((restored != 0).sum()) == 4 and torch.equal(restored[restored != 0], MATRIX[restored != 0])
    assert stage(MATRIX.to("meta")).shape == MATRIX.shape
    with pytest.raises(ValueError, match="no places"):
        unpooled(2, conv(3, 1))((1, 4, 4))(MATRIX)


def test_transposed_and_grouped_makers() -> None:
    assert transposed_conv(4, 3, stride=2)((2, 5, 6))(torch.randn(1, 2, 5, 6)).shape == (1, 4, 11, 13)
    wide = maxout_conv(3, 3, padding=1, pieces=2)((2, 5, 5))
    assert wide(torch.randn(1, 2, 5, 5)).shape == (1, 3, 5, 5)


def test_batch_norm_stands_before_the_activation_or_last() -> None:
    x = torch.randn(16, 2, 6, 6)
    before, last = (conv(3, 3, norm=True, norm_last=last)((2, 6, 6)) for last in (False, True))
    assert list(dict(before.named_children())) == ["conv", "norm", "act"]
    assert list(dict(last.named_children())) == ["conv", "act", "norm"]
    assert (before(x) >= 0).all()
    torch.testing.assert_close(last(x).mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    assert before.get_submodule("conv").bias is None and last.get_submodule("conv").bias is not None


def test_lm_resnet_with_every_step_at_zero_is_resnet_bit_for_bit() -> None:
    x, labels = torch.randn(4, *CIFAR), torch.arange(4)
    plain, multistep = create_model("resnet20", CIFAR, 10), create_model("lm_resnet20", CIFAR, 10)
    assert not torch.equal(plain(x), multistep(x))
    for path, parameter in multistep.named_parameters():
        if path.endswith("step"):
            nn.init.zeros_(parameter)
    assert torch.equal(plain(x), multistep(x))
    for net in (plain, multistep):
        F.cross_entropy(net(x), labels).backward()
    theirs = dict(multistep.named_parameters())
    for path, parameter in plain.named_parameters():
        assert torch.equal(parameter.grad, theirs[path].grad), path  # type: ignore[arg-type]


def test_lm_resnet_follows_its_recursion() -> None:
    net = create_model("lm_resnet20", CIFAR, 10).eval()
    now, last = torch.randn(2, 16, 8, 8).relu(), torch.randn(2, 16, 8, 8).relu()
    block = net.get_submodule("block1_2")
    nn.init.constant_(block.step, -0.5)  # type: ignore[arg-type]
    after, kept = block(torch.cat([now, last], 1)).chunk(2, 1)
    torch.testing.assert_close(after, (1.5 * now - 0.5 * last + block.main(now)).relu())  # type: ignore[operator]
    assert torch.equal(kept, now)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("convolution", value) for value in get_args(Convolution)),
        *(("norm", value) for value in get_args(Normalisation)),
        *(("activation", value) for value in get_args(Activation)),
        *(("pool", value) for value in get_args(Pooling)),
        *(("groups", 2), ("dilation", 2), ("hidden", 0), ("dropout", 0.5), ("widths", [4, 4, 4]), ("kernel", 5)),
    ],
)
def test_every_kind_of_layer_is_a_word_away_and_learns(option: str, value: object) -> None:
    torch.manual_seed(0)
    options = {"widths": [4, 8], "hidden": 16, "activation": "tanh", option: value}
    net = create_model("convnet", (1, 16, 16), 3, **options)
    y, wave = torch.arange(12) % 3, torch.sin(torch.arange(16.0))
    gratings = torch.stack([wave[:, None].expand(16, 16), wave.expand(16, 16), wave[:, None] * wave])
    x = 2 * gratings[y].unsqueeze(1) + 0.1 * torch.randn(12, 1, 16, 16)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5]), losses
    out = net.eval()(x)
    assert torch.equal(out, net(x)) and out.isfinite().all()
