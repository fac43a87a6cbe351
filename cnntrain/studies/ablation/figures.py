"""The picture of a study: what each variant changes, with its interval, the largest loss first."""

import io
from collections.abc import Sequence
from typing import Any, Literal

from cnntrain.report.svg import STYLE
from cnntrain.stats.paired_tests import PairedTest, points
from cnntrain.studies.ablation.answer import VariantRow

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


def differences_picture(table: Sequence[VariantRow], style: Literal["png", "svg"] = "png") -> bytes:
    """Draw the rows of `Answer.table` for paper: a dot and its 95 % interval, filled where it is significant.

    The rows are sorted by their difference, which stands beside them in numbers. Variants without one are left out.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    first, *others = table
    tests = sorted((row.test for row in others if row.test.delta is not None), key=lambda test: -(test.delta or 0))
    places = list(range(len(tests)))
    numbers = [points(test.delta) + ends(test) for test in tests]
    names = [test.name for test in tests]
    letters = sum(max(map(len, words), default=0) for words in (names, numbers))
    with matplotlib.rc_context(PAPER):
        figure = Figure(figsize=(4.0 + LETTER * letters, 1.0 + ROW * max(len(tests), 2)), layout="constrained")
        axes = figure.subplots()
        axes.grid(visible=True, axis="x")
        axes.axvline(0, color=BLACK, linewidth=0.8)
        for test, place in zip(tests, places, strict=True):
            if test.delta_low is not None and test.delta_high is not None:
                axes.plot([100 * test.delta_low, 100 * test.delta_high], [place, place], color=BLACK, lw=1.2)
            face = BLACK if test.significant else "white"
            axes.plot(100 * (test.delta or 0), place, "o", markersize=4.5, color=BLACK, markerfacecolor=face)
        axes.margins(x=0.05)
        axes.set_ylim(-0.7, max(len(tests), 1) - 0.3)
        axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))
        axes.set_xlabel(f"test top-1 minus that of {first.variant}, percentage points", parse_math=False)
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


def ends(test: PairedTest) -> str:
    """Write the interval of a difference behind it, nothing where there is none."""
    return "" if test.delta_low is None else f" ({points(test.delta_low)} … {points(test.delta_high)})"
