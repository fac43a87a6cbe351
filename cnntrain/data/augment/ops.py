"""Warps and colour changes as arithmetic on a batch: each sample has its own parameters; no value is looked at."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

AffineInterpolation = Literal["bilinear", "nearest"]
FIXED_POINT_STEPS = 8


def inverse_affine(angle: Tensor, shift: Tensor, scale: Tensor, shear: Tensor) -> Tensor:
    """Return the maps [..., 2, 3] from a position in the warped image to the one in the original that it shows.

    Positions are (x, y) relative to the image's centre, x to the right and y down. The image is sheared along x, then
    along y, turned clockwise, scaled and shifted: `shear` [..., 2] and `angle` [...] in degrees, `scale` [...] a
    factor, `shift` [..., 2] in the unit that the last column then has. They mean what they mean in torchvision.
    """
    turn = torch.deg2rad(angle)
    shear_x, shear_y = torch.deg2rad(shear).tan().unbind(-1)
    cos, sin = turn.cos() / scale, turn.sin() / scale
    bottom_x, bottom_y = shear_y * cos - sin, shear_y * sin + cos
    top = torch.stack((cos + shear_x * bottom_x, sin + shear_x * bottom_y), -1)
    linear = torch.stack((top, torch.stack((bottom_x, bottom_y), -1)), -2)
    return torch.cat((linear, -linear @ shift.unsqueeze(-1)), -1)


def resample(x: Tensor, inverse: Tensor, interpolation: AffineInterpolation = "bilinear") -> Tensor:
    """Return the images `x` [B, C, H, W], each warped by its `inverse` [B, 2, 3] in pixels (see `inverse_affine`).

    What comes from outside an image is zero. The result is channels_last.
    """
    height, width = x.shape[2:]
    across = torch.arange(width, device=x.device, dtype=x.dtype) - (width - 1) / 2
    down = torch.arange(height, device=x.device, dtype=x.dtype) - (height - 1) / 2
    # grid_sample counts from -1 to 1 over the image.
    scaled = inverse.to(x.dtype) * torch.stack((x.new_full((3,), 2 / width), x.new_full((3,), 2 / height)))
    column, row, offset = scaled.unsqueeze(-1).unbind(2)  # [B, 2, 1] each
    # Every position is a term of its column plus one of its row: F.affine_grid multiplies matrices for each pixel.
    grid = (column * across).unsqueeze(2) + (row * down + offset).unsqueeze(3)
    warped = F.grid_sample(x, grid.permute(0, 2, 3, 1), mode=interpolation, padding_mode="zeros", align_corners=False)
    return warped.contiguous(memory_format=torch.channels_last)


def resample_map(labels: Tensor, inverse: Tensor) -> Tensor:
    """Return label maps, uint8 [B, H, W], warped as `resample` warps images, each pixel that of the nearest position.

    What comes from outside is 255: it has no class.
    """
    turned = (255 - labels.float()).unsqueeze(1)  # outside an image there are zeros
    return (255 - resample(turned, inverse, "nearest").squeeze(1)).to(torch.uint8)


def displacements(coarse: Tensor, height: int, width: int) -> Tensor:
    """Return the displacements of every pixel, [B, 2, height, width], from those of a coarse grid [B, 2, G, G].

    The outer nodes of the grid lie on the outer pixels; what lies between is bicubic.
    """
    return F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)


def displaced(x: Tensor, by: Tensor, interpolation: AffineInterpolation = "bilinear") -> Tensor:
    """Return the images `x` [B, C, H, W], of which every pixel shows what lies `by` [B, 2, H, W] (x, y) pixels away.

    Beyond its border an image is mirrored. The result is channels_last.
    """
    height, width = x.shape[2:]
    across = (torch.arange(width, device=x.device, dtype=x.dtype) * 2 + 1) / width - 1  # as grid_sample counts
    down = (torch.arange(height, device=x.device, dtype=x.dtype) * 2 + 1) / height - 1
    grid = torch.stack((across + by[:, 0] * (2 / width), down[:, None] + by[:, 1] * (2 / height)), 3)
    moved = F.grid_sample(x, grid, mode=interpolation, padding_mode="reflection", align_corners=False)
    return moved.contiguous(memory_format=torch.channels_last)


def displaced_map(labels: Tensor, by: Tensor) -> Tensor:
    """Return label maps, uint8 [B, H, W], displaced as `displaced` does images, each pixel the nearest one."""
    return displaced(labels.float().unsqueeze(1), by, "nearest").squeeze(1).to(torch.uint8)


def around_displaced(boxes: Tensor, by: Tensor) -> Tensor:
    """Return the boxes [B, M, 4] around those of images that were `displaced`, by their corners and middles of sides.

    A point of the image comes to where it is displaced from: the fixed point q = p - by(q), which a few steps reach
    where displacements change by less than one pixel a pixel, as they do where nothing is folded.
    """
    left, top, right, bottom = boxes.unbind(2)
    middle, centre = (left + right) / 2, (top + bottom) / 2
    x = torch.stack((left, middle, right, left, right, left, middle, right), 2)
    y = torch.stack((top, top, top, centre, centre, bottom, bottom, bottom), 2)
    height, width = by.shape[2:]
    scale_x, scale_y = 2 / width, 2 / height
    at_x, at_y = x, y
    for _ in range(FIXED_POINT_STEPS):
        grid = torch.stack((at_x * scale_x - 1, at_y * scale_y - 1), 3)
        shift = F.grid_sample(by, grid, mode="bilinear", padding_mode="border", align_corners=False)
        at_x, at_y = x - shift[:, 0], y - shift[:, 1]
    return around(at_x, at_y)


def around_warped(boxes: Tensor, inverse: Tensor, height: int, width: int) -> Tensor:
    """Return the boxes [B, M, 4] around those of images that were warped as `resample` warps them, by their corners."""
    left, top, right, bottom = boxes.unbind(2)
    (a, b, x0), (c, d, y0) = (row[:, None, None].unbind(3) for row in inverse.to(boxes.dtype).unbind(1))
    x = torch.stack((left, right, left, right), 2) - width / 2 - x0
    y = torch.stack((top, top, bottom, bottom), 2) - height / 2 - y0
    return around((d * x - b * y) / (a * d - b * c) + width / 2, (a * y - c * x) / (a * d - b * c) + height / 2)


def around(x: Tensor, y: Tensor) -> Tensor:
    """Return the boxes [B, M, 4] around points, whose places `x` and `y` are [B, M, points]."""
    return torch.stack((x.amin(2), y.amin(2), x.amax(2), y.amax(2)), 2)


def grey(x: Tensor) -> Tensor:
    """Return the luma [B, 1, H, W] of RGB images (ITU-R BT.601), or grey images as they are."""
    if x.shape[1] == 1:
        return x
    red, green, blue = x.chunk(3, 1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def adjust_brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Multiply images [B, C, H, W] in 0..255 by one `factor` [B] each; 0 is black."""
    return (x * factor.view(-1, 1, 1, 1)).clamp_(0, 255)


def adjust_contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Move images [B, C, H, W] in 0..255 away from their mean luma by one `factor` [B] each; 0 is flat grey."""
    return torch.lerp(grey(x).mean((1, 2, 3), keepdim=True), x, factor.view(-1, 1, 1, 1)).clamp_(0, 255)


def adjust_saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Move RGB images [B, 3, H, W] in 0..255 away from grey by one `factor` [B] each; 0 is grey."""
    return torch.lerp(grey(x), x, factor.view(-1, 1, 1, 1)).clamp_(0, 255)


def adjust_hue(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue of RGB images [B, 3, H, W] by one part `turn` [B] of the colour circle each; value and chroma stay.

    HSV after Smith, "Color gamut transform pairs", SIGGRAPH 1978.
    """
    red, green, blue = x.chunk(3, 1)
    value = x.amax(1, keepdim=True)
    chroma = value - x.amin(1, keepdim=True)
    divisor = chroma.clamp_min(1e-6)  # without chroma every numerator is zero
    hue = torch.where(
        red == value,
        (green - blue) / divisor,
        torch.where(green == value, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    # How far each channel lies below the value is one trapezoid of the hue, in sixths, begun at 5, 3 and 1.
    begin = (5 - 2 * torch.arange(3, device=x.device, dtype=x.dtype)).view(1, 3, 1, 1)
    sixth = (hue + 6 * turn.view(-1, 1, 1, 1) + begin).remainder_(6)
    return value - chroma * torch.minimum(sixth, 4 - sixth).clamp_(0, 1)
