"""Convolution: its arithmetic, its shapes and its price."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from cnntrain.nn.blocks import conv, global_average, linear, pooling
from cnntrain.nn.conv_matmul import Filtering, windows
from cnntrain.nn.conv_matmul import matrix as filters_in_rows
from cnntrain.nn.convolutions import depthwise_separable, spatially_separable, transposed_conv
from cnntrain.runtime.seeding import generator
from cnntrain.studies.verify.registry import item
from cnntrain.studies.verify.ways import by_hand, layer, listed, macs, maps, network, params, stages, starts

IMAGE = [[3, 3, 2, 1, 0], [0, 0, 1, 3, 1], [3, 1, 2, 2, 3], [2, 0, 0, 2, 2], [2, 0, 0, 0, 1]]  # 000:251
KERNEL = [[0, 1, 2], [2, 2, 0], [0, 1, 2]]
SOBEL = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
STREET = [  # 002:110
    [207, 210, 195, 63, 57, 56, 59],
    [204, 212, 197, 82, 76, 74, 75],
    [202, 198, 202, 72, 65, 67, 63],
    [209, 201, 187, 78, 69, 71, 64],
]
LINE, TAPS = [1, 2, 3, 4, 5, 6, 7], [2, 3, 1]  # 000:97


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Return normal numbers, the same at every call."""
    return generator(seed, "verify").normal(size=shape)


def close(a: np.ndarray | torch.Tensor, b: np.ndarray | torch.Tensor) -> bool:
    """Say whether two arrays are equal up to rounding."""
    return bool(np.allclose(np.asarray(a), np.asarray(b), rtol=1e-9, atol=1e-9))


def seen(image: np.ndarray, kernel: int = 3, padding: int = 0) -> torch.Tensor:
    """Return the windows of maps [C, H, W] that a filter sees, one a row: im2col."""
    how = Filtering((1, 1), (padding, padding), (1, 1))
    size = [how.places(side, kernel, axis) for axis, side in enumerate(image.shape[1:])]
    return windows(maps(image), torch.Size((kernel, kernel)), size, how)


def row_of(taps: Sequence[int]) -> list[int]:
    """Return what a 3-tap filter answers on the 1-D example, by the convolution layer on one row of pixels."""
    kernel = np.zeros((3, 3), dtype=int)
    kernel[1] = taps
    line = np.zeros((3, len(LINE)), dtype=int)
    line[1] = LINE
    numbers: list[int] = listed(layer(line, kernel))[0]
    return numbers


@item(
    "E1",
    "000:97-103",
    printed="4 + 9 + 4 = 14; [11 14 23 29 35]",
    right=[11, 17, 23, 29, 35],
    says=[11, 14, 23, 29, 35],
    why="4 + 9 + 4 is 17.",
)
def example_in_1d() -> Sequence[Any]:
    """The five responses of the filter 2 3 1 on 1 … 7."""
    return row_of(TAPS), np.correlate(LINE, TAPS, "valid").tolist()


@item(
    "A1.1",
    "000:97-103",
    printed="“la réponse de la convolution”, computed without flipping the filter",
    right=[13, 19, 25, 31, 37],
    says=[11, 17, 23, 29, 35],
    why="The example is a cross-correlation; a convolution flips the filter to 1 3 2. Networks learn the filter, so "
    "the name matters only beside formulas (002:99 says so).",
)
def flipped_filter() -> Sequence[Any]:
    """A convolution in the strict sense on the same example."""
    return row_of(TAPS[::-1]), np.convolve(LINE, TAPS, "valid").tolist()


@item(
    "E2",
    "002:110-116",
    printed="2 × 4 results: -26 -533 -517 -28 / -29 -505 -513 -25",
    right=[[-26, -533, -517, -28, -2], [-29, -505, -513, -25, -10]],
    says=[[-26, -533, -517, -28], [-29, -505, -513, -25]],
    why="A 4×7 image and a 3×3 filter give 2×5 results: the last column, -2 and -10, is missing.",
)
def sobel_on_a_street() -> Sequence[Any]:
    """The horizontal Sobel filter on a 4×7 image."""
    return listed(layer(STREET, SOBEL)), by_hand(STREET, SOBEL)


@item(
    "A1.2",
    "002:110-116",
    printed="-26 -533 -517 -28 / -29 -505 -513 -25",
    right=[[-26, -533, -517, -28], [-29, -505, -513, -25]],
    why="The eight printed values are right.",
)
def sobel_as_printed() -> Sequence[Any]:
    """The eight printed responses of the Sobel filter."""
    return [row[:4] for row in listed(layer(STREET, SOBEL))], [row[:4] for row in by_hand(STREET, SOBEL)]


@item(
    "A1.3a",
    "000:251-257",
    printed="5×5 example, no padding",
    right=[[12, 12, 17], [10, 17, 19], [9, 6, 14]],
    why="Three places in each direction: (5 - 3) + 1.",
)
def valid_example() -> Sequence[Any]:
    """The 5×5 example without padding."""
    return listed(layer(IMAGE, KERNEL)), by_hand(IMAGE, KERNEL)


@item(
    "A1.3b",
    "000:251-257",
    printed="5×5 example, half padding: 5×5, first row 6 14 17 11 3",
    right={"size": [5, 5], "first row": [6, 14, 17, 11, 3]},
    why="Padding by one keeps the size.",
)
def same_example() -> Sequence[Any]:
    """The 5×5 example with one zero around it."""
    found = [listed(layer(IMAGE, KERNEL, padding=1)), by_hand(IMAGE, KERNEL, padding=1)]
    return [{"size": [len(grid), len(grid[0])], "first row": grid[0]} for grid in found]


@item(
    "A1.3c",
    "000:288-290",
    printed="5×5 example, padding 1, stride 2",
    right=[[6, 17, 3], [8, 17, 13], [6, 4, 4]],
    why="⌊(5 + 2 - 3) / 2⌋ + 1 = 3: every second result of the padded example.",
)
def strided_example() -> Sequence[Any]:
    """The 5×5 example with stride 2."""
    strided = listed(layer(IMAGE, KERNEL, padding=1, stride=2))
    return (
        strided,
        by_hand(IMAGE, KERNEL, padding=1, stride=2),
        [row[::2] for row in by_hand(IMAGE, KERNEL, padding=1)][::2],
    )


@item(
    "A1.3d",
    "000:272-280",
    printed="full padding",
    right=[7, 7],
    why="Padding by k - 1 keeps every overlap of filter and image: 5 + 2·2 - 3 + 1 = 7.",
)
def full_example() -> Sequence[Any]:
    """The size of the 5×5 example with full padding."""
    return list(layer(IMAGE, KERNEL, padding=2).shape[2:]), [starts(5, 3, padding=2)] * 2


@item(
    "A1.4",
    "000:265,290; 001:129; 004:108",
    printed="o = (i - k) + 2p + 1; ⌊(i + 2p - k) / s⌋ + 1; W - W_k + 1; ⌊(n + 2p - f) / s + 1⌋",
    right=True,
    why="The four formulas agree with counted places for 36 sizes, kernels, strides and paddings.",
)
def formulas_of_sizes() -> Sequence[Any]:
    """Four formulas of the output's size agree with the layer."""
    agree, counted = [], []
    for i, k, s, p in itertools.product((5, 8), (1, 2, 3), (1, 2, 3), (0, 1)):
        places = starts(i, k, s, p)
        agree.append(
            stages((1, i, i), (1, places, places), c=conv(1, k, stride=s, padding=p))[0].out_shape[1] == places
        )
        formulas = [(i + 2 * p - k) // s + 1, int((i + 2 * p - k) / s + 1)]
        formulas += [(i - k) + 2 * p + 1] if s == 1 else []
        formulas += [i - k + 1] if (s, p) == (1, 0) else []
        counted.append(set(formulas) == {places})
    return all(agree), all(counted)


@item(
    "A1.5",
    "004:110-112",
    printed="if i + 2p - k is a multiple of s, the sizes i … i + s - 1 give the same output",
    right={"7": 4, "8": 4, "9": 5},
    why="k = 3, p = 1, s = 2: the floor drops what does not fill a stride.",
)
def sizes_that_share_an_output() -> Sequence[Any]:
    """Inputs of 7, 8 and 9 under stride 2."""
    made = {str(n): layer(np.ones((n, n)), np.ones((3, 3)), padding=1, stride=2).shape[2] for n in (7, 8, 9)}
    return made, {str(n): starts(n, 3, 2, 1) for n in (7, 8, 9)}


@item(
    "A1.6",
    "002:516-525",
    printed="5×5×3; 220×220×32; padding of 4",
    right={"depth": 3, "out": [220, 220, 32], "padding": 4},
    why="A filter is as deep as its input; 224 - 5 + 1 = 220; (9 - 1) / 2 = 4.",
)
def questions_on_filters() -> Sequence[Any]:
    """The answers to the three questions on filters."""
    stage = conv(32, 5)((3, 224, 224))
    weight = next(stage.parameters())
    (row,) = stages((3, 224, 224), (32, 220, 220), c=conv(32, 5))
    same = [p for p in range(9) if starts(64, 9, 1, p) == 64]
    return (
        {"depth": weight.shape[1], "out": [*row.out_shape[1:], row.out_shape[0]], "padding": same[0]},
        {"depth": 3, "out": [starts(224, 5)] * 2 + [32], "padding": (9 - 1) // 2},
    )


@item(
    "A1.7",
    "002:501-503",
    printed="3×3: padding 1; 5×5: 2; 7×7: 3",
    right=[1, 2, 3],
    why="Padding by (k - 1) / 2 keeps the size.",
)
def same_paddings() -> Sequence[Any]:
    """The padding that keeps the size."""
    found = [
        next(p for p in range(9) if layer(np.ones((11, 11)), np.ones((k, k)), padding=p).shape[2] == 11)
        for k in (3, 5, 7)
    ]
    return found, [k // 2 for k in (3, 5, 7)]


@item(
    "E36",
    "002:582-584",
    printed="H₂ = (H₁ - F + 2P) / S + 1: 7×7, 3×3, stride 3 gives 2.33",
    right=2,
    says=7 / 3,
    why="The floor is missing (000:290 and 004:108 have it): the last window does not fit and is dropped.",
)
def size_that_does_not_divide() -> Sequence[Any]:
    """An input of 7 with windows of 3 and stride 3."""
    return layer(np.ones((7, 7)), np.ones((3, 3)), stride=3).shape[2], starts(7, 3, 3)


@item(
    "E37",
    "002:479-503",
    printed="7×7 padded to 11×11, beside “3×3: padding 1”",
    right=2,
    says=1,
    why="(11 - 7) / 2 = 2 zeros a side: the padding of a 5×5 filter.",
)
def padding_of_the_picture() -> Sequence[Any]:
    """The padding that the picture shows."""
    padded = next(p for p in range(9) if np.pad(np.ones((7, 7)), p).shape == (11, 11))
    keeps = next(k // 2 for k in (3, 5, 7) if layer(np.ones((11, 11)), np.ones((k, k))).shape[2] == 7)
    return padded, keeps


@item(
    "A1.8",
    "002:388-401",
    printed="608; 6272 neurons; 3073 each; 19,273,856",
    right={"convolution": 608, "neurons": 6272, "each": 3073, "full": 19273856},
    why="(5·5·3 + 1)·8 shared weights against 28·28·8 neurons with 32·32·3 + 1 weights each: 31,700 times as many.",
)
def weights_shared_or_not() -> Sequence[Any]:
    """A convolution against a full connection on 32×32×3."""
    (shared,) = stages((3, 32, 32), (8, 28, 28), c=conv(8, 5))
    neurons = int(np.prod(shared.out_shape))
    (full,) = stages((3, 32, 32), (neurons,), f=linear(neurons))
    made = {"convolution": shared.params, "neurons": neurons, "each": full.params // neurons, "full": full.params}
    return made, {
        "convolution": (5 * 5 * 3 + 1) * 8,
        "neurons": 28 * 28 * 8,
        "each": 32 * 32 * 3 + 1,
        "full": 28 * 28 * 8 * 3073,
    }


@item(
    "E34",
    "002:388",
    printed="(5×5×3 + 1) × 8 = 608 filters",
    right={"filters": 8, "parameters": 608},
    says={"filters": 608, "parameters": 608},
    why="608 is the number of parameters; there are 8 filters.",
)
def filters_or_parameters() -> Sequence[Any]:
    """What 608 counts."""
    stage = conv(8, 5)((3, 32, 32))
    weight = next(stage.parameters())
    return ({"filters": len(weight), "parameters": params(stages((3, 32, 32), (8, 28, 28), c=conv(8, 5)))},)


@item(
    "E3",
    "000:353",
    printed="K × K × K × F (+ F) parameters",
    right={"K=3, C=16, F=8": 1160},
    says={"K=3, C=16, F=8": 224},
    why="It is K·K·C·F + F, as 000:313 and 002:587 have it: a filter is as deep as its input.",
)
def learned_parameters() -> Sequence[Any]:
    """The parameters of F filters on C channels."""
    (row,) = stages((16, 9, 9), (8, 7, 7), c=conv(8, 3))
    return {"K=3, C=16, F=8": row.params}, {"K=3, C=16, F=8": 3 * 3 * 16 * 8 + 8}


@item(
    "E4",
    "000:351",
    printed="memory: K × K × C × F × H × W",
    right={"multiplications": 28901376, "numbers of im2col": 3612672},
    says={"multiplications": 28901376, "numbers of im2col": 28901376},
    why="The product counts multiplications; the windows that im2col copies are K·K·C·H·W numbers, without F.",
)
def memory_or_multiplications() -> Sequence[Any]:
    """What K·K·C·F·H·W counts, for K = 3, C = 128, F = 8 and 56×56."""
    c, f, side = 128, 8, 56
    (row,) = stages((c, side, side), (f, side, side), c=conv(f, 3, padding=1))
    copied = seen(np.ones((c, side, side)), padding=1).numel()
    return (
        {"multiplications": row.macs, "numbers of im2col": copied},
        {"multiplications": 9 * c * f * side**2, "numbers of im2col": 9 * c * side**2},
    )


@item(
    "E5",
    "000:371-372",
    printed="C×H×W → F×H×W “with only F parameters”",
    right={"C=64, F=16": 1024},
    says={"C=64, F=16": 16},
    why="F filters of 1×1×C have C·F weights (and F biases); F would hold for C = 1 alone.",
)
def parameters_of_1x1() -> Sequence[Any]:
    """The weights of a 1×1 convolution."""
    (row,) = stages((64, 5, 5), (16, 5, 5), c=conv(16, 1, bias=False))
    return {"C=64, F=16": row.params}, {"C=64, F=16": 64 * 16}


@item(
    "A1.9",
    "000:425-430",
    printed="k̂ = k + (k - 1)(d - 1), with as many parameters",
    right={"reach": [3, 5, 7, 9], "parameters": [10, 10, 10, 10], "size of 31": [29, 27, 25, 23]},
    why="A dilated filter reaches further with the same nine weights.",
)
def dilated_reach() -> Sequence[Any]:
    """Reach, parameters and output of a 3×3 filter dilated 1 to 4 times."""
    rows = [
        stages((1, 31, 31), (1, n, n), c=conv(1, 3, dilation=d))[0] for d, n in ((1, 29), (2, 27), (3, 25), (4, 23))
    ]
    made = {
        "reach": [row.receptive_field[0] for row in rows if row.receptive_field],
        "parameters": [row.params for row in rows],
        "size of 31": [row.out_shape[1] for row in rows],
    }
    return made, {
        "reach": [3 + 2 * (d - 1) for d in (1, 2, 3, 4)],
        "parameters": [3 * 3 + 1] * 4,
        "size of 31": [starts(31, 3, dilation=d) for d in (1, 2, 3, 4)],
    }


@item(
    "A1.10",
    "004:822; 002:614",
    printed="3×3, 7×7, 15×15: exponential fields, linear parameters",
    right={"dilated 1, 2, 4": [3, 7, 15], "plain": [3, 5, 7], "parameters": [10, 20, 30]},
    why="Dilations that double give 2^(i+2) - 1; without dilation every layer adds two.",
)
def exponential_fields() -> Sequence[Any]:
    """Receptive fields of three stacked 3×3 layers, dilated and plain."""

    def grown(dilations: Sequence[int]) -> tuple[list[int], list[int]]:
        size = 31 - 2 * sum(dilations)
        rows = stages(
            (1, 31, 31), (1, size, size), **{f"c{d}{i}": conv(1, 3, dilation=d) for i, d in enumerate(dilations)}
        )
        fields = [row.receptive_field[0] for row in rows if row.receptive_field]
        return fields, np.cumsum([row.params for row in rows]).tolist()

    return (
        {"dilated 1, 2, 4": grown((1, 2, 4))[0], "plain": grown((1, 1, 1))[0], "parameters": grown((1, 2, 4))[1]},
        {"dilated 1, 2, 4": [2 ** (i + 2) - 1 for i in range(3)], "plain": [3, 5, 7], "parameters": [10, 20, 30]},
    )


@item(
    "A1.11",
    "002:976-978",
    printed="three 3×3 see as much as one 7×7; 3(3²C²) against 7²C²: 45 % saved",
    right={"fields": [7, 7], "weights at C = 16": [6912, 12544], "saved %": 44.9},
    why="27 / 49 of the weights, with two more non-linearities.",
)
def three_small_filters() -> Sequence[Any]:
    """Three 3×3 layers against one 7×7."""
    small = stages((16, 9, 9), (16, 3, 3), **{f"c{i}": conv(16, 3, bias=False) for i in range(3)})
    (large,) = stages((16, 9, 9), (16, 3, 3), c=conv(16, 7, bias=False))
    fields = [row.receptive_field[0] for row in (small[-1], large) if row.receptive_field]
    numbers = [params(small), large.params]
    return (
        {"fields": fields, "weights at C = 16": numbers, "saved %": round(100 * (1 - numbers[0] / numbers[1]), 1)},
        {"fields": [7, 7], "weights at C = 16": [27 * 256, 49 * 256], "saved %": round(100 * 22 / 49, 1)},
    )


def small_matrix(w: Sequence[int]) -> np.ndarray:
    """Return the 4×9 matrix of a 2×2 convolution on 3×3, as the lecture writes it."""
    a, b, c, d = w
    return np.array(
        [
            [a, b, 0, c, d, 0, 0, 0, 0],
            [0, a, b, 0, c, d, 0, 0, 0],
            [0, 0, 0, a, b, 0, c, d, 0],
            [0, 0, 0, 0, a, b, 0, c, d],
        ]
    )


@item(
    "A1.12",
    "004:168-200",
    printed="W x = z with a 4×9 matrix; y = Wᵀ z is the transposed convolution",
    right={"W x": [[37, 47], [67, 77]], "Wᵀ z": [[37, 121, 94], [178, 500, 342], [201, 499, 308]]},
    why="Entry by entry, for w = 1 2 3 4 and x = 1 … 9.",
)
def transposed_matrix() -> Sequence[Any]:
    """Convolution and transposed convolution as a matrix and its transpose."""
    w, x = np.array([[1, 2], [3, 4]]), np.arange(1, 10).reshape(3, 3)
    z = layer(x, w)
    stage = transposed_conv(1, 2, activation="none")((1, 2, 2)).double()
    deconv = next(module for module in stage.modules() if isinstance(module, nn.ConvTranspose2d))
    with torch.no_grad():
        deconv.weight.copy_(torch.tensor(w)[None, None])
        nn.init.zeros_(deconv.bias)  # type: ignore[arg-type]
        y = stage(z)
    matrix = small_matrix([1, 2, 3, 4])
    by_matrix = matrix @ x.flatten()
    return (
        {"W x": listed(z), "Wᵀ z": listed(y)},
        {"W x": by_matrix.reshape(2, 2).tolist(), "Wᵀ z": (matrix.T @ by_matrix).reshape(3, 3).tolist()},
    )


@item(
    "E40",
    "004:162",
    printed="“the reverse operation to a convolution”",
    right={"Wᵀ W is the identity": False, "the shape is": [3, 3]},
    says={"Wᵀ W is the identity": True, "the shape is": [3, 3]},
    why="It reverses the shape, not the values: it is the transpose, not the inverse.",
)
def transpose_or_inverse() -> Sequence[Any]:
    """A transposed convolution after the convolution with the same weights."""
    matrix = small_matrix([1, 2, 3, 4])
    x = np.arange(1, 10)
    back = matrix.T @ (matrix @ x)
    return ({"Wᵀ W is the identity": close(back, x), "the shape is": list(back.reshape(3, 3).shape)},)


@item(
    "A1.13a",
    "000:321-330",
    printed="a convolution as a product of matrices, which duplicates pixels",
    right={"equal": True, "copies of a pixel": 9},
    why="Every inner pixel lies in K² windows.",
)
def im2col() -> Sequence[Any]:
    """The windows of an image times the filters is the convolution."""
    x, w = noise(2, 6, 5), noise(3, 2, 3, 3, seed=1)
    direct = layer(x, w)[0]
    product = (seen(x) @ filters_in_rows(torch.tensor(w)).T).T.reshape(direct.shape)
    pixel = np.zeros((1, 7, 7))
    pixel[0, 3, 3] = 1
    unfolded = F.unfold(maps(x), 3)[0].numpy()
    return (
        {"equal": close(product, direct), "copies of a pixel": int(seen(pixel).sum())},
        {"equal": close((w.reshape(3, -1) @ unfolded).reshape(direct.shape), direct), "copies of a pixel": 3 * 3},
    )


@item(
    "A1.13b",
    "000:334-340",
    printed="the variant that reshapes the filters gives a sparse matrix",
    right={"equal": True, "numbers a row": 18, "of": 60},
    why="Each row of the matrix holds the K·K·C weights of one filter and zeros.",
)
def sparse_matrix() -> Sequence[Any]:
    """A convolution as one sparse matrix."""
    x, w = noise(2, 6, 5), noise(3, 2, 3, 3, seed=1)
    units = np.eye(60).reshape(60, 2, 6, 5)  # one image a pixel
    columns = layer(units, w).flatten(1).numpy()
    matrix = columns.T
    direct = layer(x, w)[0].flatten()
    counts = {int(n) for n in (matrix != 0).sum(axis=1)}
    return (
        {
            "equal": close(matrix @ x.flatten(), direct),
            "numbers a row": counts.pop() if len(counts) == 1 else -1,
            "of": 60,
        },
    )


@item(
    "A1.14",
    "000:84; 002:91",
    printed="a product of spectra is a convolution; I * F = F * I",
    right={"spectra": True, "convolution commutes": True, "correlation commutes": False},
    why="The spectrum's product is the circular convolution; the flip is what makes convolution commute.",
)
def spectra() -> Sequence[Any]:
    """Convolution in the Fourier domain, and its commutativity."""
    a, b = noise(9), noise(9, seed=1)
    circular = [sum(a[j] * b[(i - j) % 9] for j in range(9)) for i in range(9)]
    return (
        {
            "spectra": close(np.fft.ifft(np.fft.fft(a) * np.fft.fft(b)).real, np.array(circular)),
            "convolution commutes": close(np.convolve(a, b), np.convolve(b, a)),
            "correlation commutes": close(np.correlate(a, b, "full"), np.correlate(b, a, "full")),
        },
    )


@item(
    "A1.15",
    "000:402-404",
    printed="Sobel = [1 2 1]ᵀ × [-1 0 1]; not all filters have rank 1",
    right={"product": [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], "ranks": [1, 2]},
    why="A filter is separable exactly when its rank is one; the 5×5 example's filter has rank two.",
)
def separable_filters() -> Sequence[Any]:
    """The Sobel filter as a column times a row."""
    stage = spatially_separable(1, 3, activation="none")((1, 5, 5)).double()
    column, row = (module for module in stage.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        column.weight.copy_(torch.tensor([1.0, 2, 1]).view(1, 1, 3, 1))
        row.weight.copy_(torch.tensor([-1.0, 0, 1]).view(1, 1, 1, 3))
        for part in (column, row):
            nn.init.zeros_(part.bias)  # type: ignore[arg-type]
        point = np.zeros((5, 5))
        point[2, 2] = 1
        answer = stage(maps(point))[0, 0, 1:4, 1:4].flip(0, 1)  # of one pixel: the filter, flipped
    ranks = [int(np.linalg.matrix_rank(np.array(kernel))) for kernel in (SOBEL, KERNEL)]
    return {"product": answer.long().tolist(), "ranks": ranks}, {
        "product": np.outer([1, 2, 1], [-1, 0, 1]).tolist(),
        "ranks": ranks,
    }


@item(
    "A1.16",
    "000:411-413",
    printed="C convolutions, each in its channel, then F 1×1 convolutions",
    right={"multiplications a position": [4672, 36864], "share": 0.1267},
    why="K²·C + C·F against K²·C·F: 1 / F + 1 / K² of the work; here K = 3, C = 64, F = 64.",
)
def depthwise_price() -> Sequence[Any]:
    """The price of a depthwise separable convolution."""
    (both,) = stages((64, 5, 5), (64, 5, 5), c=depthwise_separable(64, 3))
    (whole,) = stages((64, 5, 5), (64, 5, 5), c=conv(64, 3, padding=1))
    made = [both.macs // 25, whole.macs // 25]
    counted = [9 * 64 + 64 * 64, 9 * 64 * 64]
    return (
        {"multiplications a position": made, "share": round(made[0] / made[1], 4)},
        {"multiplications a position": counted, "share": round(1 / 64 + 1 / 9, 4)},
    )


@item(
    "A1.17",
    "000:364-372; 004:131-140; 002:1125",
    printed="a 1×1 convolution is a weighted sum of the channels at each pixel; H and W stay",
    right={"linear": True, "shape": [16, 6, 7], "weights": 64},
    why="It is one full connection that every position shares.",
)
def pixelwise() -> Sequence[Any]:
    """A 1×1 convolution is a linear map at each position."""
    x, w = noise(4, 6, 7), noise(16, 4, 1, 1, seed=1)
    out = layer(x, w)
    expected = np.einsum("oc,chw->ohw", w[:, :, 0, 0], x)
    return ({"linear": close(out[0], expected), "shape": list(out.shape[1:]), "weights": w.size},)


@item(
    "A1.18",
    "000:109-117",
    printed="1/9 of ones; 1/16 of 1 2 1 / 2 4 2 / 1 2 1: blur, less contrast",
    right={"sums": [1.0, 1.0], "contrast falls": True},
    why="Both sum to one, so that a constant image stays; the spread of noise falls.",
)
def blurs() -> Sequence[Any]:
    """The mean filter and the binomial filter."""
    box, binomial = np.full((3, 3), 1 / 9), np.outer([1, 2, 1], [1, 2, 1]) / 16
    image = noise(20, 20)
    falls = [float(layer(image, kernel).std()) < 0.6 * image.std() for kernel in (box, binomial)]
    constant = [round(float(layer(np.ones((5, 5)), kernel).mean()), 12) for kernel in (box, binomial)]
    return {"sums": constant, "contrast falls": all(falls)}, {"sums": [1.0, 1.0], "contrast falls": True}


@item(
    "E48",
    "000:115",
    printed="“more than 80 % of the discrete approximations of a Gaussian”",
    right={"at σ = 0.707": 93, "at σ = 1": 75},
    says={"at σ = 0.707": 80, "at σ = 1": 80},
    why="A 3×3 window holds 93 % of a sampled Gaussian of the binomial's own deviation, and 75 % of one with σ = 1: it "
    "depends on σ, which is not given.",
)
def gaussian_share() -> Sequence[Any]:
    """How much of a Gaussian lies in 3×3, in per cent."""

    def share(deviation: float) -> int:
        return round(100 * math.erf(1.5 / (deviation * math.sqrt(2))) ** 2)

    def summed(deviation: float) -> int:
        places = (np.arange(60000) + 0.5) / 1000 - 30  # the middles of thin strips
        bell = np.exp(-(places**2) / (2 * deviation**2))
        return round(100 * float(bell[np.abs(places) < 1.5].sum() / bell.sum()) ** 2)

    return [{"at σ = 0.707": way(0.5**0.5), "at σ = 1": way(1.0)} for way in (share, summed)]


@item(
    "A1.19",
    "002:125-141",
    printed="an even filter has no middle pixel: its result lies between pixels",
    right={"3×3": 0.0, "2×2": 0.5},
    why="The centre of a symmetric blob moves by half a pixel under an even filter.",
)
def even_filters() -> Sequence[Any]:
    """By how many pixels the blurred blob has moved."""
    blob = np.zeros((15, 15))
    blob[6:9, 6:9] = 1
    moved = {}
    for size in (3, 2):
        out = layer(np.pad(blob, ((0, size - 1), (0, size - 1))), np.full((size, size), 1 / size**2))[0, 0].numpy()
        centre = (np.arange(15) * out.sum(axis=1)).sum() / out.sum()
        moved[f"{size}×{size}"] = abs(float(centre) - 7 + (1.0 if size == 3 else 0.0))
    return ({key: round(value, 9) for key, value in moved.items()},)


@item(
    "A1.20",
    "001:62-75; 003:170-175",
    printed="convolution is translation equivariant, not invariant",
    right={"shift": True, "unchanged": False, "turn": False, "scale": False},
    why="What comes out moves with what goes in; turned or enlarged images give other answers (003:499).",
)
def equivariance() -> Sequence[Any]:
    """Convolution beside shifts, quarter turns and enlargement."""
    x, w = noise(12, 12), noise(3, 3, seed=1)
    plain = layer(x, w)[0, 0].numpy()
    moved = layer(np.roll(x, (2, 1), (0, 1)), w)[0, 0].numpy()
    turned = layer(np.rot90(x).copy(), w)[0, 0].numpy()
    doubled = layer(np.kron(x, np.ones((2, 2))), w)[0, 0].numpy()
    return (
        {
            "shift": close(moved[2:, 1:], plain[:-2, :-1]),
            "unchanged": close(moved, plain),
            "turn": close(turned, np.rot90(plain)),
            "scale": close(doubled[1:-1, 1:-1], np.kron(plain, np.ones((2, 2)))),
        },
    )


@item(
    "A1.21",
    "004:80-88",
    printed="3×3 → 2×2 with stride 1, 4×4 → 2×2 with stride 2, filters of 2×2",
    right=[[2, 2], [2, 2]],
    why="(3 - 2) + 1 and (4 - 2) / 2 + 1.",
)
def small_strides() -> Sequence[Any]:
    """The two examples of stride."""
    made = [list(layer(np.ones((n, n)), np.ones((2, 2)), stride=s).shape[2:]) for n, s in ((3, 1), (4, 2))]
    return made, [[starts(n, 2, s)] * 2 for n, s in ((3, 1), (4, 2))]


@item(
    "A1.21b",
    "004:113-124; 001:83-90",
    printed="on several channels the responses are summed; a filter is not swept over the channels",
    right=True,
    why="A filter on three channels is the sum of three filters on one.",
)
def summed_channels() -> Sequence[Any]:
    """A filter over channels is a sum."""
    x, w = noise(3, 6, 6), noise(1, 3, 2, 2, seed=1)
    alone = sum(layer(x[i], w[0, i])[0, 0] for i in range(3))
    assert isinstance(alone, torch.Tensor)
    return (close(layer(x, w)[0, 0], alone),)


@item(
    "A1.22",
    "002:636-647",
    printed="groups=2 is two layers side by side; in_channels and out_channels must be divisible",
    right={"equal": [True, True, True], "weights": [288, 144, 72]},
    why="Each group reads its share of the channels, so that the weights fall by the number of groups.",
)
def grouped() -> Sequence[Any]:
    """Convolutions in 1, 2 and C groups."""
    x, same, numbers = noise(4, 6, 6), [], []
    for groups in (1, 2, 4):
        w = noise(8, 4 // groups, 3, 3, seed=groups)
        parts = [
            layer(part, weights)[0] for part, weights in zip(np.split(x, groups), np.split(w, groups), strict=True)
        ]
        same.append(close(layer_in_groups(x, w, groups), torch.cat(parts)))
        numbers.append(stages((4, 6, 6), (8, 4, 4), c=conv(8, 3, groups=groups, bias=False))[0].params)
    return {"equal": same, "weights": numbers}, {"equal": [True] * 3, "weights": [8 * 4 * 9 // g for g in (1, 2, 4)]}


def layer_in_groups(x: np.ndarray, w: np.ndarray, groups: int) -> torch.Tensor:
    """Apply the convolution layer with groups."""
    stage = conv(len(w), w.shape[2], groups=groups, bias=False, activation="none")(x.shape).double()
    first = next(module for module in stage.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        first.weight.copy_(torch.tensor(w))
        out: torch.Tensor = stage(maps(x))[0]
    return out


@item(
    "A1.23",
    "002:853-870",
    printed="7 words in, 5 “words” out; max pooling over time",
    right={"out": 5, "pooled": 1},
    why="Windows of three words fit five times; the maximum over time leaves one number a filter.",
)
def words() -> Sequence[Any]:
    """A convolution over seven words."""
    text = torch.tensor(noise(1, 10, 7))
    out = nn.Conv1d(10, 4, 3).double()(text)
    return {"out": out.shape[2], "pooled": out.amax(2).shape[1] // 4}, {"out": starts(7, 3), "pooled": 1}


@item(
    "E6",
    "000:181",
    printed="“weight sharing between layers”",
    right={"weights of 9×9 positions": 9, "of two layers": 18},
    says={"weights of 9×9 positions": 729, "of two layers": 9},
    why="Weights are shared between the positions of one layer (003:114, 004:28): a second layer has its own.",
)
def shared_weights() -> Sequence[Any]:
    """What shares weights."""
    one = stages((1, 11, 11), (1, 9, 9), a=conv(1, 3, bias=False))
    two = stages((1, 11, 11), (1, 7, 7), a=conv(1, 3, bias=False), b=conv(1, 3, bias=False))
    return {"weights of 9×9 positions": params(one), "of two layers": params(two)}, {
        "weights of 9×9 positions": 9,
        "of two layers": 18,
    }


@item(
    "E41",
    "000:71,148",
    printed="“gaussian functions (Sobel, …)”; Θ = arctan(G_y / G_x)",
    right={"sum of Sobel": 0, "angles": [45, 135, -135, -45]},
    says={"sum of Sobel": 1, "angles": [45, -45, 45, -45]},
    why="Sobel is a derivative: its weights sum to zero. arctan of the quotient confuses opposite directions; atan2 of "
    "the two tells them apart.",
)
def directions() -> Sequence[Any]:
    """The sum of the Sobel filter, and the directions of four gradients."""
    gradients = [(1, 1), (-1, 1), (-1, -1), (1, -1)]  # (G_x, G_y)
    angles = [round(float(np.degrees(np.arctan2(y, x)))) for x, y in gradients]
    return ({"sum of Sobel": int(layer(np.ones((3, 3)), SOBEL)), "angles": angles},)


@item(
    "E35",
    "002:744-750",
    printed="pooling “reduces the number of parameters”",
    right={"before a full connection": [5125, 1285], "before global average pooling": [65, 65]},
    says={"before a full connection": [5125, 1285], "before global average pooling": [65, 17]},
    why="Pooling has no parameters and takes none away but from a full connection that reads its maps.",
)
def parameters_after_pooling() -> Sequence[Any]:
    """The parameters after 4 maps of 16×16, without and with a 2×2 pooling, up to five classes."""
    maps_ = conv(4, 3, padding=1)
    base = params(stages((2, 16, 16), (4, 16, 16), c=maps_))
    pool = pooling("max", 2)
    full = [params(stages((2, 16, 16), (5,), c=maps_, **extra, f=linear(5))) - base for extra in ({}, {"p": pool})]
    gap = [
        params(stages((2, 16, 16), (5,), c=maps_, **extra, g=global_average(), f=linear(5))) - base + 40
        for extra in ({}, {"p": pool})
    ]
    return (
        {"before a full connection": full, "before global average pooling": gap},
        {
            "before a full connection": [4 * 256 * 5 + 5, 4 * 64 * 5 + 5],
            "before global average pooling": [4 * 5 + 5 + 40] * 2,
        },
    )


@item(
    "E46",
    "004:529",
    printed="an image of N gives (N - n + 1)² windows’ results",
    right={"stride 1, no padding": [3, 3], "VGG-16 at 384": [6, 6]},
    says={"stride 1, no padding": [3, 3], "VGG-16 at 384": [161, 161]},
    why="It holds for stride 1 without padding. VGG's map moves by 32 pixels a cell, and its padded values differ from "
    "those of windows.",
)
def windows_of_a_large_image() -> Sequence[Any]:
    """How many cells the map of a fully convolutional network has."""
    (small,) = stages((1, 7, 7), (1, 3, 3), c=conv(1, 5))
    rows = network("vgg16", (3, 384, 384))
    last = next(row for row in rows if row.name == "pool5")
    cells = last.out_shape[1] - 7 + 1
    return (
        {"stride 1, no padding": list(small.out_shape[1:]), "VGG-16 at 384": [cells, cells]},
        {"stride 1, no padding": [7 - 5 + 1] * 2, "VGG-16 at 384": [384 // 32 - 7 + 1] * 2},
    )


@item(
    "A1.24",
    "002:1160-1167; 000:384-390",
    printed="1×1 convolutions reduce the work of larger filters",
    right={"direct": 120422400, "through 16 maps": 12443648},
    why="5×5 on 192 maps of 28×28 to 32: 120 million multiplications, 12 million through 16 maps.",
)
def bottleneck() -> Sequence[Any]:
    """A 5×5 layer with and without a 1×1 layer before it."""
    direct = stages((192, 28, 28), (32, 28, 28), c=conv(32, 5, padding=2))
    narrow = stages((192, 28, 28), (32, 28, 28), r=conv(16, 1), c=conv(32, 5, padding=2))
    return (
        {"direct": macs(direct), "through 16 maps": macs(narrow)},
        {"direct": 784 * 25 * 192 * 32, "through 16 maps": 784 * (192 * 16 + 25 * 16 * 32)},
    )
