"""Label maps as pictures: in the colours of their classes, beside their images."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from cnntrain.data.storage.images import IGNORED, DatasetInfo, Split, spread
from cnntrain.tasks.segmentation import palette
from cnntrain.training.evaluate import Outputs
from cnntrain.training.pictures import enlarge, grid

GREY = 200  # of a pixel without a class, and around smaller pictures
SHOWN = 16  # images for TensorBoard


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """Return an image, uint8 [H, W, 1 or 3], in colour."""
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def painted(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return a label map, uint8 [H, W], in the colours of its classes, uint8 [H, W, 3]; grey has no class."""
    colours = np.full((256, 3), GREY, dtype=np.uint8)
    colours[:classes] = palette(classes)
    colours[IGNORED] = GREY
    return np.asarray(colours[labels])


def side_by_side(images: Sequence[np.ndarray], gap: int = 2) -> np.ndarray:
    """Return images in colour beside each other, each in the middle of the height of the first."""
    height = images[0].shape[0]
    parts: list[np.ndarray] = []
    for image in images:
        above = (height - image.shape[0]) // 2
        padded = np.full((height, image.shape[1], 3), GREY, dtype=np.uint8)
        padded[above : above + image.shape[0]] = image
        parts += [np.full((height, gap, 3), 255, dtype=np.uint8)] * bool(parts) + [padded]
    return np.concatenate(parts, axis=1)


def compared(images: Tensor, answers: Tensor, info: DatasetInfo) -> list[np.ndarray]:
    """Return images with label maps, uint8 [N, H, W, C + 1], each beside its map and that of its answer.

    `answers` are logits, float32 [N, classes, H', W']; what is returned are pictures, uint8 [H, W', 3].
    """
    predicted, classes = answers.argmax(dim=1).to(torch.uint8).cpu().numpy(), len(info.classes)
    return [
        side_by_side([as_rgb(image[..., :-1]), painted(image[..., -1], classes), painted(labels, classes)])
        for image, labels in zip(images.numpy(), predicted, strict=True)
    ]


def map_pictures(split: Split, info: DatasetInfo, look: Callable[[Split], Outputs]) -> dict[str, Tensor]:
    """Show some images of a split, each beside its label map and the network's."""
    some = split.take(spread(len(split), SHOWN))
    shown = np.stack(compared(some.source.read(range(len(some))), look(some).logits, info))
    return {"image, truth, answer": enlarge(grid(torch.from_numpy(shown).permute(0, 3, 1, 2), gap=6))}
