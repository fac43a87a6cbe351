"""Pictures of what formulas say less well: windows, padding, strides, fields, matrices, pooling, batch norm.

Each is drawn from what this package's layers compute; none holds a number of its own.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from cnntrain.nn.blocks import pooling, stochastic_pool
from cnntrain.runtime.drawing import DASHES, GREY, INK, RULE, SERIES, empty_figure
from cnntrain.studies.verify.convolution import IMAGE, KERNEL, noise, small_matrix
from cnntrain.studies.verify.layers import MATRIX, gradient_norms
from cnntrain.studies.verify.ways import by_hand, maps

if TYPE_CHECKING:  # matplotlib takes half a second to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Cells = Sequence[tuple[int, int]]


def table(
    axes: "Axes", values: Any, *, title: str = "", marked: Cells = (), colour: str = SERIES[0], faint: Cells = ()
) -> None:
    """Draw numbers as a grid of cells; `marked` cells are coloured, `faint` ones are grey."""
    from matplotlib.patches import Rectangle

    rows = [list(row) for row in values]
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            chosen = (i, j) in marked
            axes.add_patch(
                Rectangle(
                    (j, i), 1, 1, facecolor=colour if chosen else "none", alpha=0.25 if chosen else 1, edgecolor="none"
                )
            )
            axes.add_patch(Rectangle((j, i), 1, 1, fill=False, edgecolor=RULE))
            text = value if isinstance(value, str) else f"{value:g}"
            axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=GREY if (i, j) in faint else INK)
    axes.set_xlim(-0.1, len(rows[0]) + 0.1)
    axes.set_ylim(len(rows) + 0.1, -0.1)
    axes.set_aspect("equal")
    axes.axis("off")
    axes.set_title(title)


def window(top: int, left: int, size: int = 3, dilation: int = 1) -> list[tuple[int, int]]:
    """Return the cells of a window."""
    return [(top + dilation * i, left + dilation * j) for i in range(size) for j in range(size)]


def border(size: int, padding: int) -> list[tuple[int, int]]:
    """Return the cells that padding adds around a square."""
    inside = range(padding, padding + size)
    whole = range(size + 2 * padding)
    return [(i, j) for i in whole for j in whole if i not in inside or j not in inside]


def sliding(padding: int, stride: int, place: tuple[int, int]) -> "Figure":
    """Draw the 5×5 example, its filter, and the results, with one window and its result marked."""
    figure = empty_figure(6.0, 2.3)
    image, kernel, result = figure.subplots(1, 3, width_ratios=(7, 3.6, 5))
    padded = np.pad(np.array(IMAGE), padding)
    cells = window(stride * place[0], stride * place[1])
    table(image, padded, title="image", marked=cells, faint=border(5, padding))
    table(kernel, KERNEL, title="filter")
    table(
        result, by_hand(IMAGE, KERNEL, padding=padding, stride=stride), title="result", marked=[place], colour=SERIES[1]
    )
    return figure


def dilated() -> "Figure":
    """Draw which pixels nine weights read, without and with dilation."""
    figure = empty_figure(6.0, 2.3)
    for axes, dilation in zip(figure.subplots(1, 3), (1, 2, 4), strict=True):
        reach = 2 * dilation + 1
        start = (9 - reach) // 2
        table(
            axes,
            [[""] * 9] * 9,
            title=f"dilation {dilation}: {reach}×{reach}",
            marked=window(start, start, 3, dilation),
        )
    return figure


def growing() -> "Figure":
    """Draw the support of a unit's gradient after one, two and three dilated layers."""
    figure = empty_figure(6.0, 2.3)
    x = torch.zeros(1, 1, 17, 17, dtype=torch.float64, requires_grad=True)
    out = x
    for axes, dilation in zip(figure.subplots(1, 3), (1, 2, 4), strict=True):
        layer = nn.Conv2d(1, 1, 3, padding=dilation, dilation=dilation, bias=False).double()
        nn.init.ones_(layer.weight)
        out = layer(out)
        (gradient,) = torch.autograd.grad(out[0, 0, 8, 8], x, retain_graph=True)
        seen = [(int(i), int(j)) for i, j in (gradient[0, 0] != 0).nonzero()]
        side = max(i for i, _ in seen) - min(i for i, _ in seen) + 1
        table(axes, [[""] * 17] * 17, title=f"{side}×{side}", marked=seen)
    return figure


def transposed() -> "Figure":
    """Draw a transposed convolution as the matrix Wᵀ on four numbers."""
    figure = empty_figure(6.0, 3.0)
    matrix, numbers, result = figure.subplots(1, 3, width_ratios=(5, 1.6, 3.6))
    w, z = small_matrix([1, 2, 3, 4]), np.array([1, 2, 3, 4])
    table(matrix, w.T, title="Wᵀ", marked=[(int(i), int(j)) for i, j in np.argwhere(w.T)])
    table(numbers, z[:, None], title="z")
    table(result, (w.T @ z).reshape(3, 3), title="y = Wᵀ z", marked=window(0, 0), colour=SERIES[1])
    return figure


def unrolled() -> "Figure":
    """Draw the windows of the 5×5 example as rows of a matrix: im2col."""
    figure = empty_figure(6.0, 3.0)
    matrix, weights, result = figure.subplots(1, 3, width_ratios=(9, 1.5, 2))
    rows = torch.nn.functional.unfold(maps(IMAGE), 3)[0].T.int().tolist()
    flat = np.array(KERNEL).flatten()
    table(matrix, rows, title="windows, one a row", marked=[(0, j) for j in range(9)])
    table(weights, flat[:, None], title="filter")
    table(result, (np.array(rows) @ flat)[:, None], title="result", marked=[(0, 0)], colour=SERIES[1])
    return figure


def sparse() -> "Figure":
    """Draw the sparse matrix of a 2×2 convolution on 3×3."""
    figure = empty_figure(6.0, 2.0)
    matrix, image, result = figure.subplots(1, 3, width_ratios=(9, 3, 2))
    w, x = small_matrix([1, 2, 3, 4]), np.arange(1, 10)
    table(
        matrix,
        w,
        title="W",
        marked=[(int(i), int(j)) for i, j in np.argwhere(w)],
        faint=[(int(i), int(j)) for i, j in np.argwhere(w == 0)],
    )
    table(image, x.reshape(3, 3), title="x, row by row")
    table(result, (w @ x).reshape(2, 2), title="W x", marked=window(0, 0, 2), colour=SERIES[1])
    return figure


def pooled() -> "Figure":
    """Draw the 4×4 example under max and average pooling, and the probabilities of stochastic pooling."""
    figure = empty_figure(6.0, 3.4)
    (image, largest, mean), (chance, drawn, weighted) = figure.subplots(2, 3)
    x = maps(MATRIX)
    table(image, MATRIX, title="maps", marked=window(0, 0, 2))
    table(largest, pooling("max", 2)((1, 4, 4))(x)[0, 0].tolist(), title="max", marked=[(0, 0)], colour=SERIES[1])
    table(mean, pooling("avg", 2)((1, 4, 4))(x)[0, 0].tolist(), title="average", marked=[(0, 0)], colour=SERIES[1])
    sums = (torch.nn.functional.avg_pool2d(x, 2) * 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    shares = [
        [f"{int(v)}/{int(s)}" if v else "0" for v, s in zip(*rows, strict=True)]
        for rows in zip(x[0, 0], sums[0, 0], strict=True)
    ]
    table(chance, shares, title="stochastic: p", marked=window(0, 0, 2))
    layer, before = stochastic_pool(2)((1, 4, 4)), torch.default_generator.get_state()
    torch.default_generator.manual_seed(3)
    table(drawn, layer.train()(x)[0, 0].tolist(), title="drawn in training", marked=[(0, 0)], colour=SERIES[1])
    torch.default_generator.set_state(before)
    table(weighted, layer.eval()(x)[0, 0].tolist(), title="in a test", marked=[(0, 0)], colour=SERIES[1])
    return figure


def normalised() -> "Figure":
    """Draw the values of two channels before batch norm, normalised, and scaled and shifted."""
    figure = empty_figure(6.0, 2.2)
    values = torch.tensor(np.stack([2 + 0.5 * noise(4000), -1 + 2 * noise(4000, seed=1)], axis=1))
    plain, trained = nn.BatchNorm1d(2).double(), nn.BatchNorm1d(2).double()
    with torch.no_grad():
        trained.weight.copy_(torch.tensor([1.5, 0.7]))
        trained.bias.copy_(torch.tensor([1.0, -0.5]))
        drawings = {"x": values, "x̂ = (x - μ) / √(σ² + ε)": plain(values), "y = γ x̂ + β": trained(values)}
    for axes, (title, found) in zip(figure.subplots(1, 3, sharex=True, sharey=True), drawings.items(), strict=True):
        for channel, colour in enumerate(SERIES[:2]):
            axes.hist(found[:, channel].numpy(), bins=60, range=(-7, 7), color=colour, alpha=0.55)
        axes.set_title(title)
        axes.set_yticks([])
    return figure


def vanishing() -> "Figure":
    """Draw the norm of every layer's gradient in networks of 20 layers with sigmoids, ReLU and shortcuts."""
    figure = empty_figure(4.2, 2.6)
    axes = figure.subplots()
    for (name, norms), colour, dashes in zip(gradient_norms(20).items(), SERIES, DASHES, strict=False):
        axes.plot(range(1, len(norms) + 1), norms, color=colour, linestyle=dashes, label=name)
    axes.set(yscale="log", xlabel="layer", ylabel="norm of its gradient")
    axes.grid(visible=True, axis="y")
    axes.legend()
    return figure


# By the item under which they stand: the caption, and what draws them.
FIGURES: dict[str, tuple[str, Callable[[], "Figure"]]] = {
    "A1.3a": (
        "A filter slides over the image: the marked window gives the marked result.",
        lambda: sliding(0, 1, (0, 1)),
    ),
    "A1.3b": ("With one zero around it the image keeps its size.", lambda: sliding(1, 1, (0, 0))),
    "A1.3c": ("With stride 2 every second window is left out.", lambda: sliding(1, 2, (1, 1))),
    "A1.9": ("Nine weights reach further when they are spread out.", dilated),
    "A1.10": ("What one unit sees after one, two and three layers of dilation 1, 2 and 4.", growing),
    "A1.12": ("The transposed matrix turns 2×2 into 3×3, w = 1 2 3 4.", transposed),
    "A1.13a": ("A convolution as one product: pixels stand in as many rows as windows see them.", unrolled),
    "A1.13b": ("The same as a sparse matrix of the filter, w = 1 2 3 4.", sparse),
    "A2.1c": ("Three ways of pooling windows of 2×2.", pooled),
    "A2.9": ("Under sigmoids the first layers learn nothing; ReLU and shortcuts keep the gradient.", vanishing),
    "A2.7": ("Two channels before batch norm, normalised, and with γ = 1.5, 0.7 and β = 1, -0.5.", normalised),
}
