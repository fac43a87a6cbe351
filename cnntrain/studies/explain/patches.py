"""The patches of images that excite a unit most.

Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, figure 2: for each unit the nine
images with the strongest activation, cut to what the unit sees there. The rectangle follows from the geometry of the
layers (`nn.geometry`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from cnntrain.nn.geometry import stage_spans
from cnntrain.nn.measures import Spans
from cnntrain.runtime.tables import Row
from cnntrain.studies.explain.explanation import Explanation
from cnntrain.studies.explain.question import Question
from cnntrain.studies.explain.search import ChosenUnits, SearchedImages, searched_images, units_to_show
from cnntrain.studies.explain.tiles import Tile, TiledPicture
from cnntrain.studies.explain.units import Exciting, most_exciting, receptive_patch
from cnntrain.training.pictures import mosaic

PATCHES = 9  # a unit, as in the paper
USUAL_UNITS = 8
BEYOND = 160  # the grey between patches, and of what lies beyond the image


def patches(question: Question) -> Explanation:
    """Return by stage the patches that excite each unit most, with the classes of their images."""
    chosen, images = units_to_show(question, USUAL_UNITS), searched_images(question)
    exciting = most_exciting(question.subject.net, images.batches("patches"), chosen.units, PATCHES)
    spans = stage_spans(question.subject.net, question.subject.info.shape)
    tiles = {
        stage: {unit: [patch_tile(images, found, i, spans.get(stage))] for i, unit in enumerate(found.units.tolist())}
        for stage, found in exciting.items()
    }
    pictures = [
        unit_picture("patches", stage, "the patches that excite a unit most", units) for stage, units in tiles.items()
    ]
    return Explanation(pictures, patch_rows(question, chosen, images, exciting, spans), remarks(images, chosen), tiles)


def unit_patches(images: SearchedImages, found: Exciting, i: int, spans: Spans | None) -> list[np.ndarray]:
    """Return the patches of a unit, uint8 [h, w, C] each, the most exciting first."""
    return [
        receptive_patch(pixels, spans, int(row), int(column), BEYOND)
        for pixels, row, column in zip(images.pixels(found.places[i]), found.rows[i], found.columns[i], strict=True)
    ]


def patch_tile(images: SearchedImages, found: Exciting, i: int, spans: Spans | None) -> Tile:
    """Return the patches of a unit in rows."""
    return Tile(unit_words(found, i), mosaic(np.stack(unit_patches(images, found, i, spans)), between=BEYOND))


def unit_picture(method: str, stage: str, title: str, units: Mapping[int, Sequence[Tile]]) -> TiledPicture:
    """Return the picture of a stage's units, the tiles of each after those of the one before."""
    tiles = [tile for each in units.values() for tile in each]
    return TiledPicture(f"{method}_{stage}", f"{stage}: {title}", tiles, columns=4)


def unit_words(found: Exciting, i: int) -> str:
    """Say which unit it is, and how far its patches excite it."""
    values = found.values[i]
    if values[0] == 0:
        return f"unit {found.units[i]}: nowhere above 0"
    return f"unit {found.units[i]}: {values[0]:.3g} … {values[-1]:.3g}"


def patch_rows(
    question: Question,
    chosen: ChosenUnits,
    images: SearchedImages,
    exciting: Mapping[str, Exciting],
    spans: Mapping[str, Spans],
) -> list[Row]:
    """Return a line for each unit: what it sees, how strongly it is excited, and by images of which class."""
    rows = list[Row]()
    for stage, found in exciting.items():
        seen = receptive_field(spans.get(stage), question.subject.info.shape[1:])
        for i, unit in enumerate(found.units):
            labels = images.split.labels[found.places[i]].tolist()
            label, count = Counter(labels).most_common(1)[0]
            rows.append(
                {
                    "stage": stage,
                    "unit": int(unit),
                    "units": chosen.shapes[stage][0],
                    "sees": seen,
                    "strongest": float(found.values[i, 0]),
                    f"number {len(labels)}": float(found.values[i, -1]),
                    "commonest class": question.subject.info.classes[label],
                    "share": count / len(labels),
                    "n": len(images),
                }
            )
    return rows


def receptive_field(spans: Spans | None, size: tuple[int, int]) -> str:
    """Write the size of what a position of a map sees, at most the whole image."""
    if spans is None:
        return "all"
    return "×".join(str(min(span.size, side)) for span, side in zip(spans, size, strict=True))


def remarks(images: SearchedImages, chosen: ChosenUnits) -> list[str]:
    """Return what a reader must know of how the patches were found."""
    found = (
        f"The most exciting of {len(images):,} images of the {images.name} split (search=…), one patch an image. "
        "Grey lies between them, and beyond the image."
    )
    return [found, *filter(None, [chosen.left_out])]
