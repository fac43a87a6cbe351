"""The part of a study's page that says what the maps are worth: scores beside an edge map, and random weights."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cnntrain.report.forest import forest
from cnntrain.runtime.drawing import DASHES, SERIES, empty_figure
from cnntrain.runtime.tables import Row
from cnntrain.studies.explain.paired import LESS_IS_BETTER
from cnntrain.studies.explain.sanity import CHANGED, LABELS, SanityRow
from cnntrain.studies.explain.scores import MapScore

if TYPE_CHECKING:  # matplotlib takes half a second to import
    from matplotlib.figure import Figure as MatplotlibFigure

SCORED = (
    "Insertion: the area under the class's probability as pixels appear, the highest values of a map first, in a "
    "blurred image; more is better. Deletion: the same as they become grey; less is better. Pointing game: how often "
    "the highest value lies in the box or the mask. Localisation: how often the box around the largest region of a map "
    "has half of the union in common with the true box, or the region with the mask, at the threshold that is best for "
    "training images (ground truth known); and the predicted class is right too (top-1). max_box_acc takes the best "
    "threshold for the scored images themselves, at three shares of the union. pixel_precision: the average precision "
    "of a map's values for the pixels of the mask. Intervals are 95 % over images."
)
CHANGES = (
    "The rank correlation of each map, without its signs, with that of a network whose weights are random from a stage "
    f"to the last. Where it is still {CHANGED} or more when all are random, a method shows the image, not the network."
)


def score_table(scores: Sequence[MapScore]) -> list[Row]:
    """Return a row for each method: its scores with their intervals."""
    methods, names = ({getattr(score, key): None for score in scores} for key in ("method", "score"))
    words = {(score.method, score.score): words_of(score) for score in scores}
    return [{"method": method, **{name: words.get((method, name)) for name in names}} for method in methods]


def words_of(score: MapScore) -> str:
    """Write a score with its interval, marked where it differs from the edge map's."""
    mark = f" ({score.difference.verdict})" if score.difference and score.difference.significant else ""
    return f"{score.value:.3f} ({score.low:.3f} … {score.high:.3f}){mark}"


def score_figures(scores: Sequence[MapScore]) -> "dict[str, MatplotlibFigure]":
    """Draw each score's differences to the edge map's, by the score's name."""
    figures = {}
    for name in dict.fromkeys(score.score for score in scores):
        tests = [score.difference for score in scores if score.score == name and score.difference]
        direction = "less is better" if name in LESS_IS_BETTER else "more is better"
        label = f"{name} minus the edge map's, in points ({direction})"
        figures[f"score_{name}"] = forest(tests, label, "filled: significant after Holm's correction")
    return figures


def sanity_figure(rows: Sequence[SanityRow]) -> "MatplotlibFigure":
    """Draw the rank correlation of each method's maps, without their signs, as more stages are random."""
    figure = empty_figure(6.0, 3.2)
    axes = figure.subplots()
    axes.grid(visible=True, axis="y")
    for place, method in enumerate(dict.fromkeys(row.method for row in rows)):
        cascade = [row for row in rows if row.method == method and row.stage != LABELS]
        stages, colour = [row.stage for row in cascade], SERIES[place % len(SERIES)]
        lows, highs = [row.sizes.low for row in cascade], [row.sizes.high for row in cascade]
        axes.fill_between(stages, lows, highs, color=colour, alpha=0.1, linewidth=0)
        means = [row.sizes.mean for row in cascade]
        axes.plot(stages, means, label=method, marker="o", color=colour, linestyle=DASHES[place % len(DASHES)])
    axes.axhline(CHANGED, color="black", linewidth=0.5, linestyle=":")
    axes.set_ylim(-0.4, 1.02)
    axes.set_xlabel("random from the last stage to this one")
    axes.set_ylabel("rank correlation")
    axes.tick_params(axis="x", rotation=45)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
