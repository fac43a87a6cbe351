"""What a detection network answers, on a page: the classes, and the images in which it misses most."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnntrain.data.storage.images import DatasetInfo, Split
from cnntrain.report.document import Block, Gallery, Paragraph, Picture, Share, Table
from cnntrain.runs.evaluation import Evaluation
from cnntrain.runtime.tables import counted
from cnntrain.stats.detection import per_image_hits, ranked
from cnntrain.tasks.task import about_groups
from cnntrain.training.boxes import LIKELY, drawn
from cnntrain.training.pictures import as_png

WORST = 12  # images shown


def class_blocks(results: Mapping[str, Any]) -> list[Block]:
    """Return the table of the classes, the worst first, and how many objects the grid cannot give."""
    over = "groups of images" if results.get("groups") else "images"
    explained = f"AP is the average precision at an IoU of 0.5 (VOC, all points), with its 95 % interval over {over}."
    if results["lost"]:
        explained += f" The grid cannot give {results['lost']:,} of the {counted(results['objects'], 'object')}."
    rows = sorted(results["per_class"], key=lambda row: (row["ap50"] is None, row["ap50"]))
    said = " ".join((explained, *about_groups(results)))
    return [Paragraph(said, quiet=True), Table([class_row(row) for row in rows])]


def class_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a class as a line of the table; one without objects has no numbers."""
    known = row["ap50"] is not None
    return {
        "class": row["class"],
        "objects": row["n"],
        "AP": Share(row["ap50"]) if known else None,
        "interval": f"{100 * row['ap50_low']:.1f} … {100 * row['ap50_high']:.1f}" if known else None,
    }


def worst_blocks(measured: Evaluation, split: Split, info: DatasetInfo) -> list[Block]:
    """Return the images in which most objects are missed by likely boxes."""
    found, objects = measured.kept["detections"].copy(), measured.kept["objects"]
    found[found[..., 1] < LIKELY] = -1
    missed = missed_objects(found, objects, len(info.classes))
    places = np.argsort(-missed, kind="stable")[:WORST].tolist()
    images, pictures = split.source.read(places).numpy(), []
    for place, image in zip(places, images, strict=True):
        name = f"image {place}" if measured.files is None else str(measured.files[place])
        shown = drawn(image, found[place], objects[place], info.classes)
        pictures.append(Picture(as_png(shown), name, f"{missed[place]} missed", (Path(name).name,)))
    explained = f"True boxes are black and white, found ones (score {LIKELY} or more) coloured. Most missed come first."
    return [Paragraph(explained, quiet=True), Gallery(pictures, wide=True)]


def missed_objects(found: np.ndarray, objects: np.ndarray, classes: int) -> np.ndarray:
    """Return how many objects of each image [N] are not found; difficult ones are not missed."""
    ranks = [ranked(found, objects, label, 0.5) for label in range(classes)]
    return np.asarray(sum(rank.objects for rank in ranks) - per_image_hits(ranks, len(objects)))
