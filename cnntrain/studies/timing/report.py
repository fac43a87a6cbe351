"""What a study of times shows: tables, a figure of the stages, a page."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cnntrain.report.document import Block, Document, Figure, Paragraph, Section, Table
from cnntrain.report.files import FIGURES, write_report
from cnntrain.report.svg import as_svg
from cnntrain.runtime import disk
from cnntrain.runtime.drawing import SERIES, Medium, empty_figure, styled, write_figure
from cnntrain.runtime.tables import Row, percent, render
from cnntrain.studies.timing.study import NetworkRow, StageTimeRow

if TYPE_CHECKING:  # matplotlib takes half a second to import
    from matplotlib.figure import Figure as Drawing

HOW = (
    "Networks take their steps in turns, so that other work on the machine slows all of them alike; the first step of "
    "each is not counted. Times are medians, with the quartiles of the step. GMAC/s counts the multiplications of the "
    "forward pass; its share is of a large product of matrices, measured just before. A stage is timed by itself: what "
    "arrives is detached, so that its backward pass ends where it begins."
)


def network_lines(rows: Sequence[NetworkRow], noun: str) -> list[Row]:
    """Return the times of networks as lines of a table; a person calls an image of theirs by the noun."""
    return [
        {
            "model": row.model,
            "forward ms": round(row.forward_ms, 2),
            "backward ms": round(row.backward_ms, 2),
            "update ms": round(row.update_ms, 2),
            "step ms": round(row.step_ms, 2),
            "quartiles": f"{row.step_low_ms:.2f} … {row.step_high_ms:.2f}",
            "n": row.n,
            "backward / forward": round(row.backward_by_forward, 2),
            f"{noun}s/s": round(row.images_per_second, 1),
            "GMAC/s": round(row.gmacs_per_second, 1),
            "share of peak": percent(row.share_of_product, 0),
            "peak MiB": round(row.peak_memory_mib),
        }
        for row in rows
    ]


def stage_lines(rows: Sequence[StageTimeRow]) -> list[Row]:
    """Return the times of one network's stages as lines of a table, with their sum."""
    found: list[Row] = [
        {
            "stage": row.stage,
            "forward ms": round(row.forward_ms, 3),
            "backward ms": round(row.backward_ms, 3),
            "MMAC": round(row.macs / 1e6, 3),
        }
        for row in rows
    ]
    sums = (
        sum(row.forward_ms for row in rows),
        sum(row.backward_ms for row in rows),
        sum(row.macs for row in rows) / 1e6,
    )
    total = dict(zip(("forward ms", "backward ms", "MMAC"), (round(value, 3) for value in sums), strict=True))
    return [*found, {"stage": "sum of stages", **total}]


def training_cost(row: NetworkRow, images: int, epochs: int, noun: str) -> str:
    """Say how long a training of so many epochs over so many images takes at this speed."""
    seconds = epochs * images / row.images_per_second
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= size:
            return f"{row.model}: {epochs} epochs of {images:,} {noun}s take {seconds / size:.1f} {unit}"
    return f"{row.model}: {epochs} epochs of {images:,} {noun}s take {seconds:.1f} seconds"


def stages_figure(rows: Sequence[StageTimeRow], noun: str) -> "Drawing":
    """Draw the forward and backward time of every stage of one network as bars, beside its multiplications."""
    figure = empty_figure(6.4, 0.9 + 0.19 * len(rows))
    times, work = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    places = list(range(len(rows)))
    times.barh(places, [row.forward_ms for row in rows], color=SERIES[0], label="forward")
    left = [row.forward_ms for row in rows]
    times.barh(places, [row.backward_ms for row in rows], left=left, color=SERIES[1], label="backward", hatch="//")
    work.barh(places, [row.macs / 1e6 for row in rows], color=SERIES[2])
    times.set_yticks(places, [row.stage for row in rows])
    times.invert_yaxis()
    times.set_xlabel("milliseconds a batch")
    work.set_xlabel(f"million multiplications for each {noun}")
    times.legend()
    return figure


def document(
    networks: Sequence[NetworkRow], stages: Sequence[StageTimeRow], costs: Sequence[str], noun: str
) -> Document:
    """Return the page of a study of times."""
    first = networks[0]
    title = f"Times of {', '.join(row.model for row in networks)}"
    speeds = [f"{row.model}: {row.step_ms:.1f} ms a step, {row.images_per_second:,.0f} {noun}s/s" for row in networks]
    claim = "; ".join(speeds)
    about = f"Batches of {first.batch} on {first.device} in {first.precision}."
    blocks: list[Block] = [Paragraph(about), Table(network_lines(networks, noun)), *(Paragraph(cost) for cost in costs)]
    sections = [Section("Steps", blocks)]
    for row in networks:
        own = [stage for stage in stages if stage.model == row.model]
        with styled():
            drawn = as_svg(stages_figure(own, noun), f"stages of {row.model}")
        whole = (
            f"The stages' sum is {sum(s.forward_ms for s in own):.1f} ms forward, the whole {row.forward_ms:.1f} ms."
        )
        alternative = f"Bars of each stage's forward and backward time, and of its multiplications: {row.model}"
        parts_of: list[Block] = [Figure(drawn, alternative), Table(stage_lines(own)), Paragraph(whole)]
        sections.append(Section(f"Stages of {row.model}", parts_of))
    return Document(title, claim, [], [*sections, Section("How it is measured", [Paragraph(HOW)])])


def write(
    folder: Path,
    networks: Sequence[NetworkRow],
    stages: Sequence[StageTimeRow],
    costs: Sequence[str],
    medium: Medium,
    noun: str,
) -> None:
    """Write report.html, report.md, networks.csv, stages.csv and a figure for each network."""
    write_report(document(networks, stages, costs, noun), folder)
    disk.write(folder / "networks.csv", render([asdict(row) for row in networks], "csv") + "\n")
    disk.write(folder / "stages.csv", render([asdict(row) for row in stages], "csv") + "\n")
    for row in networks:
        with styled(medium):
            own = [stage for stage in stages if stage.model == row.model]
            write_figure(stages_figure(own, noun), folder / FIGURES / f"{row.model.replace('/', '_')}_stages")
