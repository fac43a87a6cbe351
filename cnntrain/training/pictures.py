"""Pictures of a training for TensorBoard, each a uint8 tensor [C, H, W], grey or RGB."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from cnntrain.data.sources import Card, Split
from cnntrain.training.evaluate import Outputs

MOST = 64  # images in a grid


def grid(images: Tensor, gap: int = 2) -> Tensor:
    """Lay images uint8 [N, C, H, W] out in rows, white between them; at most `MOST` are shown."""
    images = images[:MOST]
    count, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = images.new_full((channels, rows * (height + gap) - gap, columns * (width + gap) - gap), 255)
    for place, image in enumerate(images):
        top, left = place // columns * (height + gap), place % columns * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet


def as_pixels(values: Tensor) -> Tensor:
    """Return values in 0..1 as uint8; what lies outside is cut off."""
    return (values * 255).round().clamp(0, 255).to(torch.uint8)


def batch_picture(images: Tensor, card: Card) -> Tensor:
    """Show a batch as the network sees it, augmented: `images`, float [N, C, H, W], with normalisation undone."""
    mean, std = (torch.tensor(numbers, device=images.device)[:, None, None] for numbers in (card.mean, card.std))
    return grid(as_pixels(images[:MOST].float() * std + mean).cpu())


def filter_pictures(net: nn.Module, card: Card) -> dict[str, Tensor]:
    """Show the weights of the first layer that read the image: grey is zero, each unit has its own scale.

    Convolutions over one or three maps and linear layers over the whole image have such a picture; of a network that
    begins otherwise there is none.
    """
    name, weight = next((name, p.detach().float().cpu()) for name, p in net.named_parameters() if p.dim() > 1)
    if weight.dim() == 2 and weight.shape[1] == math.prod(card.shape):
        weight = weight.view(-1, *card.shape)
    if weight.dim() != 4 or weight.shape[1] not in (1, 3):
        return {}
    largest = weight.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
    return {f"filters/{name}": enlarge(grid(as_pixels(0.5 + weight / (2 * largest)), gap=1))}


def enlarge(image: Tensor, least: int = 256) -> Tensor:
    """Repeat pixels until the longer side has at least `least`: browsers would blur them."""
    factor = math.ceil(least / max(image.shape[1:]))
    return image.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)


def evaluation_pictures(split: Split, result: Outputs, card: Card) -> dict[str, Tensor]:
    """Show what a network says of a split: the confusion matrix, and its mistakes if there are any."""
    mistakes = mistakes_picture(split, result, card)
    return {"confusion": confusion_picture(result, card.classes)} | ({} if mistakes is None else {"mistakes": mistakes})


def mistakes_picture(split: Split, result: Outputs, card: Card) -> Tensor | None:
    """Show the images of `split` that were taken for another class, the surest mistakes first; None without any."""
    shares, predicted = result.logits.softmax(dim=1).max(dim=1)
    wrong = torch.nonzero(predicted != result.labels).flatten()
    if len(wrong) == 0:
        return None
    chosen = wrong[shares[wrong].argsort(descending=True)][:MOST].numpy()
    images = split.source.read(chosen).permute(0, 3, 1, 2)
    titles = [f"{card.classes[int(result.labels[i])]}→{card.classes[int(predicted[i])]}" for i in chosen]
    return captioned(images, titles)


def captioned(images: Tensor, titles: Sequence[str]) -> Tensor:
    """Draw uint8 images [N, C, H, W] with a title over each."""
    from matplotlib.figure import Figure

    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(1.3 * columns, 1.5 * rows), layout="tight")
    for axes, image, title in zip(
        figure.subplots(rows, columns, squeeze=False).flat, images.permute(0, 2, 3, 1), titles, strict=False
    ):
        axes.imshow(image.squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=255)
        axes.set_title(title, fontsize=7)
    for axes in figure.axes:
        axes.axis("off")
    return drawn(figure)


def confusion_picture(result: Outputs, classes: Sequence[str]) -> Tensor:
    """Draw the confusion matrix, each row's shares in grey with its counts; numbers and names as far as they fit."""
    from matplotlib.figure import Figure

    size = len(classes)
    pairs = result.labels * size + result.logits.argmax(dim=1)
    counts = pairs.bincount(minlength=size * size).view(size, size).numpy()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(4 + 0.35 * size, 16)
    figure = Figure(figsize=(side, side), layout="tight")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Greys", vmin=0, vmax=1)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if size <= 40:
        axes.set_xticks(range(size), classes, rotation=90)
        axes.set_yticks(range(size), classes)
    if size <= 20:
        for i, j in np.argwhere(counts):
            axes.text(j, i, counts[i, j], ha="center", va="center", color="white" if shares[i, j] > 0.5 else "black")
    return drawn(figure)


def drawn(figure: object) -> Tensor:
    """Return a matplotlib figure as pixels, without a window system."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)  # type: ignore[arg-type]
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3]).permute(2, 0, 1)
