"""Drawings for a page that is read in light and in dark: SVG that takes the page's colours.

They are made in stand-in colours that become the style sheet's variables; no text of the user's is in them.
"""

import contextlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from cnntrain.runtime.drawing import styled
from cnntrain.stats.intervals import wilson

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
FEW = 20  # images, of which an accuracy has an interval of forty points
Points = Sequence[tuple[float, float]]
Scale = Literal["linear", "log", "share"]


def curves(lines: Mapping[str, Points], what: str, over: str, scale: Scale = "linear") -> str:
    """Draw up to two lines of (epoch or step, value) as SVG, with their names if they have some; few points are dots.

    A linear axis starts at 0, and so does one that is to be logarithmic where the values stay within a factor of ten.
    Shares are in per cent, over at least ten points.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    values = [value for points in lines.values() for _, value in points]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    with drawing(what) as (figure, axes):
        for (name, points), colour in zip(lines.items(), (FIRST, SECOND), strict=False):
            x, y = zip(*points, strict=True) if points else ((), ())
            axes.plot(x, y, color=colour, label=name, marker="o" if len(points) < 10 else None, markersize=3)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        if scale == "share":
            span = max(high - low, 0.1)
            middle = min(max((low + high) / 2, span / 2), 1 - span / 2)
            axes.set_ylim(middle - 0.53 * span, middle + 0.53 * span)
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        elif scale == "log" and low > 0 and high >= 10 * low:
            axes.set(yscale="log", ylabel="logarithmic")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        else:
            axes.set_ylim(0, 1.06 * high if high > 0 else 1.0)
        if all(lines):
            axes.legend()
        axes.set_xlabel(over)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        return as_svg(figure, what)


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 10) -> str:
    """Draw accuracy with its 95 % interval against confidence in equal bins of confidence, as SVG.

    `probabilities` are [N, classes]. Perfect calibration is the diagonal (Guo et al. 2017, figure 1). The number of
    images stands over each bin, their share is a bar; a bin of fewer than `FEW` is faint and joined to no other.
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    held = counts > 0
    hits = np.bincount(place, weights=right, minlength=bins)[held]
    mean = np.bincount(place, weights=confidence, minlength=bins)[held] / counts[held]
    with drawing("calibration") as (figure, axes):
        axes.bar((np.arange(bins) + 0.5) / bins, counts / len(labels), 0.9 / bins, color=FAINT, alpha=0.45)
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8, linestyle="--")
        many = counts[held] >= FEW
        axes.plot(mean, np.where(many, hits / counts[held], np.nan), color=FIRST)
        for at, hit, n in zip(mean, hits, counts[held], strict=True):
            strength = 1.0 if n >= FEW else 0.35
            axes.vlines(at, *wilson(int(hit), int(n)), color=FIRST, linewidth=0.8, alpha=strength, clip_on=False)
            axes.plot(at, hit / n, color=FIRST, marker="o", markersize=3.5, alpha=strength, clip_on=False)
        for i in np.flatnonzero(held):
            n = f"{counts[i]:,}" if counts[i] < 10_000 else f"{counts[i] / 1000:.0f}k"
            axes.text((i + 0.5) / bins, 1.05, n, ha="center", fontsize=6.5, color=INK)
        axes.set(xlim=(0, 1), ylim=(0, 1.12), xlabel="confidence", ylabel="accuracy; bars: share of images")
        axes.set_yticks(np.linspace(0, 1, 6))
        return as_svg(figure, "calibration")


@contextlib.contextmanager
def drawing(name: str) -> Iterator[tuple["Figure", "Axes"]]:
    """Give an empty figure of one panel in the page's style."""
    from matplotlib.figure import Figure

    with styled(STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(3.6, 2.5), layout="constrained")
        axes = figure.subplots()
        axes.grid(visible=True, axis="y")
        yield figure, axes


def as_svg(figure: "Figure", name: str) -> str:
    """Return a figure as an SVG element in the page's colours; every `id` in it starts with its name."""
    sink = io.StringIO()
    figure.savefig(sink, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = sink.getvalue()
    for stand_in, colour in COLOURS.items():
        text = text.replace(stand_in, colour)
    text = re.sub(r'((?<= id=")|(?<=")#|(?<=url\()#)', rf"\g<0>{name.replace(' ', '_')}-", text)
    return text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{name}"', 1)
