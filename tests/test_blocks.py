"""Layers made by name: their sizes, costs and values, as the arithmetic of lectures has them."""

import itertools
import math

import pytest
import torch
from made import create_model
from torch import nn
from torch.nn import functional as F

from cnntrain.nn.blocks import Maker, conv, dense, global_average, linear, pooling
from cnntrain.nn.convolutions import depthwise_separable, spatially_separable, transposed_conv
from cnntrain.nn.geometry import StageGeometry, geometry
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, assemble


def rows(shape: Shape, out: Shape, **makers: Maker) -> list[StageGeometry]:
    return geometry(assemble(makers, shape, out_shape=out, build=BuildOptions(device="meta")), shape)


def test_sizes_follow_the_formula_for_every_kernel_stride_padding_and_dilation() -> None:
    for size, kernel, stride, padding, dilation in itertools.product(
        (5, 7, 8, 11), (1, 2, 3, 5), (1, 2, 3), (0, 1, 2), (1, 2)
    ):
        reach = kernel + (kernel - 1) * (dilation - 1)
        if reach > size + 2 * padding:
            continue
        starts = range(-padding, size + padding - reach + 1, stride)  # counted, not divided
        layer = conv(1, kernel, stride=stride, padding=padding, dilation=dilation)
        found = rows((1, size, size), (1, len(starts), len(starts)), layer=layer)[0]
        assert (size + 2 * padding - reach) // stride + 1 == len(starts)
        assert found.params == kernel**2 + 1 and found.receptive_field == (reach, reach)


def test_a_convolution_against_a_full_connection() -> None:
    (shared,) = rows((3, 32, 32), (8, 28, 28), layer=conv(8, 5))
    assert (shared.params, math.prod(shared.out_shape)) == (608, 6_272)
    (full,) = rows((3, 32, 32), (6_272,), layer=linear(6_272))
    assert full.params == 6_272 * 3_073 == 19_273_856 + 0 and round(full.params / shared.params, -2) == 31_700
    assert shared.macs == 28 * 28 * 8 * 75


def test_dilations_grow_the_field_exponentially_at_linear_cost() -> None:
    grown = rows((1, 31, 31), (1, 17, 17), **{f"d{d}": conv(1, 3, dilation=d) for d in (1, 2, 4)})
    plain = rows((1, 31, 31), (1, 25, 25), **{f"d{d}": conv(1, 3) for d in (1, 2, 4)})
    assert [row.receptive_field[0] for row in grown if row.receptive_field] == [2 ** (i + 2) - 1 for i in range(3)]
    assert [row.receptive_field[0] for row in plain if row.receptive_field] == [3, 5, 7]
    assert [row.params for row in grown] == [row.params for row in plain] == [10, 10, 10]


def test_three_small_windows_see_one_large_and_save_45_percent() -> None:
    width = 16
    small = rows((width, 9, 9), (width, 3, 3), **{f"c{i}": conv(width, 3, bias=False) for i in range(3)})
    (large,) = rows((width, 9, 9), (width, 3, 3), layer=conv(width, 7, bias=False))
    assert small[-1].receptive_field == large.receptive_field == (7, 7)
    weights = sum(row.params for row in small)
    assert (weights, large.params) == (27 * width**2, 49 * width**2)
    assert round(100 * (1 - weights / large.params), 1) == 44.9


def test_the_transposed_convolution_is_the_transposed_matrix_and_no_inverse() -> None:
    w = torch.tensor([[1.0, 2], [3, 4]])
    a, b, c, d = w.flatten().tolist()
    matrix = torch.tensor(
        [
            [a, b, 0, c, d, 0, 0, 0, 0],
            [0, a, b, 0, c, d, 0, 0, 0],
            [0, 0, 0, a, b, 0, c, d, 0],
            [0, 0, 0, 0, a, b, 0, c, d],
        ]
    )
    x = torch.randn(9)
    z = F.conv2d(x.view(1, 1, 3, 3), w[None, None]).flatten()
    torch.testing.assert_close(matrix @ x, z)
    stage = transposed_conv(1, 2)((1, 2, 2))
    layer = stage.get_submodule("conv")
    with torch.no_grad():
        layer.weight.copy_(w[None, None])  # type: ignore[union-attr, operator]
        layer.bias.zero_()  # type: ignore[union-attr, operator]
    y = layer(z.view(1, 1, 2, 2)).flatten()
    torch.testing.assert_close(y, matrix.T @ z)
    assert not torch.allclose(y, x)


def test_separable_convolutions_and_their_price() -> None:
    width, out = 8, 256
    (both,) = rows((width, 5, 5), (out, 5, 5), layer=depthwise_separable(out, 3))
    assert both.macs == 25 * (9 * width + width * out)
    (whole,) = rows((width, 5, 5), (out, 5, 5), layer=conv(out, 3, padding=1))
    assert both.macs / whole.macs == pytest.approx(1 / out + 1 / 9) and round(both.macs / whole.macs, 4) == 0.115
    stage = spatially_separable(1, 3, activation="none")((1, 6, 6)).double()
    column, row = (stage.get_submodule(name) for name in ("column", "row"))
    kernel = torch.outer(column.weight.flatten(), row.weight.flatten())  # type: ignore[operator, union-attr, arg-type]
    x = torch.randn(1, 1, 6, 6, dtype=torch.float64)
    nn.init.zeros_(column.bias)  # type: ignore[arg-type]
    whole_kernel = F.conv2d(x, kernel[None, None], row.bias, padding=1)  # type: ignore[arg-type]
    torch.testing.assert_close(stage(x), whole_kernel)


MATRIX = torch.tensor([[5.0, 3, 0, 3], [4, 0, 9, 4], [2, 4, 1, 2], [1, 3, 2, 3]])[None, None]


def test_pooling_of_the_4_by_4_example_and_its_gradients() -> None:
    x = MATRIX.clone().requires_grad_()
    mean, largest = (pooling(kind, 2)((1, 4, 4))(x) for kind in ("avg", "max"))
    assert mean[0, 0].tolist() == [[3, 4], [2.5, 2]] and largest[0, 0].tolist() == [[5, 9], [4, 3]]
    (routed,) = torch.autograd.grad(largest.sum(), x)
    assert torch.equal((x * routed).flatten()[routed.flatten() > 0], torch.tensor([5.0, 9, 4, 3]))
    (spread,) = torch.autograd.grad(mean.sum(), x)
    assert (spread == 0.25).all()
    row = torch.randn(7)
    for size, stride in ((2, 2), (3, 2), (3, 1)):  # apart, overlapping, and one that only blurs
        pooled = pooling("max", size, stride)((1, 7, 7))(row.expand(1, 1, 7, 7))[0, 0, 0]
        assert pooled.tolist() == [float(max(row[i : i + size])) for i in range(0, 7 - size + 1, stride)]


def test_pooling_takes_parameters_only_from_a_later_full_connection() -> None:
    def params(*stages: Maker) -> int:
        makers = {f"s{i}": maker for i, maker in enumerate(stages)}
        return sum(row.params for row in rows((2, 8, 8), (5,), **makers))

    layer, pool = conv(4, 3, padding=1), pooling("max", 2)
    assert params(layer, pool, global_average(), linear(5)) == params(layer, global_average(), linear(5))
    assert params(layer, linear(5)) - params(layer, pool, linear(5)) == 4 * (64 - 16) * 5


def test_dropout_evaluates_as_the_thinned_network_with_halved_weights() -> None:
    stage, x = dense(50, dropout=0.5)((20,)), torch.randn(3, 20)
    torch.manual_seed(1)
    thinned = stage.train()(x)
    kept = thinned != 0
    whole = stage.eval()(x)
    torch.testing.assert_close(thinned[kept], 2 * whole[kept])  # so that evaluation needs no halving
    share = float(kept[whole > 0].float().mean())
    assert 0.3 < share < 0.7


def test_pre_activation_blocks_add_up_exactly() -> None:
    net = create_model("preact_resnet164", (3, 32, 32), 10).double().eval()
    x = net.get_submodule("block1_1")(net.get_submodule("conv1")(torch.randn(1, 3, 32, 32, dtype=torch.float64)))
    x = x.detach().requires_grad_()
    bodies, last = torch.zeros_like(x), x
    for number in range(2, 6):
        block = net.get_submodule(f"block1_{number}")
        bodies = bodies + block.get_submodule("main")(last)
        last = block(last)
    torch.testing.assert_close(last, x + bodies)
    arrives = torch.randn_like(last)  # and so what arrives at the end arrives unchanged, with the bodies' part added
    whole, part = (torch.autograd.grad(out, x, arrives, retain_graph=True)[0] for out in (last, bodies))
    torch.testing.assert_close(whole, arrives + part)
