"""The arithmetic that lectures on convolutional networks teach, each line against a computation of another kind."""

import itertools
import math

import numpy as np
import pytest
import torch
from made import create_model
from scipy import ndimage, signal
from torch import Tensor, nn
from torch.nn import functional as F

from cnntrain.nn.blocks import Maker, conv, dense, global_average, linear, pooling
from cnntrain.nn.convolutions import depthwise_separable, spatially_separable, transposed_conv
from cnntrain.nn.geometry import StageGeometry, geometry
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, assemble

SOBEL = np.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])


def rows(shape: Shape, out: Shape, **makers: Maker) -> list[StageGeometry]:
    return geometry(assemble(makers, shape, out_shape=out, build=BuildOptions(device="meta")), shape)


def correlate(image: list[list[int]] | np.ndarray, kernel: list[list[int]] | np.ndarray, **options: int) -> np.ndarray:
    given = [torch.tensor(np.array(values), dtype=torch.float64)[None, None] for values in (image, kernel)]
    out: np.ndarray = F.conv2d(*given, **options)[0, 0].numpy()
    return out


# Convolution.


def test_a_layer_correlates_and_a_flipped_kernel_convolves() -> None:
    x, kernel = torch.arange(1.0, 8), torch.tensor([2.0, 3, 1])
    assert F.conv1d(x[None, None], kernel[None, None]).flatten().tolist() == [11, 17, 23, 29, 35]
    flipped = F.conv1d(x[None, None], kernel.flip(0)[None, None]).flatten()
    assert flipped.tolist() == [13, 19, 25, 31, 37] == np.convolve(x, kernel, "valid").tolist()


def test_convolution_commutes_and_correlation_does_not() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=9), rng.normal(size=9)
    np.testing.assert_allclose(np.convolve(a, b), np.convolve(b, a))
    assert not np.allclose(np.correlate(a, b, "full"), np.correlate(b, a, "full"))
    circular = np.array([sum(a[j] * b[(i - j) % 9] for j in range(9)) for i in range(9)])
    np.testing.assert_allclose(np.fft.ifft(np.fft.fft(a) * np.fft.fft(b)).real, circular, atol=1e-12)


def test_sobel_on_a_4_by_7_image_gives_2_by_5_and_is_a_product_of_rank_one() -> None:
    image = np.array([[207, 210, 195, 63, 57, 56, 59], [204, 212, 197, 82, 76, 74, 75]])
    image = np.vstack([image, [[202, 198, 202, 72, 65, 67, 63], [209, 201, 187, 78, 69, 71, 64]]])
    expected = [[-26, -533, -517, -28, -2], [-29, -505, -513, -25, -10]]
    assert correlate(image, SOBEL).tolist() == expected
    assert signal.correlate2d(image, SOBEL, "valid").tolist() == expected
    assert np.array_equal(np.outer([1, 2, 1], [-1, 0, 1]), SOBEL)
    assert np.linalg.matrix_rank(SOBEL) == 1 < np.linalg.matrix_rank(SOBEL + np.eye(3))


FIVE = [[3, 3, 2, 1, 0], [0, 0, 1, 3, 1], [3, 1, 2, 2, 3], [2, 0, 0, 2, 2], [2, 0, 0, 0, 1]]
KERNEL = [[0, 1, 2], [2, 2, 0], [0, 1, 2]]


def test_valid_padded_strided_and_full_convolution_of_the_5_by_5_example() -> None:
    assert correlate(FIVE, KERNEL).tolist() == [[12, 12, 17], [10, 17, 19], [9, 6, 14]]
    same = correlate(FIVE, KERNEL, padding=1)
    assert same.shape == (5, 5) and same[0].tolist() == [6, 14, 17, 11, 3]
    assert correlate(FIVE, KERNEL, padding=1, stride=2).tolist() == [[6, 17, 3], [8, 17, 13], [6, 4, 4]]
    full = signal.correlate2d(FIVE, KERNEL, "full")
    assert full.shape == (7, 7) and np.array_equal(correlate(FIVE, KERNEL, padding=2), full)


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


def test_sizes_that_share_an_output_and_windows_that_do_not_tile() -> None:
    sizes = {
        size: correlate(np.ones((size, size)), np.ones((3, 3)), padding=1, stride=2).shape[0] for size in (7, 8, 9)
    }
    assert sizes == {7: 4, 8: 4, 9: 5}
    assert correlate(np.ones((7, 7)), np.ones((3, 3)), stride=3).shape == (2, 2)  # 7 - 3 is no multiple of 3
    assert [kernel // 2 for kernel in (3, 5, 7, 9)] == [1, 2, 3, 4]
    for kernel in (3, 5, 7, 9):
        assert correlate(np.ones((64, 64)), np.ones((kernel, kernel)), padding=kernel // 2).shape == (64, 64)
    (row,) = rows((3, 224, 224), (32, 220, 220), layer=conv(32, 5))
    assert row.out_shape == (32, 220, 220)


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


def test_a_convolution_is_a_product_of_matrices_two_ways() -> None:
    x, w = torch.randn(1, 2, 6, 5, dtype=torch.float64), torch.randn(3, 2, 3, 3, dtype=torch.float64)
    expected = F.conv2d(x, w)
    patches = F.unfold(x, 3)  # each number again for each window that holds it
    torch.testing.assert_close((w.flatten(1) @ patches).view_as(expected), expected)
    assert patches.numel() == 9 * 2 * 4 * 3
    toeplitz = torch.stack([F.conv2d(e.view(1, 2, 6, 5), w).flatten() for e in torch.eye(60, dtype=torch.float64)], 1)
    torch.testing.assert_close((toeplitz @ x.flatten()).view_as(expected), expected)
    assert int((toeplitz != 0).sum()) == 3 * 4 * 3 * 18  # a sparse matrix: K²C numbers a row


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


def test_a_depthwise_separable_convolution_is_one_whose_kernels_are_scaled_copies() -> None:
    x, depthwise, pointwise = torch.randn(2, 4, 7, 7), torch.randn(4, 3, 3), torch.randn(5, 4)
    found = F.conv2d(F.conv2d(x, depthwise[:, None], groups=4), pointwise[:, :, None, None])
    torch.testing.assert_close(found, F.conv2d(x, torch.einsum("oc,cij->ocij", pointwise, depthwise)))


def test_channels_are_summed_and_a_filter_is_not_swept_over_them() -> None:
    for size, stride in ((3, 1), (4, 2)):
        x, w = torch.randn(1, 3, size, size), torch.randn(1, 3, 2, 2)
        alone = [F.conv2d(x[:, i : i + 1], w[:, i : i + 1], stride=stride) for i in range(3)]
        found = F.conv2d(x, w, stride=stride)
        assert found.shape == (1, 1, 2, 2)
        torch.testing.assert_close(found, alone[0] + alone[1] + alone[2])


def test_a_1_by_1_convolution_is_a_linear_map_at_each_position() -> None:
    layer, x = nn.Conv2d(4, 3, 1), torch.randn(2, 4, 5, 6)
    expected = torch.einsum("oc,nchw->nohw", layer.weight[:, :, 0, 0], x) + layer.bias[None, :, None, None]  # type: ignore[index]
    torch.testing.assert_close(layer(x), expected)
    assert layer.weight.numel() == 4 * 3


def test_groups_are_convolutions_side_by_side() -> None:
    x = torch.randn(2, 4, 6, 6)
    for groups in (1, 2, 4):
        layer = nn.Conv2d(4, 8, 3, groups=groups, bias=False)
        parts = zip(x.chunk(groups, 1), layer.weight.chunk(groups, 0), strict=True)
        torch.testing.assert_close(layer(x), torch.cat([F.conv2d(part, w) for part, w in parts], 1))
        assert layer.weight.numel() == 4 * 8 * 9 // groups


def test_binomial_and_box_kernels_average_and_an_even_kernel_shifts_by_half_a_pixel() -> None:
    image = np.random.default_rng(1).normal(size=(20, 20))
    for kernel in (np.full((3, 3), 1 / 9), np.outer([1, 2, 1], [1, 2, 1]) / 16):
        assert kernel.sum() == pytest.approx(1)
        assert correlate(image, kernel).std() < 0.6 * image.std()
        np.testing.assert_allclose(correlate(np.ones((5, 5)), kernel), 1)
    blob = np.zeros((15, 15))
    blob[6:9, 6:9] = 1
    for size, shift in ((3, 0.0), (2, 0.5)):
        blurred = signal.convolve2d(blob, np.full((size, size), size**-2.0), "same")
        centre = np.array(ndimage.center_of_mass(blurred)) - ndimage.center_of_mass(blob)
        np.testing.assert_allclose(np.abs(centre), shift, atol=1e-9)


def test_a_bank_of_kernels_answers_to_the_edges_it_was_made_for() -> None:
    across, along = np.zeros((24, 24)), np.ones((24, 24))
    across[:, 12:] = 1
    for size in (5, 15):
        step = np.repeat([-1.0, 0, 1], [size // 2, 1, size // 2])
        vertical = np.tile(step, (size, 1))
        for kernel, image in ((vertical, across), (vertical.T, across.T)):
            assert correlate(image, kernel).max() == size * (size // 2)
            assert np.abs(correlate(image.T, kernel)).max() == np.abs(correlate(along, kernel)).max() == 0
        outline = np.full((size, size), -1.0)
        outline[size // 2, size // 2] = size**2 - 1
        assert np.abs(correlate(along, outline)).max() == 0 < np.abs(correlate(across, outline)).max()
        blurred = correlate(across, np.ones((size, size)))[0] / size**2
        np.testing.assert_allclose(np.diff(blurred)[np.diff(blurred) > 0], 1 / size)  # the step became a ramp


def test_convolution_commutes_with_shifts_but_not_with_turns() -> None:
    x, w = torch.randn(1, 1, 12, 12), torch.randn(1, 1, 3, 3)
    moved = F.conv2d(x.roll((2, 1), (2, 3)), w)
    torch.testing.assert_close(moved[:, :, 2:, 1:], F.conv2d(x, w)[:, :, :-2, :-1])
    assert not torch.allclose(moved, F.conv2d(x, w))  # the answer moves too: it is equivariant, not invariant
    assert not torch.allclose(F.conv2d(x.rot90(1, (2, 3)), w), F.conv2d(x, w).rot90(1, (2, 3)))
    doubled, answers = (t.repeat_interleave(2, 2).repeat_interleave(2, 3) for t in (x, F.conv2d(x, w)))
    assert not torch.allclose(F.conv2d(doubled, w)[:, :, 1:-1, 1:-1], answers)


def test_convolution_over_words() -> None:
    words, layer = torch.randn(1, 10, 7), nn.Conv1d(10, 4, 3)
    assert layer(words).shape == (1, 4, 5) and layer(words).amax(2).shape == (1, 4)
    windows = torch.stack([words[0, :, i : i + 3].flatten() for i in range(5)])
    expected = windows @ layer.weight.flatten(1).T + layer.bias
    torch.testing.assert_close(layer(words)[0].T, expected)
    for length, kernel, stride, padding in itertools.product((7, 8), (2, 3), (1, 2), (0, 1)):
        starts = range(-padding, length + padding - kernel + 1, stride)
        out = F.conv1d(torch.ones(1, 1, length), torch.ones(1, 1, kernel), stride=stride, padding=padding)
        assert out.shape[2] == len(starts)


# Pooling, normalisation, regularisation, gradients.

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


def test_batch_norm_divides_by_the_root_of_the_biased_variance_and_keeps_the_unbiased() -> None:
    layer, x = nn.BatchNorm2d(3, momentum=1.0), torch.randn(4, 3, 5, 5) * 0.01 + 2
    values = x.transpose(0, 1).flatten(1).double()
    biased = ((values - values.mean(1, keepdim=True)) ** 2).mean(1)
    expected = (values - values.mean(1, keepdim=True)) / (biased + layer.eps).sqrt()[:, None]
    torch.testing.assert_close(layer(x).transpose(0, 1).flatten(1).double(), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(layer.running_var.double(), biased * 100 / 99, rtol=1e-4, atol=0)  # type: ignore[union-attr]
    torch.testing.assert_close(
        layer.eval()(x)[:, 0].double(),
        (x[:, 0].double() - values[0].mean()) / (biased[0] * 100 / 99 + layer.eps).sqrt(),
        rtol=1e-3,
        atol=1e-3,
    )


def test_batch_norm_scales_shifts_and_differentiates_through_its_statistics() -> None:
    layer, x = nn.BatchNorm2d(2).double(), torch.randn(3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    nn.init.constant_(layer.weight, 3.0)
    nn.init.constant_(layer.bias, -1.0)
    values = layer(x).transpose(0, 1).flatten(1)
    torch.testing.assert_close(values.mean(1), torch.full((2,), -1.0, dtype=torch.float64))
    torch.testing.assert_close(
        values.std(1, correction=0), torch.full((2,), 3.0, dtype=torch.float64), rtol=1e-3, atol=0
    )
    assert torch.autograd.gradcheck(layer, x)
    (through,) = torch.autograd.grad(layer(x).sum(), x)
    assert through.abs().max() < 1e-12  # a shift of all values changes nothing


def test_halved_weights_are_the_geometric_mean_of_all_thinned_networks() -> None:
    hidden, classes = 6, 4
    rng = np.random.default_rng(2)
    h, w, b = rng.normal(size=hidden), rng.normal(size=(classes, hidden)), rng.normal(size=classes)

    def softmax(scores: np.ndarray) -> np.ndarray:
        powers: np.ndarray = np.exp(scores - scores.max())
        return powers / powers.sum()

    masks = itertools.product((0, 1), repeat=hidden)
    mean = np.exp(np.mean([np.log(softmax(w @ (h * mask) + b)) for mask in masks], axis=0))
    np.testing.assert_allclose(softmax(w @ h / 2 + b), mean / mean.sum(), rtol=1e-10)


def test_dropout_evaluates_as_the_thinned_network_with_halved_weights() -> None:
    stage, x = dense(50, dropout=0.5)((20,)), torch.randn(3, 20)
    torch.manual_seed(1)
    thinned = stage.train()(x)
    kept = thinned != 0
    whole = stage.eval()(x)
    torch.testing.assert_close(thinned[kept], 2 * whole[kept])  # so that evaluation needs no halving
    share = float(kept[whole > 0].float().mean())
    assert 0.3 < share < 0.7


def test_the_gradient_vanishes_through_sigmoids_and_not_through_relus_or_residuals() -> None:
    def first_gradient(step: str) -> float:
        torch.manual_seed(0)
        layers = [nn.Linear(16, 16) for _ in range(20)]
        x: Tensor = torch.randn(8, 16)
        for layer in layers:
            if step == "relu":
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            out = layer(x)
            x = {"sigmoid": out.sigmoid(), "relu": out.relu(), "residual": x + 0.1 * out.relu()}[step]
        x.square().sum().backward()
        assert layers[0].weight.grad is not None
        return float(layers[0].weight.grad.norm())

    assert first_gradient("sigmoid") < 1e-8 < 1e-2 < min(first_gradient("relu"), first_gradient("residual"))


def test_a_residual_unit_differentiates_to_phi_times_one_plus_f() -> None:
    a = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    out = torch.tanh(a + torch.sin(a))
    (found,) = torch.autograd.grad(out, a)
    expected = (1 - math.tanh(0.3 + math.sin(0.3)) ** 2) * (1 + math.cos(0.3))  # no second phi'
    assert float(found) == pytest.approx(expected, rel=1e-12)


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
