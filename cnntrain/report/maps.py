"""What a segmentation network answers, on a page: the classes, and the images on which it errs most."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from cnntrain.data.loading.loader import eval_batches
from cnntrain.data.storage.images import DatasetInfo, Split
from cnntrain.report.document import Block, Gallery, Paragraph, Picture, Share, Table
from cnntrain.runs.evaluation import Evaluation
from cnntrain.runtime.tables import percent
from cnntrain.stats.segmentation import mean_iou
from cnntrain.tasks.segmentation import palette
from cnntrain.tasks.task import about_groups
from cnntrain.training.evaluate import outputs
from cnntrain.training.maps import compared
from cnntrain.training.pictures import as_png

WORST = 12  # images shown


def class_colours(info: DatasetInfo) -> Gallery:
    """Return the colour of each class with its name."""
    squares = [np.full((8, 8, 3), colour, dtype=np.uint8) for colour in palette(len(info.classes))]
    named = zip(squares, info.classes, strict=True)
    pictures = [Picture(as_png(square), name, lines=(name,)) for square, name in named]
    return Gallery(pictures, few_pixels=True, narrow=True)


def class_blocks(results: Mapping[str, Any]) -> list[Block]:
    """Return the table of the classes of pixels, the worst first."""
    over = "groups of images" if results.get("groups") else "images"
    explained = (
        "IoU: of the pixels that are of a class or taken for it, the share that are both, with its 95 % interval over "
        f"{over}. The worst come first."
    )
    rows = sorted(results["per_class"], key=lambda row: (row["iou"] is None, row["iou"]))
    said = " ".join((explained, *about_groups(results)))
    return [Paragraph(said, quiet=True), Table([class_row(row) for row in rows])]


def class_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a class as a line of the table; one that is neither there nor predicted has no numbers."""
    known = row["iou"] is not None
    return {
        "class": row["class"],
        "images": row["images"],
        "pixels": row["n"],
        "IoU": Share(row["iou"]) if known else None,
        "interval": f"{100 * row['iou_low']:.1f} … {100 * row['iou_high']:.1f}" if known else None,
        "accuracy": None if row["accuracy"] is None else percent(row["accuracy"], 1),
    }


def worst_blocks(
    net: nn.Module, measured: Evaluation, split: Split, info: DatasetInfo, names: list[str]
) -> list[Block]:
    """Return the images of the lowest mean IoU: each beside its label map and the network's."""
    scores = mean_iou(measured.kept["confusion"])
    places = np.argsort(np.where(np.isfinite(scores), scores, np.inf), kind="stable")[:WORST].tolist()
    some, device = split.take(np.array(places)), next(net.parameters()).device
    answers = outputs(net, eval_batches(some, info, batch_size=WORST, device=device), precision="fp32").logits
    pictures = [
        Picture(as_png(picture), names[place], percent(float(scores[place]), 1), (Path(names[place]).name,))
        for place, picture in zip(places, compared(some.source.read(range(len(some))), answers, info), strict=True)
    ]
    explained = "Each image, its true classes and the network's; grey has no class. The lowest mean IoU comes first."
    return [Paragraph(explained, quiet=True), class_colours(info), Gallery(pictures, few_pixels=True, wide=True)]
