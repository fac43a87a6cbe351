"""Drawings for a page that is read in light and in dark: SVG in the colours of the page's style sheet."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from cnntrain.runtime.drawing import DASHES, GREY, INK, PAPER, RULE, SERIES, empty_figure, styled, thin
from cnntrain.stats.intervals import wilson

if TYPE_CHECKING:  # matplotlib takes half a second to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {PAPER: "var(--paper)", INK: "currentColor", GREY: "var(--soft)", RULE: "var(--line)"}
COLOURS |= {colour: f"var(--series-{place})" for place, colour in enumerate(SERIES, 1)}
FEW = 20  # images, of which an accuracy has an interval of forty points
Points = Sequence[tuple[float, float]]
AxisScale = Literal["linear", "log", "share"]


def curves(lines: Mapping[str, Points], what: str, over: str, scale: AxisScale = "linear") -> str:
    """Draw up to two lines of (epoch or step, value) as SVG, with their names if they have some; few points are dots.

    A linear axis starts at 0, and so does one that is to be logarithmic where the values stay within a factor of ten.
    Shares are in per cent, over at least ten points.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    values = [value for points in lines.values() for _, value in points]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    with styled():
        figure, axes = panel()
        for (name, points), colour, dashes in zip(lines.items(), SERIES, DASHES, strict=False):
            x, y = zip(*points, strict=True) if points else ((), ())
            mark = "o" if len(points) < 10 else None
            axes.plot(x, y, color=colour, linestyle=dashes, label=name, marker=mark)
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
    filled = counts > 0
    n_filled = counts[filled]
    correct = np.bincount(place, weights=right, minlength=bins)[filled]
    mean = np.bincount(place, weights=confidence, minlength=bins)[filled] / n_filled
    with styled():
        figure, axes = panel()
        axes.bar((np.arange(bins) + 0.5) / bins, counts / len(labels), 0.9 / bins, color=GREY, alpha=0.25)
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=thin(), linestyle="--")
        axes.plot(mean, np.where(n_filled >= FEW, correct / n_filled, np.nan), color=SERIES[0])
        for at, hit, n in zip(mean, correct, n_filled, strict=True):
            strength = 1.0 if n >= FEW else 0.35
            axes.vlines(at, *wilson(int(hit), int(n)), color=SERIES[0], linewidth=thin(), alpha=strength, clip_on=False)
            axes.plot(at, hit / n, color=SERIES[0], marker="o", alpha=strength, clip_on=False)
        for i in np.flatnonzero(filled):
            n = f"{counts[i]:,}" if counts[i] < 10_000 else f"{counts[i] / 1000:.0f}k"
            axes.text((i + 0.5) / bins, 1.05, n, ha="center", fontsize="small")
        axes.set(xlim=(0, 1), ylim=(0, 1.12), xlabel="confidence", ylabel="accuracy; bars: share of all")
        axes.set_yticks(np.linspace(0, 1, 6))
        return as_svg(figure, "calibration")


def panel() -> tuple["Figure", "Axes"]:
    """Return a small figure of one panel."""
    figure = empty_figure(3.6, 2.5)
    axes = figure.subplots()
    axes.grid(visible=True, axis="y")
    return figure, axes


def as_svg(figure: "Figure", name: str) -> str:
    """Return a figure as an SVG element in the page's colours; every `id` in it starts with `name`.

    Only tags are changed: a name of the user's that is drawn stays as it is. It must be called within `styled`.
    """
    sink = io.StringIO()
    unstamped = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(sink, format="svg", transparent=True, metadata=unstamped)
    prefix = re.sub(r"\W", "_", name)

    def recoloured(tag: re.Match[str]) -> str:
        text = re.sub(r"#[0-9a-f]{6}\b", lambda colour: COLOURS.get(colour[0], colour[0]), tag[0])
        return re.sub(r'(?<= id=")|(?<=href="#)|(?<=url\(#)', f"{prefix}-", text)

    text = sink.getvalue()
    return re.sub(r"<[^>]*>", recoloured, text[text.index("<svg") :])
