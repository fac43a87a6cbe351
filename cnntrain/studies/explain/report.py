"""What a study of explanations leaves: a gallery as one page, a picture each as PNG and SVG, tables, TensorBoard."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnntrain.config.compose import command_line
from cnntrain.report.document import Block, Bullets, Document, Figure, Mark, Paragraph, Section, Table
from cnntrain.report.files import FIGURES, filed_figure, write_report
from cnntrain.runs.folder import RESULTS, provenance
from cnntrain.runtime import disk
from cnntrain.runtime.devices import hardware
from cnntrain.runtime.drawing import Medium, styled, write_figure
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.jsonfile import write_json
from cnntrain.runtime.progress import counting
from cnntrain.runtime.tables import counted, render
from cnntrain.stats.paired_tests import PairedTest
from cnntrain.studies.explain.explanation import Explanation
from cnntrain.studies.explain.explorer import explorer
from cnntrain.studies.explain.options import explores
from cnntrain.studies.explain.paired import PAIRS, pair_matrix, pair_rows
from cnntrain.studies.explain.registry import ATTRIBUTIONS
from cnntrain.studies.explain.sanity import sanity_rows
from cnntrain.studies.explain.scores import score_rows
from cnntrain.studies.explain.study import ExplainStudy
from cnntrain.studies.explain.tiles import TiledPicture, draw
from cnntrain.studies.explain.worth import CHANGES, SCORED, sanity_figure, score_figures, score_table
from cnntrain.training.pictures import figure_pixels
from cnntrain.training.tensorboard import Board, open_board

if TYPE_CHECKING:  # matplotlib takes half a second to import
    from matplotlib.figure import Figure as MatplotlibFigure

FORMATS = (".png", ".svg", ".pdf")  # that `output=` may end with
HOW = (
    "On every scale zero is zero. All tiles of a picture share a scale, and so do all maps over images of one method: "
    "their colours can be compared. An arrow at an end of the colour bar says that some values lie beyond it. Over the "
    "image the largest values show most."
)

BESIDE = "The same image by each method. Each method has a scale of its own, the same for all images."


def check_output(output: str | None) -> None:
    """Raise `InputError` for a picture that would be of an unknown format."""
    if output and Path(output).suffix.lower() not in FORMATS:
        raise InputError(f"output={output} must end with {', '.join(FORMATS)}")


def method_pictures(study: ExplainStudy) -> list[TiledPicture]:
    """Return the pictures of all methods."""
    return [picture for answer in study.answers.values() for picture in answer.pictures]


def write_picture(study: ExplainStudy, output: Path, medium: Medium) -> dict[str, Any]:
    """Write the only picture of a study to a file, and return what `--json` prints.

    Raises `InputError` where there are several.
    """
    pictures = method_pictures(study)
    if study.beside and set(study.answers) <= set(ATTRIBUTIONS):
        pictures = [*study.beside]
    if len(pictures) != 1:
        raise InputError(
            f"output={output} takes one picture, and there are {len(pictures)}; name one image (images=1 or a file) "
            "and one method or several that give it maps, or a folder for all of them with output_dir="
        )
    with styled(medium or "page"), disk.replacing(output) as partial_file:
        draw(pictures[0]).savefig(partial_file, format=output.suffix[1:].lower())
    return summary(study, None, [str(output)])


def write_study(study: ExplainStudy, folder: Path) -> dict[str, Any]:
    """Write all pictures, tables and the page into a folder, and return what `--json` prints."""
    options, sections = study.question.options, list[Section]()
    pictures = [*study.beside, *method_pictures(study)] if options.figures else []
    board = open_board(folder / "tensorboard", enabled=options.tensorboard and bool(options.figures))
    with contextlib.closing(board), styled(options.figures or "page"):
        with counting(len(pictures), "pictures", "picture") as progress:

            def figures_of(some: Sequence[TiledPicture]) -> Iterator[Figure]:
                for picture in some if options.figures else []:
                    yield from filed_picture(picture, folder, board, alone=explores(options))
                    progress(1)

            if study.beside:
                sections.append(Section("side by side", [Paragraph(BESIDE, quiet=True), *figures_of(study.beside)]))
            for name, answer in study.answers.items():
                if answer.rows:
                    disk.write(folder / f"{name}.csv", render(list(answer.rows), "csv") + "\n")
                sections.append(section(name, answer, list(figures_of(answer.pictures))))
        sections += worth_sections(study, folder, board)
    if pairs := study_pairs(study):
        disk.write(folder / "pairs.csv", render(pair_rows(pairs), "csv") + "\n")
    write_report(document(study, sections), folder)
    results = summary(study, folder, [str(folder / FIGURES / f"{picture.name}.png") for picture in pictures])
    record = provenance(command_line("explain")) | {"hardware": hardware()}
    write_json(folder / RESULTS, results | {"record": record})
    return results


def filed_picture(picture: TiledPicture, folder: Path, board: Board, *, alone: bool) -> list[Figure]:
    """Write a picture of a method; return it for the page, unless it is `alone`: a page that has its tiles anyway."""
    drawn = draw(picture)
    if not alone:
        return [filed(drawn, picture.name, picture.title, folder, board)]
    write_figure(drawn, folder / FIGURES / picture.name, ["png"])
    show_on_board(drawn, picture.name, board)
    return []


def filed(drawn: "MatplotlibFigure", name: str, title: str, folder: Path, board: Board) -> Figure:
    """Write a figure as PNG and SVG and to TensorBoard; return it for the page."""
    show_on_board(drawn, name, board)
    return replace(filed_figure(drawn, folder, name, title), caption="")  # it stands in the picture


def show_on_board(drawn: "MatplotlibFigure", name: str, board: Board) -> None:
    """Write a figure to TensorBoard."""
    board.pictures(0, lambda: {f"explain/{name}": figure_pixels(drawn)})


def worth_sections(study: ExplainStudy, folder: Path, board: Board) -> list[Section]:
    """Return what the page says of scores and of random weights, and write their tables."""
    sections, drawn = list[Section](), bool(study.question.options.figures)
    if study.scores:
        each, pairs = study.scores.each, study.scores.pairs
        disk.write(folder / "scores.csv", render(score_rows(each), "csv") + "\n")
        figures = score_figures(each) if drawn else {}
        pictures = [filed(figure, name, name, folder, board) for name, figure in figures.items()]
        sections.append(Section("scores", [Paragraph(SCORED, quiet=True), Table(score_table(each)), *pictures]))
        sections.append(Section("methods against each other", matrices(pairs)))
    if study.sanity:
        disk.write(folder / "sanity.csv", render(sanity_rows(study.sanity), "csv") + "\n")
        pictures = [filed(sanity_figure(study.sanity), "sanity", CHANGES, folder, board)] if drawn else []
        table = Table(sanity_rows(study.sanity))
        sections.append(Section("random weights", [Paragraph(CHANGES, quiet=True), *pictures, table]))
    return sections


def section(name: str, answer: Explanation, figures: list[Figure]) -> Section:
    """Return what the page says of one method."""
    blocks: list[Block] = [Paragraph(remark) for remark in answer.remarks]
    tables = [Table(answer.rows)] if answer.rows else []
    return Section(name, [*blocks, *figures, *tables, *(matrices(answer.pairs) if answer.pairs else [])])


def matrices(pairs: Mapping[str, Sequence[PairedTest]]) -> list[Block]:
    """Return a table for each score of how ways differ from each other."""
    return [Paragraph(PAIRS, quiet=True), *(Table(pair_matrix(name, tests)) for name, tests in pairs.items())]


def study_pairs(study: ExplainStudy) -> dict[str, Sequence[PairedTest]]:
    """Return by score all tests of ways against each other: of the methods' maps, and of what a method compares."""
    pairs = dict(study.scores.pairs) if study.scores else {}
    for answer in study.answers.values():
        pairs |= answer.pairs
    return pairs


def document(study: ExplainStudy, sections: list[Section]) -> Document:
    """Return the page."""
    subject, images = study.question.subject, study.question.images
    claim = f"{', '.join(study.answers)} of {subject.folder} on {counted(len(images), subject.info.noun)}"
    title = "What decides" if all(name in ATTRIBUTIONS for name in study.answers) else "What the network sees"
    if explores(study.question.options) and study.question.options.figures:
        sections = [Section("Images, stages, units", [explorer(study.question, study.answers)]), *sections]
    if study.refused:
        reasons = [(Mark(name, "strong"), f": {reason}") for name, reason in study.refused.items()]
        sections = [*sections, Section("What this network does not allow", [Bullets(reasons)])]
    how = [Paragraph(HOW, quiet=True)] if method_pictures(study) else []
    return Document(title, claim, how, sections)


def summary(study: ExplainStudy, folder: Path | None, pictures: list[str]) -> dict[str, Any]:
    """Return what `--json` prints."""
    return {
        "run_dir": str(study.question.subject.folder),
        "output_dir": str(folder) if folder else None,
        "what": study.question.options.what,
        "pictures": pictures,
        "rows": {name: list(answer.rows) for name, answer in study.answers.items()},
        "scores": score_rows(study.scores.each) if study.scores else [],
        "pairs": pair_rows(study_pairs(study)),
        "sanity": sanity_rows(study.sanity),
    }
