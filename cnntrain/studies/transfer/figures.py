"""The figures of a study of transfer: learning curves, and how well each depth of a network transfers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cnntrain.runtime.drawing import DASHES, SERIES, empty_figure
from cnntrain.stats.paired_tests import seed_interval
from cnntrain.studies.results import Results
from cnntrain.studies.transfer.regimes import Regime

if TYPE_CHECKING:  # matplotlib takes half a second to import
    from matplotlib.figure import Figure


def learning_curves(regimes: Sequence[Regime], results: Results, label: str) -> "Figure":
    """Draw the test score of each regime against the training images of a class, on a logarithmic axis."""
    figure = empty_figure(5.2, 3.2)
    axes = figure.subplots()
    equal = [regime for regime in regimes if regime.budget == "steps" and regime.size is not None]
    for number, name in enumerate(dict.fromkeys(regime.regime for regime in equal)):
        places = sorted((regime for regime in equal if regime.regime == name), key=lambda regime: regime.size or 0)
        draw_band(axes, [regime.size or 0 for regime in places], places, results, number, name)
    sizes = sorted({regime.size or 0 for regime in equal})
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("training images a class")
    axes.set_ylabel(f"test {label}, %")
    axes.grid(visible=True)
    axes.legend()
    return figure


def depth_figure(regimes: Sequence[Regime], results: Results, label: str) -> "Figure":
    """Draw the test score against the last stage that is taken, frozen or not, beside the other regimes.

    In the manner of figure 2 of Yosinski et al. (2014). With several numbers of images, the largest is drawn.
    """
    largest = max((regime.size or 0 for regime in regimes), default=0) or None
    equal = [regime for regime in regimes if regime.budget == "steps" and regime.size == largest]
    depths = sorted((regime for regime in equal if regime.taken), key=lambda one: len(one.taken))
    stages = list(dict.fromkeys(regime.taken[-1] for regime in depths))
    figure = empty_figure(max(5.2, 1.2 + 0.35 * len(stages)), 3.4)
    axes = figure.subplots()
    lines = {"up to, frozen": [regime for regime in depths if regime.frozen]}
    lines["up to, all learn"] = [regime for regime in depths if not regime.frozen]
    for number, (name, line) in enumerate(lines.items()):
        if line:
            draw_band(axes, [stages.index(regime.taken[-1]) for regime in line], line, results, number, name)
    others = [regime for regime in equal if not regime.taken]
    for number, regime in enumerate(others, start=len(lines)):
        draw_band(axes, [-0.5, len(stages) - 0.5], [regime, regime], results, number, regime.regime)
    axes.set_xticks(range(len(stages)), stages, rotation=45, ha="right")
    axes.set_xlim(-0.5, len(stages) - 0.5)
    axes.set_xlabel("last stage that is taken")
    axes.set_ylabel(f"test {label}, %")
    axes.grid(visible=True, axis="y")
    axes.legend()
    return figure


def draw_band(
    axes: Any, places: Sequence[float], regimes: Sequence[Regime], results: Results, number: int, name: str
) -> None:
    """Draw one line through the means over seeds, with a band of their t intervals, where there are cells."""
    points = [(place, scores_of(regime, results)) for place, regime in zip(places, regimes, strict=True)]
    points = [(place, scores) for place, scores in points if scores]
    at, means = [place for place, _ in points], [100 * sum(scores) / len(scores) for _, scores in points]
    colour = SERIES[number % len(SERIES)]
    marker = "o" if len({regime.name for regime in regimes}) > 1 else None
    axes.plot(at, means, color=colour, linestyle=DASHES[number % len(DASHES)], marker=marker, label=name)
    bands = [(place, seed_interval(scores)) for place, scores in points if len(scores) > 1]
    if bands:
        lows, highs = ([100 * ends[side] for _, ends in bands] for side in (1, 2))
        axes.fill_between([place for place, _ in bands], lows, highs, color=colour, alpha=0.15, linewidth=0)


def scores_of(regime: Regime, results: Results) -> list[float]:
    """Return the test scores of a regime's finished cells."""
    return [result.scores.test_score for (name, _), result in results.items() if name == regime.name]
