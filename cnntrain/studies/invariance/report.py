"""What an invariance study leaves in its folder: rows, results, figures, a report in words, a view for TensorBoard."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from cnntrain.runs.folder import RESULTS
from cnntrain.runtime import disk
from cnntrain.runtime.jsonfile import write_json
from cnntrain.runtime.tables import render
from cnntrain.studies.invariance import crossings
from cnntrain.studies.invariance import figures as panels
from cnntrain.studies.invariance import text as invariance_words
from cnntrain.studies.invariance.study import Group, Study, results
from cnntrain.training.pictures import drawn
from cnntrain.training.tensorboard import open_board

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES, REPORT, ROWS = "figures", "report.md", "rows.csv"
MOST_LINES = 7  # of networks in a figure


def write(
    target: Path,
    studies: Sequence[Study],
    groups: Sequence[Group],
    head: Mapping[str, Any],
    record: Mapping[str, Any],
    about: str,
    *,
    figures: bool,
    tensorboard: bool,
) -> dict[str, Any]:
    """Write the study and return what `--json` prints: `head` and all rows."""
    found = {**head, **results(studies, groups)}
    disk.write(target / ROWS, render(found["rows"], "csv") + "\n")
    names = draw(target, studies, groups, tensorboard=tensorboard) if figures else {}
    parts = [section(study, groups, found, names.get(study.transform.name, [])) for study in studies]
    text = "\n\n".join(["# What stays invariant", about, *parts])
    disk.write(target / REPORT, text + "\n")
    write_json(target / RESULTS, found | {"record": record})
    return found


def drawings(study: Study, groups: Sequence[Group]) -> Iterator[tuple[str, Callable[[], "Figure"]]]:
    """Yield the name of each figure with what draws it."""
    transform, lines = study.transform, study.lines(groups)[:MOST_LINES]
    if transform.axes == 2:
        yield f"{transform.name}_map", partial(panels.sensitivity, transform, lines)
        return
    yield transform.name, partial(panels.overview, transform, lines, study.samples())
    yield f"{transform.name}_stages", partial(panels.heat, transform, lines)
    yield f"{transform.name}_consistency", partial(panels.overlay, transform, lines)
    if transform.attack is not None and (turned := study.attacked()):
        yield f"{transform.name}_images", partial(panels.adversarial, transform, turned)
    if study.tables["lags"] and study.stride > 1:
        table = [row for row in study.tables["lags"] if row["run"] in firsts(study, groups[:MOST_LINES])]
        yield f"{transform.name}_lags", partial(panels.aliasing, transform, table, study.stride)
    if (place := study.lecture_place()) is not None:
        whitened, blackened = study.counts[place]
        kept = {
            group.name: np.mean([study.kept[study.curves[i].name] for i in group.members], axis=0)
            for group in groups[:MOST_LINES]
        }
        amount = crossings.counted(transform)[place][0]
        yield f"{transform.name}_pixels", partial(panels.crossings, whitened + blackened, kept, amount, transform)


def firsts(study: Study, groups: Sequence[Group]) -> set[str]:
    """Return the names of each group's first network."""
    return {study.curves[group.members[0]].name for group in groups}


def draw(target: Path, studies: Sequence[Study], groups: Sequence[Group], *, tensorboard: bool) -> dict[str, list[str]]:
    """Write every figure as PNG and SVG, and to TensorBoard; return their names by warp."""
    names: dict[str, list[str]] = {study.transform.name: [] for study in studies}

    def pixels(name: str, figure: "Figure") -> dict[str, Tensor]:
        return {f"invariance/{name}": drawn(figure)}

    board = open_board(target / "tensorboard", enabled=tensorboard)
    with contextlib.closing(board), panels.paper():
        for study in studies:
            for name, make in drawings(study, groups):
                figure = make()
                with disk.replacing(target / FIGURES / f"{name}.png") as partial_png:
                    figure.savefig(partial_png, dpi=150)
                with disk.replacing(target / FIGURES / f"{name}.svg") as partial_svg:
                    figure.savefig(partial_svg, metadata={"Date": None})
                board.pictures(0, partial(pixels, name, figure))
                names[study.transform.name].append(name)
    return names


def section(study: Study, groups: Sequence[Group], found: Mapping[str, Any], pictures: Sequence[str]) -> str:
    """Return what the report says of one warp."""
    transform, sentences = study.transform, []
    of = {
        key: [row for row in table if row["warp"] == transform.name] for key, table in found.items() if is_table(table)
    }
    for line in study.lines(groups):
        named = f"**{line.curves.name}.** " if len(groups) > 1 else ""
        sentences += [named + sentence for sentence in invariance_words.line_words(transform, line)]
    shown = firsts(study, groups)
    sentences += invariance_words.difference_words(of.get("differences", []))
    sentences += invariance_words.aliasing_words([row for row in of.get("aliasing", []) if row["run"] in shown])
    if (place := study.lecture_place()) is not None:
        sentences.append(invariance_words.crossing_words(of["pixels"][place]))
    sentences += invariance_words.class_words([row for row in of["classes"] if row["run"] in shown])
    table = [
        {
            "network": row["run"],
            "curve": row["curve"],
            "stage": row["stage"],
            "mean height": row["area"],
            "95 % band": f"{row['area_low']:.4f} … {row['area_high']:.4f}",
        }
        for row in of["areas"]
        if row["curve"] in ("distance", "p_true", "consistency")
    ]
    protocol = [f"{key} {value}" for key, value in transform.protocol.items()]
    return invariance_words.section(
        f"{transform.name} ({'; '.join([transform.unit, *protocol])})", sentences, table, pictures
    )


def is_table(value: object) -> bool:
    """Say whether a result is a list of rows."""
    return isinstance(value, list) and bool(value)
