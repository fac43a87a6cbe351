"""Pictures of files as a network takes them, and back; colours apart from brightness."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cnntrain.data.storage.decode import decode, pillow_rules, upright_size
from cnntrain.runtime import disk

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601


def size_at(path: Path, size: int) -> tuple[int, int]:
    """Return the height and width of a file's image when its longer side is `size` long, from its header alone.

    Raises `InputError` for a file that is no image.
    """
    with pillow_rules():
        height, width = upright_size(path)
    scale = size / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def read_picture(path: Path, size: int, channels: int) -> Tensor:
    """Return a file's pixels as float32 [1, C, H, W] in 0..255, its longer side `size` long.

    Raises `InputError` for a file that cannot be read.
    """
    with pillow_rules():
        pixels = decode(path, size_at(path, size), channels, resize=True)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float()


def brightness(pixels: Tensor) -> Tensor:
    """Return the brightness [1, 1, H, W] of pixels [1, 3, H, W]."""
    return (pixels * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def grey_pair(content: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
    """Return content and style without colours, the style's brightness moved and scaled to the content's.

    Gatys et al., "Preserving color in neural artistic style transfer", 2016, equation 10.
    """
    bright, other = brightness(content), brightness(style)
    other = (other - other.mean()) * (bright.std() / other.std().clamp_min(1e-6)) + bright.mean()
    return bright.expand(-1, 3, -1, -1), other.expand(-1, 3, -1, -1)


def with_colours(painted: Tensor, content: Tensor) -> Tensor:
    """Return the brightness of what was painted with the colours of the content; all are [1, 3, H, W]."""
    return content + brightness(painted) - brightness(content)


def write_picture(pixels: Tensor, path: Path) -> None:
    """Write pixels [1, C, H, W] in 0..255 as an image file of the path's suffix."""
    rounded = pixels[0].round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    sink = io.BytesIO()
    image = Image.fromarray(np.squeeze(rounded, 2) if rounded.shape[2] == 1 else rounded)
    image.save(sink, format="JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG", quality=95)
    disk.write(path, sink.getvalue())
