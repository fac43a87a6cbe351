"""Figures for a page that is read in light and in dark: drawings as SVG that takes the page's colours, pictures as PNG.

Drawings are made in stand-in colours that become the style sheet's variables; no text of the user's is in them.
"""

import base64
import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import nn

if TYPE_CHECKING:  # matplotlib takes half a second to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, FIRST, SECOND = "#010101", "#020202", "#030303", "#040404"
COLOURS = {INK: "currentColor", FAINT: "var(--faint)", FIRST: "var(--first)", SECOND: "var(--second)"}
STYLE = {
    "svg.fonttype": "none",  # letters stay letters
    "font.size": 8.0,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "grid.color": FAINT,
    "grid.linewidth": 0.4,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.4,
}
Points = Sequence[tuple[float, float]]


def curves(lines: Mapping[str, Points], what: str, *, log: bool = False) -> str:
    """Draw up to two lines of (epoch, value) as SVG, with their names where they have some; few points are dots."""
    from matplotlib.ticker import MaxNLocator

    with drawing(what) as (figure, axes):
        for (name, points), colour in zip(lines.items(), (FIRST, SECOND), strict=False):
            x, y = zip(*points, strict=True) if points else ((), ())
            axes.plot(x, y, color=colour, label=name, marker="o" if len(points) < 10 else None, markersize=3)
        if log and any(value > 0 for points in lines.values() for _, value in points):
            axes.set_yscale("log")
        if all(lines):
            axes.legend()
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
        return as_svg(figure, what)


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 10) -> str:
    """Draw accuracy against confidence in equal bins of confidence, and the share of images in each, as SVG.

    `probabilities` are [N, classes]. Perfect calibration is the diagonal (Guo et al. 2017, figure 1).
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    held = counts > 0
    accuracy = np.bincount(place, weights=right, minlength=bins)[held] / counts[held]
    mean = np.bincount(place, weights=confidence, minlength=bins)[held] / counts[held]
    with drawing("calibration") as (figure, axes):
        axes.bar((np.arange(bins) + 0.5) / bins, counts / len(labels), 0.9 / bins, color=FAINT, alpha=0.45)
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8, linestyle="--")
        axes.plot(mean, accuracy, color=FIRST, marker="o", markersize=3.5)
        axes.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="confidence", ylabel="accuracy; bars: share of images")
        return as_svg(figure, "calibration")


@contextlib.contextmanager
def drawing(name: str) -> Iterator[tuple["Figure", "Axes"]]:
    """Give an empty figure of one panel in the page's style."""
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = STYLE | {"svg.hashsalt": name}  # its keys are typed as literals
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(3.6, 2.5), layout="constrained")
        axes = figure.subplots()
        axes.grid(visible=True, axis="y")
        yield figure, axes


def as_svg(figure: "Figure", name: str) -> str:
    """Return a figure as an SVG element in the page's colours."""
    sink = io.StringIO()
    figure.savefig(sink, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = sink.getvalue()
    for stand_in, colour in COLOURS.items():
        text = text.replace(stand_in, colour)
    return text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{name}"', 1)


# Pictures.


def as_png(pixels: np.ndarray) -> str:
    """Return uint8 pixels [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] as the address of a PNG that holds itself."""
    sink = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels).save(sink, "PNG")
    return f"data:image/png;base64,{base64.b64encode(sink.getvalue()).decode()}"


def first_filters(net: nn.Sequential, in_shape: tuple[int, int, int]) -> tuple[str, np.ndarray] | None:
    """Return the kind and values [N, C, height, width] of the weights that first see `in_shape` images.

    The kernels of a convolution, or the templates of a linear layer; None where it is neither or has other channels.
    """
    channels, height, width = in_shape
    stage = next(net.children())
    leaf = next((m for m in stage.modules() if isinstance(m, nn.Conv2d | nn.Linear)), None)
    if leaf is None or channels not in (1, 3):
        return None
    weights = leaf.weight.detach().cpu().float().numpy()
    if isinstance(leaf, nn.Conv2d):
        return ("kernels", weights) if weights.shape[1] == channels else None
    return ("templates", weights.reshape(-1, *in_shape)) if weights.shape[1] == channels * height * width else None


def weight_picture(weight: np.ndarray) -> np.ndarray:
    """Return weights [C, H, W] as uint8 [H, W, 3].

    For one channel 0 is white, red above and blue below; for three it is grey.
    """
    scaled = weight / max(float(np.abs(weight).max()), 1e-12)
    if len(weight) == 3:
        shown = scaled.transpose(1, 2, 0) / 2 + 0.5
    else:
        above, below = np.clip(scaled[0], 0, 1)[..., None], np.clip(-scaled[0], 0, 1)[..., None]
        red, blue = np.array([0.75, 0.1, 0.1]), np.array([0.1, 0.25, 0.75])
        shown = 1 - above * (1 - red) - below * (1 - blue)
    return np.asarray((shown * 255).round(), dtype=np.uint8)


def heat_picture(confusion: np.ndarray) -> np.ndarray:
    """Return counts [classes, classes] as uint8 [classes, classes, 4]: the share of each row as opacity."""
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    colour = np.where(np.eye(len(confusion), dtype=bool)[..., None], (47, 125, 92), (200, 60, 40))
    return np.concatenate([colour, (share**0.5 * 255).round()[..., None]], axis=2).astype(np.uint8)


def worst_mistakes(probabilities: np.ndarray, labels: np.ndarray, most: int = 24) -> list[int]:
    """Return the places of the most confident wrong predictions, the surest first."""
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return [int(i) for i in wrong[np.argsort(-probabilities.max(axis=1)[wrong], kind="stable")][:most]]
