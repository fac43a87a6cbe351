"""What tests make: networks by name, folders of images, bad files, and the archives of torchvision's datasets."""

import hashlib
import pickle
import struct
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import torchvision.datasets
from PIL import Image
from torch import nn

from cnntrain.data.datasets import downloads
from cnntrain.models import MODELS
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions

TINY = (
    *("model=lenet5", "dataset=synthetic", "dataset.train_images=96", "dataset.test_images=48", "augmentation=none"),
    *("trainer.epochs=2", "trainer.batch_size=16", "optimizer.lr=0.05", "device=cpu"),
    "trainer.tensorboard=false",
)


def create_model(name: str, in_shape: Shape, num_classes: int, **options: Any) -> nn.Sequential:
    """Return a network by its name; `options` are its own and those of `BuildOptions`."""
    build = {field.name: options.pop(field.name) for field in fields(BuildOptions) if field.name in options}
    return MODELS[name](in_shape, num_classes, BuildOptions(**build), **options)


def picture(seed: int, height: int = 8, width: int = 8) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def tree(root: Path, classes: tuple[str, ...] = ("ant", "bee"), each: int = 10, size: tuple[int, int] = (8, 8)) -> Path:
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for image in range(each):
            picture(100 * number + image, *size).save(root / name / f"{image:02}.png")
    return root


# --- bad files


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 40] ^= 0x10
    path.write_bytes(bytes(data))


def half_a_jpeg(path: Path) -> None:
    picture(0, 8, 8).save(path, format="JPEG", quality=95)
    half(path)


def postscript(path: Path) -> None:
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")


def gone(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.png")


BAD: dict[str, Callable[[Path], object]] = {
    "truncated": half,
    "truncated_jpeg": half_a_jpeg,
    "text": lambda path: path.write_text("no image"),
    "empty": lambda path: path.write_bytes(b""),
    "flipped": flipped,
    "postscript": postscript,
    "gone": gone,
}


# --- files as cameras and scanners write them


def tiff(path: Path, values: np.ndarray, *, packed: bool = False, **tags: int) -> None:
    """Write grey values [H, W] as they lie in memory, packed or not, with their kind in the tags or as `tags` say."""
    order = ">" if values.dtype.byteorder == ">" else "<"
    data = zlib.compress(values.tobytes()) if packed else values.tobytes()
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    known = {"width": values.shape[1], "height": values.shape[0], "bits": 8 * values.itemsize, "sample_format": kind}
    known |= {"compression": 8 if packed else 1, "photometric": 1, "strip": 8 + 2 + 12 * 10 + 4, "orientation": 1}
    known |= {"rows": values.shape[0], "bytes": len(data)} | tags
    numbers = {"width": 256, "height": 257, "bits": 258, "compression": 259, "photometric": 262, "strip": 273}
    numbers |= {"orientation": 274, "rows": 278, "bytes": 279, "sample_format": 339}
    entries = [struct.pack(f"{order}HHLL", number, 4, 1, known[name]) for name, number in numbers.items()]
    path.write_bytes(head(order, len(entries)) + b"".join(entries) + bytes(4) + data)


def exif(turn: int, *others: tuple[int, int, int, bytes], order: str = "<") -> bytes:
    """Return Exif data of an orientation after `others`: tag, type, count, and four bytes of value."""
    entries = [*others, (0x0112, 3, 1, struct.pack(f"{order}HH", turn, 0))]
    written = [struct.pack(f"{order}HHL", *entry[:3]) + entry[3] for entry in entries]
    return b"Exif\0\0" + head(order, len(entries)) + b"".join(written) + bytes(4)


def head(order: str, count: int) -> bytes:
    """Return what stands before the `count` tags of a TIFF or of Exif data."""
    return {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}LH", 8, count)


# --- torchvision's files


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def mnist_files(root: Path, images: int = 40, classes: int = 10) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (images, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        write_idx(root / f"MNIST/raw/{part}-images-idx3-ubyte", pixels)
        write_idx(root / f"MNIST/raw/{part}-labels-idx1-ubyte", np.arange(images) % classes)
    return pixels


def cifar_archive(folder: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Write a tiny CIFAR-10 archive into `folder`; return its images, and what torchvision must know of its files."""
    kind = torchvision.datasets.CIFAR10
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, 32, 32), dtype=np.uint8)
    batch = {"data": pixels.reshape(20, -1), "labels": [number % 10 for number in range(20)]}
    made = folder / "made" / kind.base_folder
    made.mkdir(parents=True)
    for file in ("data_batch_1", "test_batch"):
        (made / file).write_bytes(pickle.dumps(batch))
    (made / "batches.meta").write_bytes(pickle.dumps({"label_names": list(downloads.CIFAR10_CLASSES)}))
    sums = {file.name: md5(file) for file in made.iterdir()}
    with tarfile.open(folder / kind.filename, "w:gz") as archive:
        archive.add(made, arcname=kind.base_folder)
    return pixels, {
        "train_list": [["data_batch_1", sums["data_batch_1"]]],
        "test_list": [["test_batch", sums["test_batch"]]],
        "meta": {**kind.meta, "md5": sums["batches.meta"]},
        "tgz_md5": md5(folder / kind.filename),
    }


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


class Page(HTMLParser):
    """What a browser would find in a page, of a file or as text: elements with their attributes, and the text."""

    def __init__(self, page: Path | str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page.read_text(encoding="utf-8") if isinstance(page, Path) else page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]
