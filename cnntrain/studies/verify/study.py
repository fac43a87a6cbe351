"""The lectures verified: the rows of items, and the document that shows them, lecture by lecture."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from cnntrain.report.document import Block, Document, Figure, Section, Table
from cnntrain.report.files import write_report
from cnntrain.report.svg import as_svg
from cnntrain.runtime import disk
from cnntrain.runtime.drawing import styled
from cnntrain.runtime.tables import folded, render
from cnntrain.studies.verify import convolution, layers, networks, tables
from cnntrain.studies.verify.figures import FIGURES
from cnntrain.studies.verify.registry import ItemRow

TOPICS = {
    module.__name__.rpartition(".")[2]: (module.__doc__ or "").splitlines()[0].rstrip(".")
    for module in (convolution, layers, networks, tables)
}
LECTURES = {
    "000": "Representation learning from images",
    "001": "Images and convolutional networks",
    "002": "Deep learning, convolutional networks",
    "003": "Deep networks for images",
    "004": "Convolutional nets",
}
VERDICTS = ("reproduced", "differs", "not decidable here")


def counts(rows: Sequence[ItemRow]) -> dict[str, int]:
    """Return the number of rows by verdict."""
    found: Counter[str] = Counter(row.verdict for row in rows)
    return {verdict: found[verdict] for verdict in VERDICTS}


def lines(rows: Sequence[ItemRow]) -> list[dict[str, object]]:
    """Return rows as lines of a table."""
    return [
        {
            "item": row.id,
            "line": f"{row.lecture}:{row.line}",
            "statement": row.title,
            "printed": row.printed,
            "computed": row.computed,
            "verdict": row.verdict,
            "why": row.why,
        }
        for row in rows
    ]


def told(rows: Sequence[ItemRow], width: int, most: int = 12) -> str:
    """Return rows for a terminal of so many columns: a line each, and more of those that differ, or of a few."""
    named = max(len(row.id) for row in rows)
    parts = []
    for row in rows:
        head = f"{row.id:<{named}}  {row.verdict:<{max(map(len, VERDICTS))}}  {row.title} ({row.lecture}:{row.line})"
        parts.append(folded(head, width, named + 2))
        if len(rows) <= most or row.verdict == "differs":
            about = {"printed": row.printed, "computed": row.computed, "why": row.why}
            parts += [
                folded(f"{'':{named}}  {key:<10}  {text}", width, named + 14 if width > 60 else named + 4)
                for key, text in about.items()
                if text
            ]
    return "\n".join(parts)


def document(rows: Sequence[ItemRow], seconds: float) -> Document:
    """Return the page of rows: a section for each topic of each lecture, with pictures where they say it better."""
    numbers = counts(rows)
    claim = (
        f"Of {len(rows)} statements {numbers['reproduced']} are reproduced, {numbers['differs']} differ from what is "
        f"printed, and {numbers['not decidable here']} need training or another source; computed in {seconds:.1f} s."
    )
    sections = []
    for lecture, name in LECTURES.items():
        own = [row for row in rows if row.lecture == lecture]
        if own:
            sections.append(Section(f"{lecture} {name}", list(blocks(own))))
    return Document("The lectures, computed", claim, [], sections)


def blocks(rows: Sequence[ItemRow]) -> Iterator[Block]:
    """Yield a table for each topic of a lecture, then the pictures of its items."""
    for topic, name in TOPICS.items():
        about = [row for row in rows if row.topic == topic]
        if about:
            yield Table(lines(about), name)
            yield from (figure(row) for row in about if row.id in FIGURES)


def figure(row: ItemRow) -> Figure:
    """Return the picture of an item."""
    caption, draw = FIGURES[row.id]
    with styled():
        return Figure(as_svg(draw(), f"item {row.id}"), f"{row.title}. {caption}", f"{row.id}. {caption}")


def write(rows: Sequence[ItemRow], seconds: float, folder: Path) -> None:
    """Write report.html, report.md and table.csv."""
    write_report(document(rows, seconds), folder)
    disk.write(folder / "table.csv", render(lines(rows), "csv") + "\n")
