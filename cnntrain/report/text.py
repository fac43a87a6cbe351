"""A document as text for a terminal and as Markdown."""

from collections.abc import Mapping, Sequence

from cnntrain.report.document import (
    Block,
    Bullets,
    Code,
    Details,
    Document,
    Facts,
    Figure,
    Gallery,
    Matrix,
    PageViews,
    Panels,
    Paragraph,
    Table,
    Text,
    plain,
)
from cnntrain.runtime.tables import Format, Row, cell, folded, render

MARKS = {"code": "`", "strong": "**"}


def as_markdown(document: Document) -> str:
    """Write a document as Markdown. Figures are links to their files; what has none, and pictures, are left out."""
    parts = [f"# {document.title}", marked(document.claim, "markdown"), *block_texts(document.blocks, "markdown")]
    for section in document.sections:
        parts += [f"## {section.title}", *block_texts(section.blocks, "markdown")]
    return "\n\n".join(part for part in parts if part) + "\n"


def as_text(blocks: Sequence[Block], style: Format = "text", width: int | None = None) -> str:
    """Write blocks for a terminal of `width` columns, their tables in a style."""
    return "\n\n".join(block_texts(blocks, style, width))


def block_texts(blocks: Sequence[Block], style: Format, width: int | None = None) -> list[str]:
    """Write each block that has something to say without a page."""
    return [text for block in blocks if (text := block_text(block, style, width))]


def block_text(block: Block, style: Format, width: int | None) -> str:
    """Write one block."""
    markdown = style == "markdown"
    match block:
        case Paragraph(text):
            return folded(marked(text, style), width)
        case Bullets(items):
            return "\n".join(folded(f"{'- ' if markdown else ''}{marked(item, style)}", width, 2) for item in items)
        case Facts(values):
            return "\n".join(f"{'- ' if markdown else ''}{name}: {cell(value)}" for name, value in values.items())
        case Table(rows, caption, notes):
            heading = f"{caption}{':' if markdown else ''}" if caption and rows else ""
            below = [f"- {name}: {note}" for name, note in notes.items()] if markdown else []
            return "\n\n".join(filter(None, (heading, render(rows, style, width), "\n".join(below))))
        case Matrix(names, counts):
            return render(matrix_rows(names, counts), style, width)
        case Figure(alternative=alternative, file=file):
            return f"![{alternative}]({file})" if markdown and file else ""
        case Panels(figures):
            return "\n\n".join(block_texts(figures, style, width))
        case Gallery():
            return ""
        case Code(text):
            return f"```\n{text}\n```" if markdown else text
        case Details(summary, blocks):
            return "\n\n".join([f"### {summary}" if markdown else summary, *block_texts(blocks, style, width)])
        case PageViews(views):
            written = {view.title: block_texts(view.blocks, style, width) for view in views}
            parts = [[f"### {title}" if markdown else title, *texts] for title, texts in written.items() if texts]
            return "\n\n".join(text for part in parts for text in part)


def marked(text: Text, style: Format) -> str:
    """Write a text, in Markdown with its marks."""
    if isinstance(text, str) or style != "markdown":
        return plain(text)
    return "".join(part if isinstance(part, str) else f"{MARKS[part.kind]}{part}{MARKS[part.kind]}" for part in text)


def matrix_rows(names: Sequence[str], counts: Sequence[Sequence[int]]) -> list[Row]:
    """Return a confusion matrix as rows of a table."""
    rows: list[Mapping[str, object]] = [
        {"true": name, **dict(zip(names, row, strict=True))} for name, row in zip(names, counts, strict=True)
    ]
    return rows
