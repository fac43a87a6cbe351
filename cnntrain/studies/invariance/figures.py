"""Figures of an invariance study, drawn within `drawing.styled`.

Curves in the manner of Zeiler and Fergus (2014, figure 5), heat maps of stage against amount, maps over shifts, counts
of changed pixels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cnntrain.runtime.drawing import DASHES, GREY, SERIES, empty_figure, thin
from cnntrain.studies.invariance.rows import ACCURACY, Curves, LagRow, bands, seed_bands
from cnntrain.transforms.transform import Amount, Transform

if TYPE_CHECKING:  # matplotlib takes half a second to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONTROLS: dict[str, Any] = {"interpolation alone": ":", "border alone": (0, (1, 4))}


@dataclass(frozen=True)
class Line:
    """A network, or several that differ in their seed only, as one line of each panel."""

    curves: Curves
    members: Sequence[Curves] = ()
    early: str = ""  # the first stage after the input, and the last before the classes
    late: str = ""


@dataclass(frozen=True)
class Samples:
    """Images under a warp, uint8 [images, amounts, H, W, C], at `amounts`, with the names of their classes."""

    pixels: np.ndarray
    amounts: Sequence[Amount]
    classes: Sequence[str]


class Attacked(NamedTuple):
    """An image before and after an attack, float32 [H, W, C] in 0..255, and what the network says of it.

    `shares` are the probabilities of the true and of the new class before, then of both after.
    """

    before: np.ndarray
    after: np.ndarray
    budget: float
    true: str
    new: str
    shares: tuple[float, ...]


def line_of(curves: Curves, members: Sequence[Curves] = ()) -> Line:
    """Return a line with its early and its late stage."""
    stages = [stage for stage in curves.stages if stage != "input"] or list(curves.stages)
    return Line(curves, members, stages[0], stages[-2] if len(stages) > 1 else stages[0])


def overview(transform: Transform, lines: Sequence[Line], samples: Samples) -> "Figure":
    """Draw sample images under the warp, and against the amount the early distance, the late one and p of the truth."""
    from matplotlib.lines import Line2D

    figure = empty_figure(7.2, 4.4)
    parts: Any = figure.subfigures(2, 1, height_ratios=(0.8, 1.5))
    top, bottom = parts
    show_samples(top, transform, samples)
    panels = bottom.subplots(1, 3)
    for axes, (title, key) in zip(panels, (("early", "distance"), ("late", "distance"), ("", "p_true")), strict=True):
        for number, line in enumerate(lines):
            stage = {"early": line.early, "late": line.late}.get(title)
            draw_line(axes, transform, line, key, stage, number)
            draw_controls(axes, transform, line, key, stage, SERIES[number % len(SERIES)] if len(lines) > 1 else GREY)
        names = {getattr(line, title) for line in lines} if title else set()
        axes.set_title(
            f"{title} features: {', '.join(sorted(names)) if len(names) < 3 else 'each its own'}"
            if title
            else "probability of the true class"
        )
        dress(axes, transform, "distance (1: another class)" if title else "probability")
        axes.set_ylim(bottom=0, top=None if title else 1.02)
    handles, labels = panels[0].get_legend_handles_labels()
    if lines[0].curves.floor:
        handles += [Line2D([], [], color=GREY, linestyle=dash, linewidth=1.5 * thin()) for dash in CONTROLS.values()]
        labels += CONTROLS
    bottom.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5))
    return figure


def draw_line(axes: "Axes", transform: Transform, line: Line, key: str, stage: str | None, number: int) -> None:
    """Draw one curve with its band over images, and the wider, lighter one over seeds where there are several."""
    x, at = along(transform, line, stage)
    colour, dashes = SERIES[number % len(SERIES)], DASHES[number % len(DASHES)]
    ends = [(bands(line.curves)[key], 0.3)]
    if len(line.members) > 1:
        ends.append((seed_bands(line.members)[key], 0.13))
    for (low, high), opacity in ends:
        axes.fill_between(x, low[at], high[at], color=colour, alpha=opacity, linewidth=0)
    y = line.curves.values[key][0][at]
    mark = "o" if len(x) < 6 else None
    axes.plot(x, y, color=colour, linestyle=dashes, label=line.curves.name, marker=mark)


def along(transform: Transform, line: Line, stage: str | None) -> tuple[np.ndarray, Any]:
    """Return the amounts in ascending order, and the index that takes a curve's values in that order."""
    x = np.array([amount[0] for amount in transform.amounts])
    order = np.argsort(x)
    return x[order], (order, line.curves.stages.index(stage)) if stage else order


def draw_controls(axes: "Axes", transform: Transform, line: Line, key: str, stage: str | None, colour: str) -> None:
    """Draw what interpolation alone does, and the border alone, as thin lines."""
    x, at = along(transform, line, stage)
    for control, dash in zip((line.curves.floor, line.curves.padding), CONTROLS.values(), strict=True):
        if control:
            axes.plot(x, control[key][at], color=colour, linestyle=dash, linewidth=1.5 * thin())


def dress(axes: "Axes", transform: Transform, what: str) -> None:
    """Name the axes, and mark the neutral amount."""
    axes.grid(visible=True, axis="y")
    axes.axvline(transform.neutral[0], color=GREY, linewidth=thin())
    axes.set_xlabel(f"{transform.name} ({transform.unit})")
    axes.set_ylabel(what)
    if transform.name == "scale":
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
    if len(transform.amounts) < 6:
        axes.set_xticks([amount[0] for amount in transform.amounts])


def show_samples(parent: Any, transform: Transform, samples: Samples) -> None:
    """Draw the sample images as one sheet, an image a row and an amount a column."""
    rows, columns, height, width, channels = samples.pixels.shape
    gap = max(1, width // 12)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 255, dtype=np.uint8)
    for row, column in np.ndindex(rows, columns):
        top, left = row * (height + gap), column * (width + gap)
        sheet[top : top + height, left : left + width] = samples.pixels[row, column]
    axes = parent.subplots()
    axes.imshow(sheet[..., 0] if channels == 1 else sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize="small", top=False, labeltop=True, labelbottom=False)
    shown = [", ".join(f"{part:.3g}" for part in amount) for amount in samples.amounts]
    axes.set_xticks([column * (width + gap) + width / 2 - 0.5 for column in range(columns)], shown)
    axes.set_yticks([row * (height + gap) + height / 2 - 0.5 for row in range(rows)], samples.classes)


def heat(transform: Transform, lines: Sequence[Line]) -> "Figure":
    """Draw each network's distance by stage and amount."""
    columns = min(len(lines), 3)
    rows = math.ceil(len(lines) / columns)
    most = max(len(line.curves.stages) for line in lines)
    figure = empty_figure(2.2 + 2.5 * columns, rows * (1.0 + 0.2 * most))
    for axes, line in zip(figure.subplots(rows, columns, squeeze=False).flat, lines, strict=False):
        x = np.array([amount[0] for amount in transform.amounts])
        order = np.argsort(x)
        values = line.curves.values["distance"][0][order].T
        picture = axes.imshow(values, aspect="auto", cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        axes.set_yticks(range(len(line.curves.stages)), line.curves.stages)
        shown = np.unique(np.linspace(0, len(x) - 1, min(len(x), 5)).round().astype(int))
        axes.set_xticks(shown, [f"{x[order][i]:.3g}" for i in shown])
        axes.set_xlabel(f"{transform.name} ({transform.unit})")
        axes.set_title(line.curves.name)
        axes.spines[:].set_visible(False)
        figure.colorbar(picture, ax=axes, label="distance", extend="max")
    for axes in figure.axes:
        if not axes.has_data():
            axes.remove()
    return figure


def overlay(transform: Transform, lines: Sequence[Line]) -> "Figure":
    """Draw consistency, accuracy and how features move along, of several networks."""
    figure = empty_figure(7.2, 2.9)
    panels = figure.subplots(1, 3)
    for axes, key, title in zip(
        panels,
        ("consistency", ACCURACY, "consistency_corrected"),
        ("same prediction as unchanged", "top-1", "consistency above chance"),
        strict=True,
    ):
        for number, line in enumerate(lines):
            draw_line(axes, transform, line, key, None, number)
        dress(axes, transform, "share of images" if key != "consistency_corrected" else "0: chance, 1: always")
        axes.set_title(title)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5))
    return figure


def sensitivity(transform: Transform, lines: Sequence[Line]) -> "Figure":
    """Draw maps over (dx, dy) of each network: its consistency, p of the truth, and late distance."""
    figure = empty_figure(7.2, 0.4 + 2.1 * len(lines))
    grid = figure.subplots(len(lines), 3, squeeze=False)
    across, down = (sorted({amount[axis] for amount in transform.amounts}) for axis in (0, 1))
    for row, line in zip(grid, lines, strict=True):
        late = line.curves.stages.index(line.late)
        values = line.curves.values
        maps = (
            ("consistency", values["consistency"][0], 0.0),
            ("p of the true class", values["p_true"][0], 0.0),
            (f"distance at {line.late}", values["distance"][0][:, late], 0.0),
        )
        for axes, (title, heights, low) in zip(row, maps, strict=True):
            place = dict(zip(transform.amounts, heights, strict=True))
            picture = np.array([[place[dx, dy] for dx in across] for dy in down])
            extent = (across[0] - 0.5, across[-1] + 0.5, down[-1] + 0.5, down[0] - 0.5)
            shown = axes.imshow(picture, cmap="viridis", vmin=low, vmax=1, extent=extent, interpolation="nearest")
            axes.set_title(f"{line.curves.name}: {title}" if len(lines) > 1 else title)
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.yaxis.get_major_locator().set_params(integer=True)
            axes.set_xlabel("dx (pixels)")
            axes.set_ylabel("dy (pixels)")
            axes.spines[:].set_visible(False)
            figure.colorbar(shown, ax=axes)
    return figure


def crossings(
    counts: np.ndarray, unchanged: Mapping[str, np.ndarray], amount: float, transform: Transform, bins: int = 5
) -> "Figure":
    """Draw how many pixels [N] cross the threshold under one shift, and how often each network keeps its prediction
    for images in which few or many do; `unchanged` holds truth values [N].
    """
    figure = empty_figure(7.2, 2.6)
    left, right = figure.subplots(1, 2)
    left.hist(counts, bins=40, color=GREY, alpha=0.6)
    left.set_xlabel(f"pixels that change, {transform.name} {amount:g}")
    left.set_ylabel("images")
    left.set_xlim(left=0)
    edges = np.quantile(counts, np.linspace(0, 1, bins + 1))
    place = np.clip(np.searchsorted(edges, counts, side="right") - 1, 0, bins - 1)
    for number, (name, same) in enumerate(unchanged.items()):
        points = [(counts[place == i].mean(), same[place == i].mean()) for i in range(bins) if (place == i).any()]
        colour, dashes = SERIES[number % len(SERIES)], DASHES[number % len(DASHES)]
        x, y = zip(*points, strict=True)
        right.plot(x, y, color=colour, linestyle=dashes, marker="o", label=name)
    right.set_xlabel("pixels that change (mean of each fifth)")
    right.set_ylabel("same prediction")
    right.grid(visible=True, axis="y")
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def aliasing(transform: Transform, rows: Sequence[LagRow], stride: int) -> "Figure":
    """Draw how often predictions agree at two shifts, against how far they lie apart; the stride's multiples marked."""
    figure = empty_figure(4.8, 2.8)
    axes = figure.subplots()
    for number, name in enumerate(dict.fromkeys(row.run for row in rows)):
        lags = [row for row in rows if row.run == name]
        x = [row.lag for row in lags]
        colour, dashes = SERIES[number % len(SERIES)], DASHES[number % len(DASHES)]
        low, high = ([getattr(row.consistency, end) for row in lags] for end in ("low", "high"))
        axes.fill_between(x, low, high, color=colour, alpha=0.25, linewidth=0)
        axes.plot(x, [row.consistency.value for row in lags], color=colour, linestyle=dashes, label=name, marker=".")
    axes.set_xticks(range(stride, len(transform.amounts), stride))
    axes.grid(visible=True, axis="x")
    axes.set_xlabel(f"{transform.name}: pixels between two shifts (marks: multiples of the stride)")
    axes.set_ylabel("same prediction")
    axes.legend()
    return figure


def adversarial(transform: Transform, cases: Sequence[Attacked]) -> "Figure":
    """Draw each image, its perturbation amplified to the whole range about grey, and their sum, with the answers."""
    figure = empty_figure(5.4, 1.9 * len(cases))
    for row, case in zip(figure.subplots(len(cases), 3, squeeze=False), cases, strict=True):
        change = case.after - case.before
        factor = 127.5 / max(float(np.abs(change).max()), 1e-9)
        pictures = (case.before, 127.5 + change * factor, case.after)
        titles = (
            f"{case.true}: {case.shares[0]:.0%}",
            f"change × {factor:.0f} (budget {case.budget:g})",
            f"{case.true}: {case.shares[2]:.0%}, {case.new}: {case.shares[3]:.0%}",
        )
        for axes, picture, title in zip(row, pictures, titles, strict=True):
            shown = np.clip(picture, 0, 255).astype(np.uint8)
            axes.imshow(shown[..., 0] if shown.shape[2] == 1 else shown, cmap="gray", vmin=0, vmax=255)
            axes.set_title(title)
            axes.axis("off")
    return figure
