"""Pictures of images, weights and mistakes, as pixels: for TensorBoard uint8 [C, H, W], for a page as PNG."""

import base64
import io
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cnntrain.data.loading.normalise import denormalised
from cnntrain.data.storage.images import DatasetInfo, Split
from cnntrain.runtime.drawing import empty_figure, styled
from cnntrain.stats.metrics import confusion_matrix
from cnntrain.training.evaluate import Outputs

if TYPE_CHECKING:  # matplotlib takes half a second to import
    from matplotlib.figure import Figure

MOST = 64  # images in a grid


def as_png(pixels: np.ndarray) -> str:
    """Return uint8 pixels [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] as the address of a PNG that holds itself."""
    sink = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels).save(sink, "PNG")
    return f"data:image/png;base64,{base64.b64encode(sink.getvalue()).decode()}"


def mosaic(cells: np.ndarray, columns: int | None = None, gap: int = 1, between: float = 255) -> np.ndarray:
    """Lay cells [N, H, W] or [N, H, W, C] out in rows, with `between` in the gaps and where cells are missing.

    Without a number of columns there are about as many as rows.
    """
    count, height, width = cells.shape[:3]
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    size = (rows * (height + gap) - gap, columns * (width + gap) - gap, *cells.shape[3:])
    sheet = np.full(size, between, dtype=cells.dtype)
    for place, cell in enumerate(cells):
        top, left = place // columns * (height + gap), place % columns * (width + gap)
        sheet[top : top + height, left : left + width] = cell
    return sheet


def grid(images: Tensor, gap: int = 2, between: int = 255) -> Tensor:
    """Lay images uint8 [N, C, H, W] out in rows, a shade of grey between them; at most `MOST` are shown."""
    cells = images[:MOST].permute(0, 2, 3, 1).cpu().numpy()
    return torch.from_numpy(mosaic(cells, gap=gap, between=between)).permute(2, 0, 1)


def enlarge(image: Tensor, least: int = 256) -> Tensor:
    """Repeat pixels until the longer side has at least `least`: browsers would blur them."""
    factor = math.ceil(least / max(image.shape[1:]))
    return image.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)


def batch_picture(images: Tensor, info: DatasetInfo) -> Tensor:
    """Show a batch as the network sees it, augmented: `images`, float [N, C, H, W], with normalisation undone."""
    return grid(denormalised(images[:MOST], info).round().clamp(0, 255).to(torch.uint8).cpu())


# Weights.


def first_filters(net: nn.Sequential, in_shape: tuple[int, int, int]) -> tuple[str, str, np.ndarray] | None:
    """Return the stage, kind and values [N, C, height, width] of the weights that first see `in_shape` images.

    The kernels of a convolution, or the templates of a linear layer; None where it is neither or has other channels.
    """
    channels, height, width = in_shape
    owners = ((name, m) for name, m in net.named_modules() if next(m.parameters(recurse=False), None) is not None)
    name, leaf = next(owners, ("", None))
    if not isinstance(leaf, nn.Conv2d | nn.Linear) or channels not in (1, 3):
        return None
    stage, weights = name.partition(".")[0], leaf.weight.detach().cpu().float().numpy()
    if isinstance(leaf, nn.Conv2d):
        return (stage, "kernels", weights) if weights.shape[1] == channels else None
    templates = weights.shape[1] == channels * height * width
    return (stage, "templates", weights.reshape(-1, *in_shape)) if templates else None


def weight_picture(weight: np.ndarray) -> np.ndarray:
    """Return weights [C, H, W] as uint8 [H, W, 3], scaled by the largest of them.

    For one channel 0 is white, red above and blue below; for three it is grey.
    """
    scaled = weight / max(float(np.abs(weight).max()), 1e-12)
    if len(weight) == 3:
        shown = scaled.transpose(1, 2, 0) / 2 + 0.5
    else:
        above, below = np.clip(scaled[0], 0, 1)[..., None], np.clip(-scaled[0], 0, 1)[..., None]
        red, blue = np.array([0.75, 0.1, 0.1]), np.array([0.1, 0.25, 0.75])
        shown = 1 - above * (1 - red) - below * (1 - blue)
    return np.asarray((shown * 255).round(), dtype=np.uint8)


def filter_pictures(net: nn.Sequential, info: DatasetInfo) -> dict[str, Tensor]:
    """Show the weights that first see the images, in one picture by name; of some networks there is none."""
    first = first_filters(net, info.shape)
    if first is None:
        return {}
    stage, _, weights = first
    shown = np.stack([weight_picture(weight) for weight in weights[:MOST]])
    sheet = grid(torch.from_numpy(shown).permute(0, 3, 1, 2), gap=1, between=64)  # a weight of 0 is white or grey
    return {f"filters/{stage}": enlarge(sheet)}


# What a network says of images.


def class_pictures(split: Split, info: DatasetInfo, look: Callable[[Split], Outputs]) -> dict[str, Tensor]:
    """Show what a network says of a split: the confusion matrix, and its mistakes if there are any."""
    logits, labels = look(split)
    confusion = confusion_matrix(logits.argmax(dim=1), labels, len(info.classes))
    mistakes = None if info.words else mistakes_picture(split, logits, labels, info)
    return {"confusion": confusion_picture(confusion, info.classes)} | (
        {} if mistakes is None else {"mistakes": mistakes}
    )


def worst_mistakes(probabilities: np.ndarray, labels: np.ndarray, most: int = 24) -> list[int]:
    """Return the places of the most confident wrong predictions, the surest first."""
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return [int(i) for i in wrong[np.argsort(-probabilities.max(axis=1)[wrong], kind="stable")][:most]]


def mistakes_picture(split: Split, logits: Tensor, labels: Tensor, info: DatasetInfo) -> Tensor | None:
    """Show the images of `split` that were taken for another class, the surest mistakes first; None without any."""
    chosen = worst_mistakes(logits.softmax(dim=1).numpy(), labels.numpy(), MOST)
    if not chosen:
        return None
    titles = [f"{info.classes[int(labels[i])]}→{info.classes[int(logits[i].argmax())]}" for i in chosen]
    return captioned(split.source.read(chosen), titles)


def captioned(images: Tensor, titles: Sequence[str]) -> Tensor:
    """Draw uint8 images [N, H, W, C] with a title over each."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    with styled():
        figure = empty_figure(1.3 * columns, 1.5 * rows)
        for axes, image, title in zip(figure.subplots(rows, columns, squeeze=False).flat, images, titles, strict=False):
            axes.imshow(image.squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=255)
            axes.set_title(title, fontsize="small")
        for axes in figure.axes:
            axes.axis("off")
        return figure_pixels(figure)


def row_shares(confusion: np.ndarray) -> np.ndarray:
    """Return counts [classes, classes] as shares of their row; a class without images has none."""
    return np.asarray(confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1))


def confusion_picture(confusion: np.ndarray, classes: Sequence[str]) -> Tensor:
    """Draw the confusion matrix, each row's shares in grey with its counts; numbers and names as far as they fit."""
    size, shares = len(classes), row_shares(confusion)
    side = min(4 + 0.35 * size, 16)
    with styled():
        figure = empty_figure(side, side)
        axes = figure.subplots()
        axes.imshow(shares, cmap="Greys", vmin=0, vmax=1)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        if size <= 40:
            axes.set_xticks(range(size), classes, rotation=90)
            axes.set_yticks(range(size), classes)
        if size <= 20:
            for i, j in np.argwhere(confusion):
                colour = "white" if shares[i, j] > 0.5 else "black"
                axes.text(j, i, confusion[i, j], ha="center", va="center", color=colour)
        return figure_pixels(figure)


def heat_picture(confusion: np.ndarray) -> np.ndarray:
    """Return counts [classes, classes] as uint8 [classes, classes, 4]: the share of each row as opacity."""
    colour = np.where(np.eye(len(confusion), dtype=bool)[..., None], (47, 125, 92), (200, 60, 40))
    opacity = (row_shares(confusion)[..., None] ** 0.5 * 255).round()
    return np.concatenate([colour, opacity], axis=2).astype(np.uint8)


def figure_pixels(figure: "Figure") -> Tensor:
    """Return a matplotlib figure as pixels, without a window system."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3]).permute(2, 0, 1)
