"""Drawings for a page that is read in light and in dark: SVG that takes the page's colours.

They are made in stand-in colours that become the style sheet's variables; no text of the user's is in them.
"""

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

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
