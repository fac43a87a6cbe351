"""Label maps as pictures: in the colours of their classes, beside their images."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from cnntrain.data.loading.loader import eval_batches
from cnntrain.data.storage.images import IGNORED, DatasetInfo, Split, spread
from cnntrain.tasks.segmentation import palette
from cnntrain.training.evaluate import answers
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


def answered(net: nn.Module, split: Split, places: Sequence[int], info: DatasetInfo) -> list[np.ndarray]:
    """Return the images at some places of a split, each beside its label map and the network's, uint8 [H, W, 3]."""
    some, device = split.take(np.array(places)), next(net.parameters()).device
    batches = eval_batches(some, info, batch_size=len(places), device=device)
    predicted = [answer.argmax(dim=1).to(torch.uint8).cpu() for answer, _ in answers(net, batches, precision="fp32")]
    classes, pixels = len(info.classes), some.source.read(range(len(some))).numpy()
    return [
        side_by_side([as_rgb(image[..., :-1]), painted(image[..., -1], classes), painted(labels.numpy(), classes)])
        for image, labels in zip(pixels, torch.cat(predicted), strict=True)
    ]


def map_pictures(net: nn.Module, split: Split, info: DatasetInfo) -> dict[str, Tensor]:
    """Show some images of a split, each beside its label map and the network's."""
    shown = answered(net, split, spread(len(split), SHOWN).tolist(), info)
    return {"image, truth, answer": enlarge(grid(torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2), gap=6))}
