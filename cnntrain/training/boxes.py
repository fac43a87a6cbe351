"""Boxes drawn on images: true ones black and white, found ones in the colours of their classes."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from cnntrain.data.storage.images import DatasetInfo, Split, spread
from cnntrain.tasks.detection import Detection
from cnntrain.tasks.segmentation import palette
from cnntrain.training.evaluate import Outputs
from cnntrain.training.pictures import enlarge, grid

SHOWN, LIKELY, LEAST_SIDE = 16, 0.2, 192  # images for TensorBoard; the least score of a drawn box; pixels of a picture


def drawn(image: np.ndarray, found: np.ndarray, objects: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Return an image, uint8 [H, W, C], enlarged if small, with its likely detections [D, 6] and objects [M, 6]."""
    factor = -(-LEAST_SIDE // max(image.shape[:2]))
    pixels = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    picture = Image.fromarray(pixels.repeat(factor, 0).repeat(factor, 1))
    pen, colours = ImageDraw.Draw(picture), palette(len(classes) + 1)[1:]
    for box in objects[objects[:, 0] >= 0]:
        corners = (box[1:5] * factor).tolist()
        pen.rectangle(corners, outline="black", width=3)
        pen.rectangle(corners, outline="white", width=1)
    for label, score, *box in found[(found[:, 0] >= 0) & (found[:, 1] >= LIKELY)][::-1]:
        colour = tuple(int(value) for value in colours[int(label)])
        corners = (np.array(box) * factor).tolist()
        pen.rectangle(corners, outline=colour, width=2)
        pen.text((corners[0] + 3, corners[1] + 1), f"{classes[int(label)]} {score:.2f}", fill=colour)
    return np.asarray(picture)


def box_pictures(split: Split, info: DatasetInfo, look: Callable[[Split], Outputs]) -> dict[str, Tensor]:
    """Show some images of a split with their boxes and the network's."""
    some = split.take(spread(len(split), SHOWN))
    answers, objects = look(some)
    found = Detection.of(info).detections(answers).numpy()
    images = some.source.read(range(len(some))).numpy()
    shown = [drawn(*each, info.classes) for each in zip(images, found, objects.numpy(), strict=True)]
    return {"boxes": enlarge(grid(torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2), gap=6))}
