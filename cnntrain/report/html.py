"""A document as one page of HTML that needs nothing beside itself: light and dark, on paper and on a phone."""

import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from cnntrain.report.document import Document, Figure, Mark, Text, plain
from cnntrain.runtime.tables import Row, cell

LONG_TABLE = 30  # rows that are shown without a box that scrolls
LONG_CELL, HALF_LINE = 24, 18  # letters of a cell in one line; of a name and its cell in half a line of a phone
NUMBER = re.compile(r"[-+±>\s\d.,:%()…e×°]*")  # figures and what stands between them


def as_html(document: Document) -> str:
    """Write a document as a page; whatever is not our own markup in it is escaped."""
    from jinja2 import Environment, StrictUndefined

    folder = files("cnntrain.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"inline": inline, "kind": lambda block: type(block).__name__, "value": value}
    environment.filters |= {"named_drawing": named_drawing}
    environment.globals |= {"column_classes": column_classes, "row_shares": row_shares, "LONG_TABLE": LONG_TABLE}
    template = environment.from_string((folder / "page.html.jinja").read_text(encoding="utf-8"))
    style = (folder / "page.css").read_text(encoding="utf-8")
    return template.render(document=document, style=style, claim=plain(document.claim))


def inline(text: Text) -> Any:
    """Return a text as markup."""
    from markupsafe import Markup, escape

    tags = {"code": "code", "strong": "strong"}
    parts = (text,) if isinstance(text, str) else text
    return Markup("").join(
        Markup("<{0}>{1}</{0}>").format(tags[part.kind], part.text) if isinstance(part, Mark) else escape(part)
        for part in parts
    )


def value(item: object) -> Any:
    """Return a value as markup."""
    return inline((item if isinstance(item, Mark) else cell(item),))


def named_drawing(figure: Figure) -> Any:
    """Return the SVG element of a figure as markup that says what it shows."""
    from markupsafe import Markup

    name = Markup('<svg role="img" aria-label="{}"').format(figure.alternative)
    return Markup(figure.drawing.replace("<svg", name, 1))  # noqa: S704 - drawn by `svg`, which escapes its texts


def column_classes(rows: Sequence[Row]) -> dict[str, str]:
    """Return how each column is set: `number` to the right, `wrap` in several lines where a cell is long.

    On a narrow screen the cells of a `line` have one to themselves. The first column names the rows, in figures too.
    """
    columns = {}
    for place, name in enumerate(rows[0]):
        texts = [cell(row[name]) for row in rows]
        longest = max(map(len, texts))
        classes = {
            "number": place > 0 and any(texts) and all(map(NUMBER.fullmatch, texts)),
            "wrap": longest > LONG_CELL,
            "line": place > 0 and longest + len(name) > HALF_LINE,
        }
        columns[name] = " ".join(kind for kind, holds in classes.items() if holds)
    return columns


def row_shares(counts: Sequence[int]) -> list[float]:
    """Return counts as shares of their sum; of none there are none."""
    total = max(sum(counts), 1)
    return [count / total for count in counts]
