"""The figure of a probing study, drawn within `drawing.styled`: accuracy by depth."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cnntrain.runtime.drawing import DASHES, GREY, SERIES, empty_figure, thin
from cnntrain.studies.networks import INPUT
from cnntrain.studies.probe.rows import ProbeTables, StageRow

if TYPE_CHECKING:  # matplotlib takes half a second to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = {"none": "trained", "random": "random weights", "permuted": "permuted labels"}
MOST_ROWS = 4  # networks in a figure
FLAT = 35  # letters of stages that stand beside each other; more are turned


def depth_figure(tables: ProbeTables, chance: float) -> "Figure":
    """Draw accuracy by stage, a row of panels for each network and a column for each classifier."""
    networks = list(dict.fromkeys(row.network for row in tables.pooled))[:MOST_ROWS]
    kinds = list(dict.fromkeys(row.classifier for row in tables.pooled))
    figure = empty_figure(7.2 if len(kinds) > 1 else 4.4, 0.5 + 2.4 * len(networks))
    panels: Any = figure.subplots(len(networks), len(kinds), squeeze=False, sharey=True)
    for line, network in zip(panels, networks, strict=True):
        for axes, kind in zip(line, kinds, strict=True):
            rows = [row for row in tables.pooled if (row.network, row.classifier) == (network, kind)]
            draw_depth(axes, rows, chance)
            axes.set_title(f"{network}, {kind}")
        line[0].set_ylabel("accuracy, %")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels) if len(kinds) > 1 else 3)
    return figure


def draw_depth(axes: "Axes", rows: Sequence[StageRow], chance: float) -> None:
    """Draw the lines of one network and classifier with their bands."""
    stages = [row.stage for row in rows if row.control == "none" and row.stage != INPUT]
    for number, (control, label) in enumerate(LINES.items()):
        line = [row for row in rows if row.control == control and row.stage != INPUT]
        if not line:
            continue
        x = [stages.index(row.stage) for row in line]
        for ends, opacity in (
            ([(row.top1_low, row.top1_high) for row in line], 0.3),
            ([(row.top1_seed_low, row.top1_seed_high) for row in line], 0.13),
        ):
            bounds = [(100 * low, 100 * high) for low, high in ends if low is not None and high is not None]
            if bounds:
                low, high = zip(*bounds, strict=True)
                axes.fill_between(x, low, high, color=SERIES[number], alpha=opacity, linewidth=0)
        y = [100 * row.top1 for row in line]
        axes.plot(x, y, color=SERIES[number], linestyle=DASHES[number], marker="o", label=label)
    for row in rows:
        if row.stage == INPUT and row.control == "none":
            axes.axhline(100 * row.top1, color=SERIES[3], linestyle=DASHES[3], linewidth=2 * thin(), label="pixels")
            axes.axhspan(100 * row.top1_low, 100 * row.top1_high, color=SERIES[3], alpha=0.2, linewidth=0)
    axes.axhline(100 * chance, color=GREY, linewidth=thin(), label="chance")
    turned: Any = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"} if sum(map(len, stages)) > FLAT else {}
    axes.set_xticks(range(len(stages)), stages, **turned)
    axes.set_ylim(0, 102)
    axes.grid(visible=True, axis="y")
