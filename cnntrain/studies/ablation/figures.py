"""The picture of a study: what each variant changes, with its interval, the largest loss first."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cnntrain.report.svg import STYLE
from cnntrain.stats.paired_tests import points

BLACK, GREY, LINE = "#111111", "#767676", "#d0d0d0"
PAPER: Any = STYLE | {
    "axes.edgecolor": GREY,
    "axes.labelcolor": BLACK,
    "text.color": BLACK,
    "xtick.color": BLACK,
    "ytick.color": BLACK,
    "grid.color": LINE,
    "axes.unicode_minus": False,
    "svg.hashsalt": "ablation",
}
ROW, LETTER = 0.22, 0.06  # inches: the height of a row, the width of a letter


def differences_picture(table: Sequence[Mapping[str, Any]], style: Literal["png", "svg"] = "png") -> bytes:
    """Draw the rows of `Answer.table` for paper: a dot and its 95 % interval, filled where it is significant.

    The rows are sorted by their difference, which stands beside them in numbers. Variants without one are left out.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    first, *others = table
    rows = sorted((row for row in others if row["delta_mean"] is not None), key=lambda row: -row["delta_mean"])
    places = list(range(len(rows)))
    numbers = [points(row["delta_mean"]) + ends(row) for row in rows]
    names = [row["variant"] for row in rows]
    letters = sum(max(map(len, words), default=0) for words in (names, numbers))
    with matplotlib.rc_context(PAPER):
        figure = Figure(figsize=(4.0 + LETTER * letters, 1.0 + ROW * max(len(rows), 2)), layout="constrained")
        axes = figure.subplots()
        axes.grid(visible=True, axis="x")
        axes.axvline(0, color=BLACK, linewidth=0.8)
        for row, place in zip(rows, places, strict=True):
            if row["delta_low"] is not None:
                axes.plot([100 * row["delta_low"], 100 * row["delta_high"]], [place, place], color=BLACK, lw=1.2)
            face = BLACK if row["believable"] else "white"
            axes.plot(100 * row["delta_mean"], place, "o", markersize=4.5, color=BLACK, markerfacecolor=face)
        axes.margins(x=0.05)
        axes.set_ylim(-0.7, max(len(rows), 1) - 0.3)
        axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))
        axes.set_xlabel(f"test top-1 minus that of {first['variant']}, percentage points", parse_math=False)
        axes.set_title("95 % intervals over seeds; filled: significant", fontsize=7, color=GREY, loc="left")
        values = axes.twinx()
        values.set_ylim(axes.get_ylim())
        for side, words in ((axes, names), (values, numbers)):
            side.set_yticks(places, words)
            side.tick_params(axis="y", length=0)
            side.spines["left"].set_visible(False)
            for label in side.get_yticklabels():
                label.set_parse_math(False)
        sink = io.BytesIO()
        unstamped = dict.fromkeys(("Software",) if style == "png" else ("Date", "Creator"))
        figure.savefig(sink, format=style, dpi=200, metadata=unstamped)
    return sink.getvalue()


def ends(row: Mapping[str, Any]) -> str:
    """Write the interval of a row behind its difference, nothing where there is none."""
    return "" if row["delta_low"] is None else f" ({points(row['delta_low'])} … {points(row['delta_high'])})"
