"""The images of `cnntrain predict` as the network sees them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cnntrain.data.storage.images import DatasetInfo, nearest_positions
from cnntrain.data.storage.masks import read_mask
from cnntrain.report.document import Block, Document, Gallery, Mark, Paragraph, Picture
from cnntrain.report.maps import class_colours
from cnntrain.runs.predictions import found_boxes, largest_classes
from cnntrain.training.maps import as_rgb, painted, side_by_side
from cnntrain.training.pictures import as_png


def predictions_document(
    run: Path,
    shown: Sequence[tuple[Mapping[str, str], np.ndarray]],
    total: int,
    info: DatasetInfo,
    *,
    inverted: bool,
    warning: str | None,
) -> Document:
    """Return the document of predicted lines (file, class, probability) with the pixels seen, uint8 [H, W, C]."""
    height, width = shown[0][1].shape[:2]
    claim = (
        f"{len(shown):,} of {total:,} images as ",
        Mark(str(run)),
        f" gets them: decoded, scaled to {width}×{height} pixels{' and inverted' if inverted else ''}.",
    )
    warned: list[Block] = [Paragraph((Mark("Warning:", "strong"), f" {warning}."))] if warning else []
    pictures = [
        masked_picture(line, pixels, info)
        if "mask" in line
        else Picture(as_png(np.asarray(Image.open(line["picture"]))), line["file"], found_boxes(line), (line["file"],))
        if "picture" in line
        else Picture(as_png(pixels), line["file"], line["class"], (f"{float(line['probability']):.3f}", line["file"]))
        for line, pixels in shown
    ]
    key = [class_colours(info)] if "mask" in shown[0][0] else []
    gallery = Gallery(pictures, few_pixels=True, wide="class" not in shown[0][0])
    return Document("What the network sees", claim, [*warned, *key, gallery], [])


def masked_picture(line: Mapping[str, str], pixels: np.ndarray, info: DatasetInfo) -> Picture:
    """Return an image beside its mask, read from where it was written, at the image's height."""
    labels, height = read_mask(Path(line["mask"])), pixels.shape[0]
    sides = height, max(round(labels.shape[1] * height / labels.shape[0]), 1)
    rows, cols = (nearest_positions(*each).numpy() for each in zip(labels.shape, sides, strict=True))
    beside = side_by_side([as_rgb(pixels), painted(labels[np.ix_(rows, cols)], len(info.classes))])
    return Picture(as_png(beside), line["file"], Path(line["file"]).name, (largest_classes(line),))
