"""The picture of a study: what each variant changes, with its interval, against the parameters that it removes."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from scipy import optimize

from cnntrain.analysis.figures import STYLE, styled

BLACK, GREY, LINE = "#111111", "#767676", "#d0d0d0"
PAPER: Any = STYLE | {
    "axes.edgecolor": GREY,
    "axes.labelcolor": BLACK,
    "text.color": BLACK,
    "xtick.color": BLACK,
    "ytick.color": BLACK,
    "grid.color": LINE,
    "svg.hashsalt": "ablation",
}
ROW = 0.17  # inches that a name is high
LEAST = 10.0  # per cent of the parameters that the axis spans: fewer are not blown up


def differences_picture(table: Sequence[Mapping[str, Any]], style: Literal["png", "svg"] = "png") -> bytes:
    """Draw the rows of `Answer.table` for paper: a dot and its 95 % interval, filled where it can be believed.

    Upwards is the share of the first row's parameters that a variant removes. Rows that would touch are set apart, and
    a line leads each to its true place on the axis. Variants without a difference are left out.
    """
    from matplotlib.figure import Figure

    first, *others = table
    rows = sorted(
        (row for row in others if row["delta_mean"] is not None),
        key=lambda row: (row["params_removed"], row["delta_mean"]),
    )
    shares = np.array([100 * row["params_removed"] / first["params"] for row in rows])
    room = max(float(np.ptp(np.append(shares, 0.0))), LEAST)
    height = max(2.2, 1.6 * ROW * (len(rows) + 1))
    gap = room * ROW / (height - ROW * (len(rows) + 1))  # wide enough even if all rows had to be set apart
    for _ in range(10):  # towards the height of a name on the axis that its places make
        gap = ROW / height * (max(float(np.ptp(np.append(set_apart(shares, gap), 0.0))) + 2 * gap, LEAST))
    places = set_apart(shares, gap)
    with styled(PAPER):
        figure = Figure(figsize=(6.0, height + 0.8), layout="constrained")
        axes = figure.subplots()
        names = axes.twinx()
        axes.grid(visible=True, axis="x")
        axes.axvline(0, color=GREY, linewidth=0.8)
        for row, share, place in zip(rows, shares, places, strict=True):
            axes.plot([0, 0.04, 1], [share, place, place], transform=axes.get_yaxis_transform(), color=LINE, lw=0.6)
            if row["delta_low"] is not None:
                axes.plot([100 * row["delta_low"], 100 * row["delta_high"]], [place, place], color=BLACK, lw=1.2)
            face = BLACK if row["believable"] else "white"
            axes.plot(100 * row["delta_mean"], place, "o", markersize=4.5, color=BLACK, markerfacecolor=face)
        low, high = min([0.0, *places]), max([0.0, *places])
        spare = max(gap, (LEAST - high + low) / 2)
        axes.set_ylim(low - spare, high + spare)
        names.set_ylim(low - spare, high + spare)
        axes.margins(x=0.08)
        axes.set_xlabel(f"top-1 minus that of {first['variant']}, points")
        axes.set_ylabel("parameters removed, %")
        axes.set_title("95 % intervals over seeds; filled: can be believed", fontsize=7, color=GREY, loc="left")
        names.set_yticks(places, [row["variant"] for row in rows])
        names.tick_params(length=0)
        names.spines["left"].set_visible(False)
        sink = io.BytesIO()
        unstamped = dict.fromkeys(("Software",) if style == "png" else ("Date", "Creator"))
        figure.savefig(sink, format=style, dpi=200, metadata=unstamped)
    return sink.getvalue()


def set_apart(values: np.ndarray, gap: float) -> np.ndarray:
    """Return ascending values [N] moved as little as possible, in the sum of squares, to lie at least `gap` apart."""
    if len(values) < 2:
        return values
    steps = gap * np.arange(len(values))
    return np.asarray(optimize.isotonic_regression(values - steps).x + steps)
