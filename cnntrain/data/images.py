"""Image files and their pixels: decoding with Pillow or torchcodec, scaling, and what is refused."""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

from cnntrain.data.windows import scaled
from cnntrain.errors import InputError

ORIENTATION = 0x0112  # Exif 2.3, section 4.6.4


@contextmanager
def pillow_rules() -> Iterator[None]:
    """Make a decompression bomb an error and silence what Pillow says about metadata.

    Warning filters belong to the process: enter once around a pool of threads, not in each of them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@functools.cache
def formats() -> tuple[str, ...]:
    """Return the formats that Pillow opens by itself: EPS would start another program, Ghostscript."""
    Image.preinit()  # first the common formats, so that they are tried first
    Image.init()
    return tuple(name for name in Image.ID if name != "EPS")


@functools.cache
def suffixes() -> frozenset[str]:
    """Return the file suffixes of `formats`, in lower case."""
    known = set(formats())
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in known)


@functools.cache
def torchcodec() -> tuple[Callable[..., Tensor], str] | None:
    """Return torchcodec's function for JPEG files and its version, where it is installed and can be loaded.

    It gives the bits that Pillow gives, in two thirds of the time, and threads do not wait for each other.
    """
    try:
        from torchcodec.decoders import decode_jpeg
    except (ImportError, OSError, RuntimeError, AttributeError):  # an older one, or one made for another torch
        return None
    return decode_jpeg, version("torchcodec")


def upright_size(path: Path) -> tuple[int, int]:
    """Return the (height, width) in which the file is seen, from its header; a bad file is an InputError."""
    try:
        with Image.open(path, formats=formats()) as image:
            width, height = image.size
            turned = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    except Exception as error:
        raise bad_file(path, error) from error
    return (width, height) if turned else (height, width)


def decode(path: Path, size: tuple[int, int], channels: int, *, resize: bool) -> np.ndarray:
    """Return one image file as uint8 [H, W, C], upright by its EXIF orientation, without its transparency.

    Bilinear with antialiasing; what then stands out of `size` is cropped evenly. A file that cannot be read to its
    end, or has another `size` without `resize`, is an InputError that names it.
    """
    try:
        with Image.open(path, formats=formats()) as image:
            pixels = upright_pixels(image, channels)
    except Exception as error:  # the plugins raise whatever a damaged file makes them stumble over
        raise bad_file(path, error) from error
    if pixels.shape[:2] == size:
        return pixels
    if not resize:
        found, others = ("x".join(map(str, shape)) for shape in (pixels.shape[:2], size))
        raise InputError(f"{path} is {found}, other images {others}; give dataset.image_size to resize all")
    return cover(pixels, size)


def upright_pixels(image: Image.Image, channels: int) -> np.ndarray:
    """Return an opened file as uint8 [H, W, C], by torchcodec if it is a colour JPEG that needs no turning."""
    codec, plain = torchcodec(), image.mode == "RGB" and channels == 3
    if codec and plain and type(image) is JpegImageFile and image.fp and image.getexif().get(ORIENTATION, 1) == 1:
        image.fp.seek(0)
        found: np.ndarray = codec[0](image.fp.read()).permute(1, 2, 0).numpy()
        return found
    ImageOps.exif_transpose(image, in_place=True)
    upright = as_8_bit(image, channels)
    return np.array(upright).reshape(upright.height, upright.width, channels)


def as_8_bit(image: Image.Image, channels: int) -> Image.Image:
    """Return `image` in RGB (3 channels) or grey (1; ITU-R 601 luma); 16-bit values are scaled, not cut off."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535).astype(np.float64) / 257).round().astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # a palette with alpha goes to RGB by way of its full colours
    mode = "RGB" if channels == 3 else "L"
    if image.mode != mode:
        return image.convert(mode)
    image.load()
    return image


def cover(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale `image` [H, W, C] until it just covers `size` (height, width), then cut out the centre.

    Sizes are rounded and pixels computed as by Resize and CenterCrop of torchvision.transforms.v2 on tensors.
    """
    (tall, wide, _), (height, width) = image.shape, size
    whole = (height, wide * height // tall) if wide * height >= tall * width else (tall * width // wide, width)
    top, left = (round((have - want) / 2) for have, want in zip(whole, size, strict=True))
    covering = torch.empty(*whole, image.shape[2], dtype=torch.uint8)
    pixels, out = (values.permute(2, 0, 1)[None] for values in (torch.from_numpy(image), covering))
    scaled(pixels, whole, False, None, None, out=out)
    return covering.numpy()[top : top + height, left : left + width]


def bad_file(path: Path, error: Exception) -> InputError:
    """Build the one-line error that names a file which is no readable image."""
    if isinstance(error, FileNotFoundError):
        reason = "there is no such file"
    elif path.is_file() and path.stat().st_size == 0:
        reason = "the file is empty"
    elif isinstance(error, UnidentifiedImageError):
        reason = "it is no image in a format that Pillow knows"
    elif isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        reason = f"it has more than {Image.MAX_IMAGE_PIXELS:,} pixels, which could be a decompression bomb"
    else:
        reason = f"{error}" or type(error).__name__
    return InputError(f"cannot read {path}: {reason}")


def resized(images: Tensor, size: int) -> Tensor:
    """Return uint8 or float images [N, H, W, C] as uint8 [N, size, size, C], bilinear with antialiasing."""
    if images.dtype == torch.uint8 and images.shape[1:3] == (size, size):
        return images
    result = torch.empty(len(images), size, size, images.shape[3], dtype=torch.uint8)
    for start in range(0, len(images), 1024):  # in parts, for the sake of memory
        part = images[start : start + 1024].permute(0, 3, 1, 2).float()
        found = F.interpolate(part, (size, size), mode="bilinear", antialias=True).round().clamp(0, 255)
        result[start : start + 1024] = found.permute(0, 2, 3, 1).to(torch.uint8)
    return result
