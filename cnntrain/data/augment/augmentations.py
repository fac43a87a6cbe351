"""Augmentations: what each draws for an epoch, and what it does to a batch with what was drawn.

Every sample has its own draws. An augmentation acts at one of three places: on the positions that pixels come from,
on the pixels, or on the normalised batch. Nothing here synchronises with the device.
"""

import math
from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cnntrain.data.augment.ops import (
    AffineInterpolation,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    around_displaced,
    around_warped,
    displaced,
    displaced_map,
    displacements,
    inverse_affine,
    resample,
    resample_map,
)
from cnntrain.runtime.errors import InputError, unknown
from cnntrain.runtime.ranges import Count, Fraction, Natural, NonNegative, Positive, Range
from cnntrain.runtime.seeding import generator

CropBorder = Literal["reflect", "zero"]


class Plan(NamedTuple):
    """What an epoch shows in which order."""

    seed: int
    epoch: int
    size: int  # images in the dataset
    index: np.ndarray  # type: ignore[assignment]  # int64 [steps, batch]: the image shown at each place; no tuple.index
    shape: tuple[int, int] = (1, 1)  # height and width of the images as they are stored


class Augmentation(NamedTuple):
    """One augmentation: its draws for an epoch and what it does with them; whatever is None it does not do.

    `draw` gets the generator that belongs to (seed, epoch, name) and returns a CPU tensor [steps, batch, ...], of which
    the others get one step, on the device. `place` maps the rows [B, H'] and columns [B, W'] of its result to those of
    the image [height, width] that it acts on; what lies outside stays outside. With `window`, windows are drawn,
    (top, left, height, width) in pixels of the stored image as `place` leaves it, and scaled to the network's size.
    `pixels` changes float32 [B, C, H, W] in 0..255, `batch` the normalised images and their targets, int64 [B] or
    float32 [B, classes]; both keep channels_last. Where `pixels` moves what an image shows, `maps` moves a label map,
    uint8 [B, H, W], in the same way, to the nearest pixel; what comes from outside has no class. `boxes` moves boxes
    [B, M, 4] (left, top, right, bottom, in pixels) as `place` or `pixels` moves an image of some height and width.
    """

    draw: Callable[[np.random.Generator, Plan], Tensor]
    place: Callable[[Tensor, Tensor, int, int, Tensor], tuple[Tensor, Tensor]] | None = None
    pixels: Callable[[Tensor, Tensor], Tensor] | None = None
    maps: Callable[[Tensor, Tensor], Tensor] | None = None
    boxes: Callable[[Tensor, Tensor, int, int], Tensor] | None = None
    batch: Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]] | None = None
    outside: bool = False  # whether positions may fall outside the image, where pixels are black
    mixes: bool = False  # whether images of a batch meet: then one process has to hold all of it
    window: bool = False  # whether what is drawn are windows


def flip(p: Fraction = 0.5) -> Augmentation:
    """Mirror an image left to right with probability `p`."""

    def draw(rng: np.random.Generator, plan: Plan) -> Tensor:
        return torch.from_numpy(rng.random(plan.index.shape) < p)

    return Augmentation(draw, place=mirror_columns, boxes=mirror_boxes)


def alternating_flip() -> Augmentation:
    """Mirror each image in every second epoch, a random half of them in the first (arXiv:2404.00498, section 3.6)."""

    def draw(rng: np.random.Generator, plan: Plan) -> Tensor:
        first = generator(plan.seed, "alternating_flip").random(plan.size) < 0.5  # of the run, not of an epoch
        return torch.from_numpy(first[plan.index] ^ (plan.epoch % 2 == 1))

    return Augmentation(draw, place=mirror_columns, boxes=mirror_boxes)


def mirror_columns(rows: Tensor, cols: Tensor, height: int, width: int, flipped: Tensor) -> tuple[Tensor, Tensor]:
    """Count the columns from the right where an image is `flipped` [B]."""
    return rows, torch.where(flipped.unsqueeze(1), width - 1 - cols, cols)


def mirror_boxes(boxes: Tensor, flipped: Tensor, height: int, width: int) -> Tensor:
    """Mirror boxes [B, M, 4] where an image is `flipped` [B]."""
    left, top, right, bottom = boxes.unbind(2)
    return torch.where(flipped[:, None, None], torch.stack((width - right, top, width - left, bottom), 2), boxes)


def crop(padding: Natural = 4, border: CropBorder = "reflect") -> Augmentation:
    """Pad all sides by `padding` pixels and cut a window of the image's size at random.

    The border is the image's reflection without its edge (torch's "reflect") or black. Raises InputError for another
    word, and for images too small to reflect that far.
    """
    if border not in (borders := ("reflect", "zero")):
        raise unknown("border of crop", border, borders)

    def draw(rng: np.random.Generator, plan: Plan) -> Tensor:
        return torch.from_numpy(rng.integers(-padding, padding, size=(*plan.index.shape, 2), endpoint=True))

    def move(positions: Tensor, by: Tensor, side: int) -> Tensor:
        moved = positions + by.unsqueeze(1)
        if border == "reflect":
            moved = (side - 1) - ((side - 1) - moved.abs()).abs()
        # A later part's border is no pixel of this image: moved, it could fall on one.
        return moved.masked_fill((positions < 0) | (positions >= side), -1)

    def place(rows: Tensor, cols: Tensor, height: int, width: int, drawn: Tensor) -> tuple[Tensor, Tensor]:
        if border == "reflect" and padding >= min(height, width):
            raise InputError(
                f"crop with border=reflect and padding={padding} needs images above {padding} pixels a side, not "
                f"{height}×{width}; take padding={min(height, width) - 1} or less, or border=zero"
            )
        return move(rows, drawn[:, 0], height), move(cols, drawn[:, 1], width)

    def boxes(boxes: Tensor, drawn: Tensor, height: int, width: int) -> Tensor:
        return boxes - drawn.flip(1).repeat(1, 2).unsqueeze(1)

    return Augmentation(draw, place=place, boxes=boxes, outside=border == "zero" and padding > 0)


def resized_crop(
    scale: tuple[Fraction, Fraction] = (0.08, 1.0), ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
) -> Augmentation:
    """Scale a window of the stored image to the network's size, bilinear with antialiasing, in whole grey values.

    The window's part of the area is uniform in `scale`, its width over its height log-uniform in `ratio`; where ten
    draws do not fit, it is the largest in the centre with a ratio in this range: torchvision's RandomResizedCrop
    (Szegedy et al. 2015, arXiv:1409.4842, section 6). What is drawn is (top, left, height, width) in pixels. Raises
    InputError for a range that is none.
    """
    for key, pair in (("scale", scale), ("ratio", ratio)):
        if len(pair) != 2 or not 0 < pair[1] >= pair[0]:
            raise InputError(f"resized_crop takes the least and the largest {key}, not {list(pair)}")
    flattest, widest = ratio

    def draw(rng: np.random.Generator, plan: Plan) -> Tensor:
        height, width = plan.shape
        high = min(height, max(1, round(width / flattest)) if width / height < flattest else height)
        wide = min(width, max(1, round(height * widest)) if width / height > widest else width)
        windows = np.tile(((height - high) // 2, (width - wide) // 2, high, wide), (plan.index.size, 1))
        left = np.arange(plan.index.size)
        for _ in range(10):
            unit = rng.random((len(left), 4))
            area = height * width * (scale[0] + unit[:, 0] * (scale[1] - scale[0]))
            aspect = np.exp(math.log(flattest) + unit[:, 1] * math.log(widest / flattest))
            sides = np.rint(np.sqrt(np.stack((area / aspect, area * aspect), 1))).astype(np.int64)
            fits = ((sides > 0) & (sides <= plan.shape)).all(1)
            first = np.floor(unit[:, 2:] * (np.array(plan.shape) - sides + 1)).astype(np.int64)
            windows[left[fits]] = np.concatenate((first, sides), 1)[fits]
            left = left[~fits]
        return torch.from_numpy(windows.reshape(*plan.index.shape, 4))

    return Augmentation(draw, window=True)


def affine(
    shift: Fraction = 0.0,
    rotate: NonNegative = 0.0,
    zoom: NonNegative = 0.0,
    shear: Annotated[float, Range(low=0, high=89)] = 0.0,
    interpolation: AffineInterpolation = "bilinear",
) -> Augmentation:
    """Shift, turn, zoom and shear an image about its centre in one resampling; black comes in from outside.

    `shift` is a part of the shorter side, for each direction; `rotate` and `shear` (along x) are in degrees; each is
    drawn uniformly up to it on both sides of zero. The scale is log-uniform in 1 / (1 + zoom) .. 1 + zoom. What is
    drawn is the inverse map of `transforms.inverse_affine` in units of the shorter side. Raises InputError for another
    interpolation than bilinear or nearest.
    """
    if interpolation not in (interpolations := ("bilinear", "nearest")):
        raise unknown("interpolation of affine", interpolation, interpolations)

    def draw(rng: np.random.Generator, plan: Plan) -> Tensor:
        unit = torch.from_numpy(rng.uniform(-1, 1, size=(*plan.index.shape, 5)))
        slant = torch.stack((unit[..., 4] * shear, torch.zeros_like(unit[..., 4])), -1)
        scale = (unit[..., 3] * math.log1p(zoom)).exp()
        return inverse_affine(unit[..., 0] * rotate, unit[..., 1:3] * shift, scale, slant).float()

    def in_pixels(drawn: Tensor, x: Tensor) -> Tensor:
        return torch.cat((drawn[:, :, :2], drawn[:, :, 2:] * min(x.shape[-2:])), 2)

    def pixels(x: Tensor, drawn: Tensor) -> Tensor:
        return resample(x, in_pixels(drawn, x), interpolation)

    def maps(labels: Tensor, drawn: Tensor) -> Tensor:
        return resample_map(labels, in_pixels(drawn, labels))

    def boxes(boxes: Tensor, drawn: Tensor, height: int, width: int) -> Tensor:
        inverse = torch.cat((drawn[:, :, :2], drawn[:, :, 2:] * min(height, width)), 2)
        return around_warped(boxes, inverse, height, width)

    return Augmentation(draw, pixels=pixels, maps=maps, boxes=boxes)


def elastic(
    displacement: Annotated[float, Range(low=0, high=0.1)] = 0.02, grid: Annotated[int, Range(low=2, high=16)] = 3
) -> Augmentation:
    """Deform an image smoothly: a displacement for each node of a coarse grid, bicubic between them.

    Each is normal in both directions, with a standard deviation of `displacement` in parts of the shorter side: U-Net's
    are 10 of 512 pixels on a grid of 3 × 3 (Ronneberger et al. 2015, section 3.1; after Simard et al. 2003). Beyond its
    border an image is mirrored.
    """

    def draw(rng: np.random.Generator, plan: Plan) -> Tensor:
        unit = rng.standard_normal((*plan.index.shape, 2, grid, grid), dtype=np.float32)
        return torch.from_numpy(unit * np.float32(displacement))

    def in_pixels(drawn: Tensor, height: int, width: int) -> Tensor:
        return displacements(drawn * min(height, width), height, width)

    def pixels(x: Tensor, drawn: Tensor) -> Tensor:
        return displaced(x, in_pixels(drawn, *x.shape[2:]))

    def maps(labels: Tensor, drawn: Tensor) -> Tensor:
        return displaced_map(labels, in_pixels(drawn, *labels.shape[1:]))

    def boxes(boxes: Tensor, drawn: Tensor, height: int, width: int) -> Tensor:
        return around_displaced(boxes, in_pixels(drawn, height, width))

    return Augmentation(draw, pixels=pixels, maps=maps, boxes=boxes)


def colour(
    brightness: NonNegative = 0.0,
    contrast: NonNegative = 0.0,
    saturation: NonNegative = 0.0,
    hue: Annotated[float, Range(low=0, high=0.5)] = 0.0,
) -> Augmentation:
    """Change brightness, contrast, saturation and hue, in this order, clamping to 0..255 after each.

    The first three draw a factor uniformly in 1 - amount (at least 0) .. 1 + amount; `hue` draws a turn of the colour
    circle uniformly in -hue .. hue. They do what torchvision's ColorJitter does; a grey image has neither saturation
    nor hue.
    """

    def draw(rng: np.random.Generator, plan: Plan) -> Tensor:
        unit = rng.random((*plan.index.shape, 4))
        low = np.array([max(0.0, 1 - amount) for amount in (brightness, contrast, saturation)] + [-hue])
        high = np.array([1 + amount for amount in (brightness, contrast, saturation)] + [hue])
        return torch.from_numpy((low + unit * (high - low)).astype(np.float32))

    def pixels(x: Tensor, drawn: Tensor) -> Tensor:
        by = drawn.unbind(1)
        x = x.contiguous()  # channel by channel: beside each other, three grey values a pixel cost several times more
        if brightness > 0:
            x = adjust_brightness(x, by[0])
        if contrast > 0:
            x = adjust_contrast(x, by[1])
        if saturation > 0 and x.shape[1] == 3:
            x = adjust_saturation(x, by[2])
        if hue > 0 and x.shape[1] == 3:
            x = adjust_hue(x, by[3])
        return x.contiguous(memory_format=torch.channels_last)

    return Augmentation(draw, pixels=pixels)


def cutout(size: Count = 8) -> Augmentation:
    """Hide a square of `size` pixels a side behind the mean (DeVries and Taylor 2017, arXiv:1708.04552).

    Its centre is drawn uniformly over the image, so that part of it may lie outside.
    """

    def draw(rng: np.random.Generator, plan: Plan) -> Tensor:
        return torch.from_numpy(rng.random((*plan.index.shape, 2), dtype=np.float32))

    def covered(centre: Tensor, side: int) -> Tensor:
        first = (centre * side).floor().unsqueeze(1) - size // 2
        position = torch.arange(side, device=centre.device)
        return (position >= first) & (position < first + size)

    def batch(x: Tensor, target: Tensor, drawn: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        rows, cols = covered(drawn[:, 0], x.shape[2]), covered(drawn[:, 1], x.shape[3])
        hidden = rows[:, None, :, None] & cols[:, None, None, :]
        return (x * ~hidden).contiguous(memory_format=torch.channels_last), target

    return Augmentation(draw, batch=batch)


def mixup(alpha: Positive = 0.2) -> Augmentation:
    """Blend each image and its target with those of a partner in the batch (Zhang et al. 2018, arXiv:1710.09412).

    The weight of the image itself is drawn for each sample from Beta(alpha, alpha); the partners are a permutation.
    The target becomes float32 [B, classes] and sums to one.
    """

    def draw(rng: np.random.Generator, plan: Plan) -> Tensor:
        partner = rng.permuted(np.broadcast_to(np.arange(plan.index.shape[1]), plan.index.shape), axis=1)
        weight = rng.beta(alpha, alpha, size=plan.index.shape)
        # One tensor for both: float32 counts exactly far beyond any batch.
        return torch.from_numpy(np.stack((weight, partner), -1).astype(np.float32))

    def batch(x: Tensor, target: Tensor, drawn: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        weight, partner = drawn[:, 0], drawn[:, 1].long()
        if not target.is_floating_point():
            target = (target.unsqueeze(1) == torch.arange(num_classes, device=target.device)).float()  # one_hot waits
        x = torch.lerp(x.index_select(0, partner), x, weight.view(-1, 1, 1, 1))
        target = torch.lerp(target.index_select(0, partner), target, weight.unsqueeze(1))
        return x.contiguous(memory_format=torch.channels_last), target

    return Augmentation(draw, batch=batch, mixes=True)


AUGMENTATIONS: dict[str, Callable[..., Augmentation]] = {
    "flip": flip,
    "alternating_flip": alternating_flip,
    "crop": crop,
    "resized_crop": resized_crop,
    "affine": affine,
    "elastic": elastic,
    "colour": colour,
    "cutout": cutout,
    "mixup": mixup,
}
