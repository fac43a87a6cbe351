"""What an invariance study leaves in its folder: rows, results, figures, a report, a view for TensorBoard."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from cnntrain.config.compose import command_line
from cnntrain.report.document import Bullets, Document, Figure, Mark, Paragraph, Section, Table, Text
from cnntrain.report.files import filed_figure, write_report
from cnntrain.runs.folder import RESULTS, provenance
from cnntrain.runtime import disk
from cnntrain.runtime.devices import hardware
from cnntrain.runtime.drawing import Medium, styled
from cnntrain.runtime.jsonfile import write_json
from cnntrain.runtime.tables import render
from cnntrain.studies.invariance import crossings, text
from cnntrain.studies.invariance import figures as panels
from cnntrain.studies.invariance.study import InvarianceStudy, TransformStudy, all_rows, rows_of
from cnntrain.studies.networks import SeedGroup
from cnntrain.training.pictures import figure_pixels
from cnntrain.training.tensorboard import open_board

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

ROWS = "rows.csv"
MOST_LINES = 7  # of networks in a figure


def write_study(study: InvarianceStudy, about: str, *, figures: Medium, tensorboard: bool) -> dict[str, Any]:
    """Write the study and return what `--json` prints: where it lies, and all rows."""
    folder, first = study.folder, study.networks[0]
    rows = all_rows(study).as_json()
    place = {"run_dir": str(first.folder) if first.folder else None, "output_dir": str(folder)}
    results = {**place, "split": study.images.name, **rows}
    disk.write(folder / ROWS, render(rows["rows"], "csv") + "\n")
    drawn = draw(folder, study.transforms, study.groups, figures, tensorboard=tensorboard) if figures else {}
    sections = [section(each, study.groups, drawn.get(each.transform.name, [])) for each in study.transforms]
    claim = text.claim([(each.transform, line) for each in study.transforms for line in each.lines(study.groups)])
    write_report(Document("What stays invariant", claim, [Paragraph(about, quiet=True)], sections), folder)
    record = provenance(command_line("invariance")) | {
        "device": str(study.device),
        "precision": study.precision,
        "hardware": hardware(),
        "warps": {each.transform.name: dict(each.transform.protocol) for each in study.transforms},
    }
    write_json(folder / RESULTS, results | {"record": record})
    return results


def drawings(
    study: TransformStudy, groups: Sequence[SeedGroup]
) -> Iterator[tuple[str, str, Callable[[], "MatplotlibFigure"]]]:
    """Yield the name and the caption of each figure with what draws it."""
    transform, lines = study.transform, study.lines(groups)[:MOST_LINES]
    name = transform.name
    if transform.axes == 2:
        yield f"{name}_map", f"Maps over the shifts of {name}", partial(panels.sensitivity, transform, lines)
        return
    caption = f"Sample images under {name}; how far an early and a late stage move; the probability of the true class"
    yield name, caption, partial(panels.overview, transform, lines, study.samples())
    yield f"{name}_stages", f"Distance of each stage under {name}", partial(panels.heat, transform, lines)
    caption = f"Predictions that stay the same under {name}, accuracy, and consistency corrected for chance"
    yield f"{name}_consistency", caption, partial(panels.overlay, transform, lines)
    if transform.attack is not None and (turned := study.attacked()):
        caption = f"Images before and after {name}, and the change, amplified"
        yield f"{name}_images", caption, partial(panels.adversarial, transform, turned)
    if study.lags and study.stride > 1:
        table = [row for row in study.lags if row.run in firsts(study, groups[:MOST_LINES])]
        caption = f"How often predictions at two shifts of {name} agree, by the pixels between them"
        yield f"{name}_lags", caption, partial(panels.aliasing, transform, table, study.stride)
    if (place := study.lecture_place()) is not None:
        whitened, blackened = study.counts[place]
        unchanged = {
            group.name: np.mean([study.same_answer[study.curves[i].name] for i in group.members], axis=0)
            for group in groups[:MOST_LINES]
        }
        amount = crossings.counted_amounts(transform)[place][0]
        caption = f"Pixels that change under {name} {amount:g}, and the predictions that stay the same by their number"
        yield f"{name}_pixels", caption, partial(panels.crossings, whitened + blackened, unchanged, amount, transform)


def firsts(study: TransformStudy, groups: Sequence[SeedGroup]) -> set[str]:
    """Return the names of each group's first network."""
    return {study.curves[group.members[0]].name for group in groups}


def draw(
    target: Path, studies: Sequence[TransformStudy], groups: Sequence[SeedGroup], medium: Medium, *, tensorboard: bool
) -> dict[str, list[Figure]]:
    """Write every figure as PNG and SVG, and to TensorBoard; return them for the report, by transform."""
    figures: dict[str, list[Figure]] = {study.transform.name: [] for study in studies}

    def pixels(name: str, figure: "MatplotlibFigure") -> dict[str, Tensor]:
        return {f"invariance/{name}": figure_pixels(figure)}

    board = open_board(target / "tensorboard", enabled=tensorboard)
    with contextlib.closing(board), styled(medium):
        for study in studies:
            for name, caption, make in drawings(study, groups):
                figure = make()
                figures[study.transform.name].append(filed_figure(figure, target, name, caption))
                board.pictures(0, partial(pixels, name, figure))
    return figures


def section(study: TransformStudy, groups: Sequence[SeedGroup], figures: Sequence[Figure]) -> Section:
    """Return what the report says of one transform."""
    transform, rows, sentences = study.transform, rows_of(study, groups), list[Text]()
    for line in study.lines(groups):
        named = (Mark(f"{line.curves.name}.", "strong"), " ") if len(groups) > 1 else ()
        sentences += [(*named, sentence) for sentence in text.line_words(transform, line)]
    shown = firsts(study, groups)
    sentences += text.difference_words(rows.differences)
    sentences += text.aliasing_words([row for row in rows.aliasing if row.run in shown])
    if (place := study.lecture_place()) is not None:
        sentences.append(text.crossing_words(rows.pixels[place]))
    sentences += text.class_words([row for row in rows.classes if row.run in shown])
    table = [
        {
            "network": row.run,
            "curve": row.curve,
            "stage": row.stage,
            "mean height": row.area.value,
            "95 % band": f"{row.area.low:.4f} … {row.area.high:.4f}",
        }
        for row in rows.areas
        if row.curve in ("distance", "p_true", "consistency")
    ]
    protocol = [f"{key} {value}" for key, value in transform.protocol.items()]
    return Section(
        f"{transform.name} ({'; '.join([transform.unit, *protocol])})",
        [Bullets(sentences), *figures, Table(table, "Mean height of each curve over the amounts")],
    )
