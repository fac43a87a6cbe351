"""Image files and their pixels: decoding with Pillow or torchcodec, scaling, and what is refused."""

import functools
import re
import stat
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from cnntrain.data.augment.resize import scaled
from cnntrain.runtime.errors import InputError, as_text

ORIENTATION = 0x0112  # Exif 2.3, section 4.6.4
SHORT = 3  # the type of a tag that is a whole number of 16 bits
APP1, APP15 = b"\xff\xe1", b"\xff\xef"  # markers of a JPEG file: what Exif data begin with, and what nobody reads


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
    """Return the formats of still images that Pillow reads by itself.

    EPS would start another program, Ghostscript; a stub only knows the name of its format.
    """
    Image.preinit()  # first the common formats, so that they are tried first
    Image.init()

    def read(name: str) -> bool:
        factory = Image.OPEN[name][0]
        stub = isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)
        return not stub and name != "EPS" and not Image.MIME.get(name, "").startswith("video/")

    return tuple(filter(read, Image.ID))


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


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file; whatever goes wrong with it is an InputError that names it.

    Only regular files are opened: a named pipe would wait for a writer without end.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("it is not a regular file")
        # Given a path, Pillow maps some files into memory, and mixes up the rows of a TIFF that is stored on its side.
        with path.open("rb") as file, Image.open(file, formats=formats()) as image:
            yield image
    except Exception as error:  # the plugins raise whatever a damaged file makes them stumble over
        raise bad_file(path, error) from error


def upright_size(path: Path) -> tuple[int, int]:
    """Return the (height, width) in which the file is seen, from its header; a bad file is an InputError."""
    with opened(path) as image:
        (width, height), turn = image.size, orientation(image)
        if isinstance(image, TiffImageFile):  # some versions of Pillow give its size as it is seen
            width, height = (image.tag_v2[tag] for tag in (TiffImagePlugin.IMAGEWIDTH, TiffImagePlugin.IMAGELENGTH))
            turn = image.tag_v2.get(ORIENTATION, 1)
    return (width, height) if turn in (5, 6, 7, 8) else (height, width)


def decode(
    path: Path, size: tuple[int, int], channels: int, *, resize: bool, stretch: bool = False, invert: bool = False
) -> np.ndarray:
    """Return one image file as uint8 [H, W, C], upright by its EXIF orientation, what is transparent on white.

    Bilinear with antialiasing; what then stands out of `size` is cropped evenly; `invert` takes each value from 255.
    A file that cannot be read to its end, or has another `size` without `resize`, is an InputError that names it.
    """
    with opened(path) as image:
        pixels = upright_pixels(image, channels)
    if pixels.shape[:2] != size:
        if not resize:
            actual, wanted = ("x".join(map(str, shape)) for shape in (pixels.shape[:2], size))
            raise InputError(
                f"{as_text(path)} is {actual}, other images {wanted}; give dataset.image_size to resize all"
            )
        pixels = stretched(pixels, size) if stretch else cover(pixels, size)
    return 255 - pixels if invert else pixels


def upright_pixels(image: Image.Image, channels: int) -> np.ndarray:
    """Return an opened file as uint8 [H, W, C], upright; torchcodec decodes it if it is a colour JPEG."""
    codec, plain = torchcodec(), image.mode == "RGB" and channels == 3
    if codec and plain and type(image) is JpegImageFile and image.fp:
        turn = orientation(image)
        image.fp.seek(0)
        data = image.fp.read()
        if "exif" in image.info:  # torchcodec turns images too, by a reading of its own: not if it is another segment
            start = data.index(b"Exif\0\0") - len(APP1 + b"..")
            data = data[:start] + APP15 + data[start + len(APP1) :]
        pixels: np.ndarray = codec[0](data).permute(1, 2, 0).numpy()
    else:
        image.load()
        turn = orientation(image)  # once it is loaded: Pillow turns a TIFF as it loads it, and takes the tag away
        pixels = np.array(as_8_bit(image, channels)).reshape(image.height, image.width, channels)
    return np.ascontiguousarray(turned(pixels, turn))


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, 1 to 8; metadata that cannot be read turns nothing."""
    try:
        # Pillow drops all that follows a tag that it cannot read; where else an orientation may stand, it knows better.
        turn = tagged(image.info.get("exif", b"")) or image.getexif().get(ORIENTATION, 1)
    except Exception:  # its parser raises whatever damaged metadata makes it stumble over
        return 1
    return int(turn) if turn in range(1, 9) else 1


def tagged(exif: bytes) -> int | None:
    """Return the orientation in Exif data, read past all other tags; None where there is none."""
    data = exif.removeprefix(b"Exif\0\0")
    order = ">" if data.startswith(b"MM") else "<"
    try:
        (start,) = struct.unpack_from(f"{order}L", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHLH", data, place)
            if tag == ORIENTATION and kind == SHORT:
                return int(value)
    except struct.error:  # the data end before their directory does
        pass
    return None


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return pixels [H, W, C] that were stored with an EXIF orientation as they are seen, without copying them."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    down, across = (-1 if orientation in places else 1 for places in ((3, 4, 7, 8), (2, 3, 6, 7)))
    return pixels[::down, ::across]


def as_8_bit(image: Image.Image, channels: int) -> Image.Image:
    """Return a loaded image in RGB (3 channels) or grey (1; ITU-R 601 luma), what is transparent on white."""
    if image.mode.startswith(("I", "F")) or is_signed(image):
        image = Image.fromarray(scaled_values(image))
    elif image.mode in ("LA", "PA", "RGBA") or (image.mode == "P" and "transparency" in image.info):
        # In other modes one colour may be called transparent: it is left as it is, since nothing else has that colour.
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    elif image.mode == "LAB":
        image = image.convert("RGB")  # from which there is a way to grey
    mode = "RGB" if channels == 3 else "L"
    return image if image.mode == mode else image.convert(mode)


def is_signed(image: Image.Image) -> bool:
    """Say whether a file holds whole numbers with a sign: only a TIFF does and says so."""
    return isinstance(image, TiffImageFile) and set(image.tag_v2.get(TiffImagePlugin.SAMPLEFORMAT, ())) == {2}


def scaled_values(image: Image.Image) -> np.ndarray:
    """Return grey values of 9 to 16 bits, or with a sign, as uint8 [H, W]: what such numbers can be becomes 0 to 255.

    So the files of a dataset are scaled alike, whatever they hold. Numbers of 32 bits are a ValueError: they never fill
    the range that they have.
    """
    bits, white_is_zero = 16, False
    if isinstance(image, TiffImageFile):
        (bits,) = image.tag_v2[TiffImagePlugin.BITSPERSAMPLE]
        white_is_zero = image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
        if is_signed(image) and image.tag_v2.prefix == b"MM" and image.info["compression"] != "raw":
            raise ValueError("Pillow mixes up the bytes of its values; save it without compression")
    if image.mode == "F" or bits > 16 or image.format in ("FITS", "IM", "MCIDAS"):
        raise ValueError("its values have 32 bits or no known range; convert it to 8 or 16 bits")
    values = np.asarray(image).astype(np.float64)
    if is_signed(image):
        values = (values + 2 ** (bits - 1)) % 2**bits
    pixels: np.ndarray = (values * 255 / (2**bits - 1)).round().astype(np.uint8)
    return 255 - pixels if white_is_zero else pixels


def cover(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale `image` [H, W, C] until it just covers `size` (height, width), then cut out the centre.

    Sizes are rounded and pixels computed as by Resize and CenterCrop of torchvision.transforms.v2 on tensors.
    """
    covered, (top, left) = covering_size((image.shape[0], image.shape[1]), size)
    return stretched(image, covered)[top : top + size[0], left : left + size[1]]


def covering_size(have: tuple[int, int], size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the (height, width) of an image of `have` pixels that just covers `size`, and where the centre begins."""
    (tall, wide), (height, width) = have, size
    covered = (height, wide * height // tall) if wide * height >= tall * width else (tall * width // wide, width)
    return covered, (round((covered[0] - height) / 2), round((covered[1] - width) / 2))


def stretched(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale `image` [H, W, C] to `size`, bilinear with antialiasing."""
    whole = torch.empty(*size, image.shape[2], dtype=torch.uint8)
    pixels, out = (values.permute(2, 0, 1)[None] for values in (torch.from_numpy(image), whole))
    scaled(pixels, size, False, None, None, out=out)
    return whole.numpy()


def bad_file(path: Path, error: Exception) -> InputError:
    """Build the one-line error that names a file which is no readable image."""
    if isinstance(error, FileNotFoundError):
        reason = "there is no such file"
    elif path.is_file() and path.stat().st_size == 0:
        reason = "the file is empty"
    elif isinstance(error, UnidentifiedImageError):
        reason = "it is not an image in a format that Pillow reads"
    elif isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        reason = f"it has more than {Image.MAX_IMAGE_PIXELS:,} pixels, as a decompression bomb has; make it smaller"
    else:
        reason = re.sub(r".*\.cpp:\d+, ", "", f"{error}") or type(error).__name__  # torchcodec says where in its source
    return InputError(f"cannot read {as_text(path)}: {reason}")


def resized(images: Tensor, size: int) -> Tensor:
    """Return uint8 or float images [N, H, W, C] as uint8 [N, size, size, C], bilinear with antialiasing."""
    if images.dtype == torch.uint8 and images.shape[1:3] == (size, size):
        return images
    result = torch.empty(len(images), size, size, images.shape[3], dtype=torch.uint8)
    for start in range(0, len(images), 1024):  # in parts, for the sake of memory
        part = images[start : start + 1024].permute(0, 3, 1, 2).float()
        enlarged = F.interpolate(part, (size, size), mode="bilinear", antialias=True).round().clamp(0, 255)
        result[start : start + 1024] = enlarged.permute(0, 2, 3, 1).to(torch.uint8)
    return result
