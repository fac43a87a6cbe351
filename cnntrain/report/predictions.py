"""The images of `cnntrain predict` as the network sees them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cnntrain.report.document import Block, Document, Gallery, Mark, Paragraph, Picture
from cnntrain.training.pictures import as_png


def predictions_document(
    run: Path,
    shown: Sequence[tuple[Mapping[str, str], np.ndarray]],
    total: int,
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
        Picture(as_png(pixels), line["file"], line["class"], (f"{float(line['probability']):.3f}", line["file"]))
        for line, pixels in shown
    ]
    return Document("What the network sees", claim, [*warned, Gallery(pictures, few_pixels=True)], [])
