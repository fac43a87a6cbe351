"""A document: a title, the sentence that it comes down to, and sections of blocks, however it is written.

`report.text` writes it for a terminal and as Markdown, `report.html` as one page, `report.files` into a folder.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cnntrain.runtime.tables import Row, percent


@dataclass(frozen=True)
class Mark:
    """A piece of a sentence, or a value of a table, that is code or strong."""

    text: str
    kind: Literal["code", "strong"] = "code"

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Share:
    """A value of a table in 0..1: per cent, on a page with a bar."""

    value: float

    def __str__(self) -> str:
        return percent(self.value, 1)


Text = str | tuple[str | Mark, ...]


def plain(text: Text) -> str:
    """Return a text without its marks."""
    return text if isinstance(text, str) else "".join(map(str, text))


@dataclass(frozen=True)
class Paragraph:
    """A few sentences; quiet ones explain what stands beside them."""

    text: Text
    quiet: bool = False


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[Text]


@dataclass(frozen=True)
class Facts:
    """Names with a short value each."""

    values: Mapping[str, object]


@dataclass(frozen=True)
class Table:
    """Rows with the same keys, under a caption; `notes` say what columns mean, but for a terminal."""

    rows: Sequence[Row]
    caption: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)


def noted_tables(tables: Mapping[str, Sequence[Row]], notes: Mapping[str, str]) -> list[Table]:
    """Return the tables that have rows, by their captions; each note stands under the first that has its column."""
    noted, explained = [], set[str]()
    for caption, rows in tables.items():
        if rows:
            here = {name: note for name, note in notes.items() if name in rows[0] and name not in explained}
            explained |= set(here)
            noted.append(Table(rows, caption, here))
    return noted


@dataclass(frozen=True)
class Matrix:
    """Counts of true classes (rows) by predicted classes (columns)."""

    names: Sequence[str]
    counts: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Figure:
    """A drawing, an SVG element (`svg.as_svg`) or the address of a PNG that holds itself (`pictures.as_png`).

    `alternative` says what it shows to those who do not see it; `file` is its own file, seen from the document.
    """

    drawing: str
    alternative: str
    caption: str = ""
    file: str = ""


@dataclass(frozen=True)
class Panels:
    """Small figures, side by side where there is room."""

    figures: Sequence[Figure]


@dataclass(frozen=True)
class Picture:
    """An image, as the address of a PNG that holds itself, with a name and lines under it."""

    address: str
    alternative: str
    title: str = ""
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side; those of few pixels are enlarged without blur, `narrow` ones stand closer, `wide` ones
    are large.
    """

    pictures: Sequence[Picture]
    few_pixels: bool = False
    narrow: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Code:
    """Text as it is typed."""

    text: str


@dataclass(frozen=True)
class Details:
    """What few readers want to see: on a page it is folded away under its summary."""

    summary: str
    blocks: "Sequence[Block]"


@dataclass(frozen=True)
class PageView:
    """One of several views; `group` gathers the links to views, and `label` is the text of the link."""

    group: str
    label: str
    title: str
    blocks: "Sequence[Block]"

    @property
    def anchor(self) -> str:
        """The address of the view on a page."""
        return re.sub(r"\W+", "-", f"view-{self.group}-{self.label}")


@dataclass(frozen=True)
class PageViews:
    """Views to click through: a page shows one at a time, the first to begin with; elsewhere all follow each other."""

    views: Sequence[PageView]

    def groups(self) -> dict[str, list[PageView]]:
        """Return the views by their groups."""
        return {
            group: [view for view in self.views if view.group == group]
            for group in dict.fromkeys(view.group for view in self.views)
        }


Block = Paragraph | Bullets | Facts | Table | Matrix | Figure | Panels | Gallery | Code | Details | PageViews


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """The title, the claim in one sentence, what belongs directly under it, and the sections."""

    title: str
    claim: Text
    blocks: Sequence[Block]
    sections: Sequence[Section]
