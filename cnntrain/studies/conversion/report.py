"""What a conversion shows: how exact the map is, what it saves, and class maps over large images."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cnntrain.report.document import Document, Figure, Paragraph, Section, Table
from cnntrain.report.files import filed_figure, write_report
from cnntrain.report.svg import as_svg
from cnntrain.runtime.drawing import empty_figure, styled
from cnntrain.runtime.errors import as_text
from cnntrain.runtime.tables import percent
from cnntrain.studies.conversion.heatmaps import Heatmap
from cnntrain.studies.conversion.study import Exactness, rows

if TYPE_CHECKING:  # matplotlib takes half a second to import
    from matplotlib.figure import Figure as Drawing

HOW = (
    "Each cell of the map stands for one window of the network's own size. Without padding the map equals the windows, "
    "each shown to the network by itself. With padding it does not: a window sees zeros at its border where the large "
    "image goes on. Differences are measured in standard deviations of the windows' logits."
)


def grey_or_colour(pixels: np.ndarray) -> np.ndarray:
    """Return pixels [H, W, C] as matplotlib draws them: one channel as [H, W]."""
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels


def place_figure(found: Heatmap, classes: Sequence[str]) -> "Drawing":
    """Draw an image beside the maps of the three classes that score highest."""
    likely = found.scores.argsort()[::-1][:3]
    figure = empty_figure(1.9 * (1 + len(likely)), 2.1)
    panels = figure.subplots(1, 1 + len(likely), squeeze=False)[0]
    for axes, number in zip(panels[1:], likely, strict=True):
        axes.imshow(grey_or_colour(found.pixels), cmap="gray", vmin=0, vmax=255, alpha=0.35)
        axes.imshow(found.maps[number], cmap="magma", vmin=0, vmax=1, alpha=0.75)
        axes.set_title(f"{classes[number]}: {found.scores[number]:.2f}")
    panels[0].imshow(grey_or_colour(found.pixels), cmap="gray", vmin=0, vmax=255)
    panels[0].set_title(as_text(found.path.name))
    for axes in panels:
        axes.axis("off")
    return figure


def places_document(found: Sequence[Heatmap], classes: Sequence[str], folder: Path) -> Document:
    """Return the page of heat maps, and write each as a picture of its own."""
    figures = []
    with styled():
        for place, one in enumerate(found, 1):
            best = int(one.scores.argmax())
            caption = f"{as_text(one.path.name)}: highest score {classes[best]} ({one.scores[best]:.2f})"
            figures.append(filed_figure(place_figure(one, classes), folder, f"heatmap_{place:03}", caption))
    claim = (
        "The probability of each class at every place of an image. A class's score is that of its best places, over "
        "all scales; the prediction of the whole image may be another."
    )
    return Document("Class maps", claim, [], [Section("Heat maps", figures)])


def cells_figure(
    image: np.ndarray, maps: np.ndarray, classes: Sequence[str], step: tuple[int, int], size: tuple[int, int]
) -> "Drawing":
    """Draw an image uint8 [H, W, C] beside the maps [classes, h, w] of its three likeliest classes.

    A cell stands at the middle of its window, `step` pixels from the next one.
    """
    likely = maps.reshape(len(maps), -1).max(axis=1).argsort()[::-1][:3]
    figure = empty_figure(1.7 * (1 + len(likely)), 1.9)
    panels = figure.subplots(1, 1 + len(likely))
    height, width = image.shape[:2]
    panels[0].imshow(grey_or_colour(image), cmap="gray", vmin=0, vmax=255)
    panels[0].set_title("image")
    for axes, number in zip(panels[1:], likely, strict=True):
        axes.imshow(grey_or_colour(image), cmap="gray", vmin=0, vmax=255, alpha=0.35)
        down, across = step
        top, left = (size[0] - down) / 2, (size[1] - across) / 2
        extent = (left, left + across * maps.shape[2], top + down * maps.shape[1], top)
        axes.imshow(maps[number], cmap="magma", vmin=0, vmax=1, alpha=0.75, extent=extent, interpolation="nearest")
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        axes.set_title(f"{classes[number]}: {percent(maps[number].max(), 0)}")
    for axes in panels:
        axes.axis("off")
    return figure


def document(name: str, found: Sequence[Exactness], drawings: Sequence["Drawing"]) -> Document:
    """Return the page of a conversion."""
    first = found[0]
    exact = "equals" if first.max_difference < 1e-3 else f"agrees in {percent(first.agreement, 1)} of the cells with"
    saved = (
        f"takes {first.saved:.1f} times fewer multiplications" if first.saved >= 1.05 else "saves no multiplications"
    )
    claim = f"The map {exact} the windows' answers, and {saved}."
    pictures = []
    for place, drawing in enumerate(drawings, 1):
        with styled():
            picture = as_svg(drawing, f"heat map {place}")
        pictures.append(
            Figure(picture, f"A large image, and the probability of its likeliest classes at every place ({place})")
        )
    return Document(
        f"{name} as a fully convolutional network",
        claim,
        [],
        [
            Section("Map and windows", [Table(rows(found)), Paragraph(HOW)]),
            Section("Class maps", pictures),
        ],
    )


def write(folder: Path, name: str, found: Sequence[Exactness], drawings: Sequence["Drawing"]) -> None:
    """Write report.html and report.md."""
    write_report(document(name, found, drawings), folder)
