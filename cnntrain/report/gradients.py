"""How large the gradient of every stage was during training: do the first stages learn as the last ones do?"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cnntrain.report.document import Block, Details, Figure, Panels, Paragraph, Table
from cnntrain.report.epochs import gradient_norms
from cnntrain.report.svg import as_svg
from cnntrain.runtime.drawing import DASHES, SERIES, empty_figure, styled

if TYPE_CHECKING:  # matplotlib takes half a second to import
    from matplotlib.figure import Figure as Drawing

MOST_NAMES = 24  # stages whose names fit below an axis
WHAT = (
    "The norm of the gradient of each stage's weights, as the mean over the steps of an epoch, before clipping. Where "
    "it falls by orders of magnitude towards the first stage, gradients vanish and the first stages hardly learn."
)


def gradient_blocks(records: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Return a figure and a table of a run's gradients in its first and last epoch; nothing where none were noted."""
    norms = gradient_norms(records)
    if not norms:
        return []
    lines = {f"epoch {epoch}": norms[epoch] for epoch in sorted({min(norms), max(norms)})}
    with styled():
        drawing = as_svg(gradient_figure(lines), "gradients")
    caption = "Norm of every stage's gradient, from the first stage to the last"
    rows = [{"stage": stage} | {name: line.get(stage) for name, line in lines.items()} for stage in norms[min(norms)]]
    figure = Panels([Figure(drawing, caption, caption)])
    return [Paragraph(WHAT, quiet=True), figure, Details("In numbers", [Table(rows)])]


def gradient_figure(lines: Mapping[str, Mapping[str, float]]) -> "Drawing":
    """Draw norms by stage, from the input to the output, on a logarithmic axis: one line a name.

    Stages are named below where all lines have the same ones, else numbered. A norm of 0 (a frozen stage) is left out.
    """
    from matplotlib.ticker import MaxNLocator

    figure = empty_figure(4.6, 2.6)
    axes = figure.subplots()
    axes.grid(visible=True, axis="y")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    for (name, norms), colour, dashes in zip(lines.items(), SERIES, DASHES, strict=False):
        points = [(place, norm) for place, norm in enumerate(norms.values(), 1) if norm > 0]
        axes.plot(*zip(*points, strict=True), color=colour, linestyle=dashes, marker="o", label=name)
    stages = {tuple(norms) for norms in lines.values()}
    if len(stages) == 1 and len(names := stages.pop()) <= MOST_NAMES:
        axes.set_xticks(range(1, len(names) + 1), names, rotation=60, ha="right", rotation_mode="anchor")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("stage, from the input to the output")
    axes.set_ylabel("norm of the gradient")
    axes.legend()
    return figure
