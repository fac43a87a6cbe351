"""A document in a folder."""

from pathlib import Path
from typing import TYPE_CHECKING

from cnntrain.report.document import Document, Figure
from cnntrain.report.html import as_html
from cnntrain.report.svg import as_svg
from cnntrain.report.text import as_markdown
from cnntrain.runtime import disk
from cnntrain.runtime.drawing import write_figure

if TYPE_CHECKING:  # matplotlib takes half a second to import
    from matplotlib.figure import Figure as MatplotlibFigure

MARKDOWN, PAGE, FIGURES = "report.md", "report.html", "figures"


def write_report(document: Document, folder: Path) -> None:
    """Write a document as report.md and as report.html, which needs nothing beside itself."""
    disk.write(folder / MARKDOWN, as_markdown(document))
    disk.write(folder / PAGE, as_html(document))


def filed_figure(figure: "MatplotlibFigure", folder: Path, name: str, caption: str) -> Figure:
    """Write a figure into the folder of a document as PNG and SVG, within `styled`, and return it for the document."""
    write_figure(figure, folder / FIGURES / name)
    return Figure(as_svg(figure, name), caption, caption, f"{FIGURES}/{name}.png")
