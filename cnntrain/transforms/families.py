"""Families of transformations by name: what an invariance is measured against, each with its protocol named.

They act on pixels in 0..255, before normalisation, and treat all images of a batch alike but for noise, which is a
function of (seed, place of the image): an image's row depends on no other image.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cnntrain.data.augment.ops import adjust_brightness, adjust_contrast
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.seeding import generator
from cnntrain.transforms.attacks import fgsm, pgd
from cnntrain.transforms.resampling import Border, Interpolation, Motion, turn
from cnntrain.transforms.transform import Amount, Frame, ImageShape, Transform, moved

Steps = Sequence[float]
POINTS = 21  # amounts of a curve unless they are given


# Amounts.


def evenly(low: float, high: float, points: int = POINTS) -> list[float]:
    """Return evenly spaced amounts, to ten digits."""
    return [round(float(value), 10) + 0.0 for value in np.linspace(low, high, points)]


def shifts(side: int) -> list[float]:
    """Return whole shifts up to about three eighths of a side, in both directions."""
    step = max(1, side * 3 // 80)
    reach = min(POINTS // 2, (side - 1) // step)
    return [float(step * place) for place in range(-reach, reach + 1)]


def single(amounts: Steps | None, otherwise: Sequence[float]) -> list[Amount]:
    """Return the amounts that were given, or others, each as an amount of one number."""
    return [(float(value),) for value in (otherwise if amounts is None else amounts)]


def refuse_amounts(name: str, amounts: Sequence[Amount], fits: Callable[[Amount], bool], rule: str) -> None:
    """Raise `InputError` for an amount that does not fit, or for none at all."""
    if not amounts:
        raise InputError(f"warp.{name}.amounts=[] holds no amount")
    for amount in amounts:
        if not (all(map(math.isfinite, amount)) and fits(amount)):
            shown = ", ".join(f"{part:g}" for part in amount)
            raise InputError(f"warp.{name}.amounts: {shown} is refused: {rule}")


# The families.


def translation(
    name: str,
    shape: ImageShape,
    neutral: Amount,
    amounts: list[Amount],
    move: Callable[[Amount], Motion],
    border: Frame,
    interpolation: Interpolation,
) -> Transform:
    """Return a warp that shifts images, by less than the image."""
    side = min(shape[1:])
    rule = f"a shift must be smaller than the image ({shape[1]}×{shape[2]} pixels)"
    refuse_amounts(name, amounts, lambda amount: max(map(abs, amount)) < side, rule)
    return moved(name, "pixels", shape, neutral, amounts, move, border, interpolation)


def translate_y(
    shape: ImageShape,
    *,
    amounts: Steps | None = None,
    border: Frame = "zero",
    interpolation: Interpolation = "bilinear",
) -> Transform:
    """Shifts down (up when negative), in pixels."""
    steps = single(amounts, shifts(min(shape[1:])))
    return translation(
        "translate_y", shape, (0.0,), steps, lambda amount: Motion(shift=(0.0, amount[0])), border, interpolation
    )


def translate_x(
    shape: ImageShape,
    *,
    amounts: Steps | None = None,
    border: Frame = "zero",
    interpolation: Interpolation = "bilinear",
) -> Transform:
    """Shifts to the right (left when negative), in pixels."""
    steps = single(amounts, shifts(min(shape[1:])))
    return translation(
        "translate_x", shape, (0.0,), steps, lambda amount: Motion(shift=(amount[0], 0.0)), border, interpolation
    )


def translate(
    shape: ImageShape,
    *,
    amounts: Steps | None = None,
    border: Frame = "zero",
    interpolation: Interpolation = "bilinear",
) -> Transform:
    """Shifts by every pair (dx, dy) of the amounts, in pixels."""
    steps = [float(value) for value in (range(-4, 5) if amounts is None else amounts)]
    grid: list[Amount] = [(dx, dy) for dy in steps for dx in steps]
    return translation(
        "translate", shape, (0.0, 0.0), grid, lambda amount: Motion(shift=(amount[0], amount[1])), border, interpolation
    )


def scale(
    shape: ImageShape,
    *,
    amounts: Steps | None = None,
    border: Border = "zero",
    interpolation: Interpolation = "bilinear",
    centre: Sequence[float] = (0.5, 0.5),
) -> Transform:
    """Enlargement by a factor about `centre` (x, y), in parts of the sides; below 1 it is reduction."""
    steps = single(amounts, [2.0 ** (place / 10) for place in range(-10, 11)])
    refuse_amounts("scale", steps, lambda amount: amount[0] > 0, "a scale is a factor above 0")
    about = middle(centre, shape, "scale")

    def move(amount: Amount) -> Motion:
        return Motion(((amount[0], 0.0), (0.0, amount[0])), centre=about)

    return moved("scale", "factor", shape, (1.0,), steps, move, border, interpolation, centre=tuple(centre))


def rotate(
    shape: ImageShape,
    *,
    amounts: Steps | None = None,
    border: Border = "zero",
    interpolation: Interpolation = "bilinear",
    centre: Sequence[float] = (0.5, 0.5),
) -> Transform:
    """Clockwise rotation about `centre` (x, y), in degrees."""
    steps = single(amounts, evenly(-180, 180))
    refuse_amounts("rotate", steps, lambda amount: abs(amount[0]) <= 360, "a rotation is between -360 and 360 degrees")
    about = middle(centre, shape, "rotate")
    return moved(
        "rotate",
        "degrees",
        shape,
        (0.0,),
        steps,
        lambda amount: Motion(turn(amount[0]), centre=about),
        border,
        interpolation,
        centre=tuple(centre),
    )


def shear(
    shape: ImageShape,
    *,
    amounts: Steps | None = None,
    border: Border = "zero",
    interpolation: Interpolation = "bilinear",
    centre: Sequence[float] = (0.5, 0.5),
) -> Transform:
    """Shear along x about `centre` (x, y): the bottom goes to the right, in degrees."""
    steps = single(amounts, evenly(-40, 40))
    refuse_amounts("shear", steps, lambda amount: abs(amount[0]) < 90, "a shear is between -90 and 90 degrees")
    about = middle(centre, shape, "shear")

    def move(amount: Amount) -> Motion:
        return Motion(((1.0, math.tan(math.radians(amount[0]))), (0.0, 1.0)), centre=about)

    return moved("shear", "degrees", shape, (0.0,), steps, move, border, interpolation, centre=tuple(centre))


def middle(centre: Sequence[float], shape: ImageShape, name: str) -> tuple[float, float]:
    """Return a point, given in parts of the sides, in pixels from the middle of the image."""
    if len(centre) != 2 or not all(0 <= part <= 1 for part in centre):
        raise InputError(f"warp.{name}.centre={list(centre)} must be two shares of the sides, (x, y) between 0 and 1")
    return (centre[0] - 0.5) * (shape[2] - 1), (centre[1] - 0.5) * (shape[1] - 1)


def flip_x(shape: ImageShape) -> Transform:
    """The image from left to right, or not."""
    return moved(
        "flip_x",
        "flipped",
        shape,
        (0.0,),
        [(0.0,), (1.0,)],
        lambda amount: Motion(((1.0 - 2 * amount[0], 0.0), (0.0, 1.0))),
        "zero",
        "nearest",
    )


def flip_y(shape: ImageShape) -> Transform:
    """The image upside down, or not."""
    return moved(
        "flip_y",
        "flipped",
        shape,
        (0.0,),
        [(0.0,), (1.0,)],
        lambda amount: Motion(((1.0, 0.0), (0.0, 1.0 - 2 * amount[0]))),
        "zero",
        "nearest",
    )


def brightness(shape: ImageShape, *, amounts: Steps | None = None) -> Transform:
    """Pixels times a factor, cut off at white."""
    steps = single(amounts, evenly(0, 2))
    refuse_amounts("brightness", steps, lambda amount: amount[0] >= 0, "a factor is at least 0")
    return Transform(
        "brightness",
        "factor",
        (1.0,),
        tuple(steps),
        (shape[1], shape[2]),
        lambda pixels, amount, places: adjust_brightness(pixels, pixels.new_full((len(pixels),), amount[0])),
    )


def contrast(shape: ImageShape, *, amounts: Steps | None = None) -> Transform:
    """Distance of pixels from the image's mean luma times a factor, cut off at black and white."""
    steps = single(amounts, evenly(0, 2))
    refuse_amounts("contrast", steps, lambda amount: amount[0] >= 0, "a factor is at least 0")
    return Transform(
        "contrast",
        "factor",
        (1.0,),
        tuple(steps),
        (shape[1], shape[2]),
        lambda pixels, amount, places: adjust_contrast(pixels, pixels.new_full((len(pixels),), amount[0])),
    )


def blur(shape: ImageShape, *, amounts: Steps | None = None) -> Transform:
    """Gaussian blur, by its standard deviation in pixels; borders are repeated."""
    steps = single(amounts, evenly(0, 4))
    refuse_amounts("blur", steps, lambda amount: amount[0] >= 0, "a standard deviation is at least 0")

    def change(pixels: Tensor, amount: Amount, places: np.ndarray) -> Tensor:
        reach = math.ceil(3 * amount[0])
        distance = torch.arange(-reach, reach + 1, device=pixels.device, dtype=pixels.dtype)
        kernel = torch.exp(-(distance**2) / (2 * amount[0] ** 2 + 1e-12))
        kernel = kernel / kernel.sum()
        maps = pixels.flatten(0, 1).unsqueeze(1)
        maps = F.conv2d(F.pad(maps, (reach, reach, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1))
        maps = F.conv2d(F.pad(maps, (0, 0, reach, reach), mode="replicate"), kernel.view(1, 1, -1, 1))
        return maps.view_as(pixels)

    return Transform("blur", "pixels", (0.0,), tuple(steps), (shape[1], shape[2]), change, protocol={"border": "edge"})


def noise(shape: ImageShape, *, amounts: Steps | None = None, seed: int = 0) -> Transform:
    """Normal noise by its standard deviation in 0..1, one drawing an image, cut off at black and white."""
    steps = single(amounts, evenly(0, 0.5))
    refuse_amounts("noise", steps, lambda amount: amount[0] >= 0, "a standard deviation is at least 0")

    def change(pixels: Tensor, amount: Amount, places: np.ndarray) -> Tensor:
        drawn = np.stack([drawing(int(place)) for place in places])
        return (pixels + 255 * amount[0] * torch.from_numpy(drawn).to(pixels.device)).clamp_(0, 255)

    def drawing(place: int) -> np.ndarray:
        return generator(seed, "noise", place).standard_normal(shape, dtype=np.float32)

    return Transform(
        "noise", "of the range", (0.0,), tuple(steps), (shape[1], shape[2]), change, protocol={"seed": seed}
    )


TRANSFORMS: dict[str, Callable[..., Transform]] = {
    "translate_y": translate_y,
    "translate_x": translate_x,
    "translate": translate,
    "scale": scale,
    "rotate": rotate,
    "shear": shear,
    "flip_x": flip_x,
    "flip_y": flip_y,
    "brightness": brightness,
    "contrast": contrast,
    "blur": blur,
    "noise": noise,
    "fgsm": fgsm,
    "pgd": pgd,
}
