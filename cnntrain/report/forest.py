"""A forest plot: differences with their intervals, the most negative at the top."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cnntrain.runtime.drawing import GREY, INK, PAPER, empty_figure, thin
from cnntrain.stats.paired_tests import PairedTest, points

if TYPE_CHECKING:  # matplotlib takes half a second to import
    from matplotlib.figure import Figure

ROW, LETTER = 0.22, 0.06  # inches on a page: the height of a row, the width of a letter


def forest(tests: Sequence[PairedTest], label: str, explained: str) -> "Figure":
    """Draw differences in points, sorted: a dot and its interval each, the dot filled where it is significant.

    The difference stands beside each in numbers; tests without one are left out.
    """
    from matplotlib.ticker import MaxNLocator

    rows = sorted((test for test in tests if test.delta is not None), key=lambda test: -(test.delta or 0))
    places = list(range(len(rows)))
    names, numbers = [test.name for test in rows], [difference_words(test) for test in rows]
    letters = sum(max(map(len, texts), default=0) for texts in (names, numbers))
    figure = empty_figure(4.0 + LETTER * letters, 1.0 + ROW * max(len(rows), 2))
    axes = figure.subplots()
    axes.grid(visible=True, axis="x")
    axes.axvline(0, color=INK, linewidth=thin())
    for place, test in zip(places, rows, strict=True):
        if test.delta_low is not None and test.delta_high is not None:
            axes.plot([100 * test.delta_low, 100 * test.delta_high], [place, place], color=INK)
        axes.plot(100 * (test.delta or 0), place, "o", color=INK, markerfacecolor=INK if test.significant else PAPER)
    axes.margins(x=0.05)
    axes.set_ylim(-0.7, max(len(rows), 1) - 0.3)
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))
    axes.set_xlabel(label)
    axes.set_title(explained, fontsize="small", color=GREY, loc="left")
    values = axes.twinx()
    values.set_ylim(axes.get_ylim())
    for side, texts in ((axes, names), (values, numbers)):
        side.set_yticks(places, texts, fontsize=row_letters(figure, len(rows)))
        side.tick_params(axis="y", length=0)
        side.spines["left"].set_visible(False)
    return figure


def difference_words(test: PairedTest) -> str:
    """Write a difference in points, with its interval where it has one."""
    ends = "" if test.delta_low is None else f" ({points(test.delta_low)} … {points(test.delta_high)})"
    return f"{points(test.delta)}{ends}"


def row_letters(figure: "Figure", rows: int) -> float:
    """Return the size of letters, in points, with which so many rows fit into a figure."""
    import matplotlib

    height = 72 * 0.7 * figure.get_figheight() / max(rows, 1)  # of a row; axis and title take the rest
    return min(float(matplotlib.rcParams["font.size"]), 0.8 * height)
