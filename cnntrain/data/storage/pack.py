"""Image files decoded once into a plain `.npy` file, which every run, seed and process then reads where it lies."""

import errno
import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import PIL
import torch
from filelock import FileLock
from numpy.lib.format import open_memmap
from PIL import features
from torch import Tensor

from cnntrain.data.storage.decode import torchcodec
from cnntrain.data.storage.images import Files, decode_all
from cnntrain.runtime.errors import InputError

RULE = 3  # counts the changes of what `images.decode` makes of a file


class Packed:
    """Images of `files` at `rows` of the pack at `place`: mapped into memory, so that processes share their pages."""

    def __init__(self, files: Files, place: Path, rows: np.ndarray) -> None:
        self.files, self.place, self.rows = files, place, rows
        self.images = np.load(place, mmap_mode="r")

    def __reduce__(self) -> tuple[type["Packed"], tuple[Files, Path, np.ndarray]]:
        return Packed, (self.files, self.place, self.rows)  # another process maps the file, and is sent no pixels

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.files.shape

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: Sequence[int] | np.ndarray) -> Tensor:
        rows = self.rows[np.asarray(index, dtype=np.int64)]
        return torch.from_numpy(np.take(self.images, rows, axis=0))

    def take(self, index: np.ndarray) -> "Packed":
        index = np.asarray(index)
        return Packed(self.files.take(index), self.place, self.rows[index])


def pack(files: Files, folder: Path, *, make: bool = True) -> Path | None:
    """Return the pack of `files` in `folder`, uint8 [N, H, W, C]; made if it is not there or not whole, or else None.

    One process makes it while others wait. Whatever ends it, the pack is absent or complete. InputError for a bad
    image file, a folder that cannot be written to, or a disk without room.
    """
    height, width, channels = files.shape
    name = f"{files.root.resolve().parent.name}-{files.root.name}-{height}x{width}x{channels}-{digest(files)}"
    place = folder / f"{name}.npy"
    if is_complete(place, files):
        return place
    if not make:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{name}.lock"):
            if not is_complete(place, files):  # else another process made it while this one waited
                write(place, files)
    except OSError as error:
        raise InputError(
            f"dataset.cache=pack cannot write to {folder}: {error.strerror or error}; name another data_root=..., or "
            "take dataset.cache=none"
        ) from error
    return place


def digest(files: Files) -> str:
    """Return what tells packs apart: the files with their sizes and times, what is made of them, and by what."""
    known = hashlib.sha256()
    decoder = ["pillow", PIL.__version__, features.version("libjpeg_turbo"), "torch", torch.__version__, RULE]
    decoder += ["torchcodec", codec[1]] if (codec := torchcodec()) else []
    known.update(json.dumps([str(files.root.resolve()), files.shape, *files.made(), decoder]).encode())
    for position in range(len(files)):
        for name, path in files.parts(position):
            try:
                state = path.stat()
            except FileNotFoundError as error:
                raise InputError(f"cannot read {path}: there is no such file") from error
            known.update(os.fsencode(f"\0{name}\0{state.st_size}\0{state.st_mtime_ns}"))
    return known.hexdigest()[:16]


def is_complete(place: Path, files: Files) -> bool:
    """Say whether a pack of `files` lies at `place`: its header, its shape and its length are right."""
    try:
        images = np.load(place, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    right = isinstance(images, np.memmap) and images.dtype == np.uint8 and images.flags.c_contiguous
    return (
        right and images.shape == (len(files), *files.shape) and place.stat().st_size == images.offset + images.nbytes
    )


def write(place: Path, files: Files) -> None:
    """Decode `files` beside `place` and move the result there once the disk has it."""
    need, free = len(files) * math.prod(files.shape), shutil.disk_usage(place.parent).free
    if need * 1.01 > free:
        raise InputError(
            f"dataset.cache=pack needs {size(need)} for {len(files):,} images in {place.parent}, but {size(free)} are "
            "free; name another data_root=..., a smaller dataset.image_size, fewer classes, or take dataset.cache=none"
        )
    print(f"packing {len(files):,} images of {files.root} into {place} ({size(need)})", file=sys.stderr, flush=True)
    partial = place.with_suffix(".partial")
    try:
        begin = open_memmap(partial, "w+", dtype=np.uint8, shape=(len(files), *files.shape)).offset
        with partial.open("r+b", buffering=0) as file:
            if hasattr(os, "posix_fallocate"):  # a full disk is said before the work, not after it
                os.posix_fallocate(file.fileno(), 0, partial.stat().st_size)

            def keep(position: int, image: np.ndarray) -> None:
                # Written, not copied into mapped memory, whose every page would be a fault first.
                written = os.pwrite(file.fileno(), np.ascontiguousarray(image).data, begin + position * image.nbytes)
                if written < image.nbytes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            with closing(decode_all(files, keep, what="packing")) as bad_files:
                for _, error in bad_files:
                    raise error
            os.fsync(file.fileno())
        partial.replace(place)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def size(count: float) -> str:
    """Write a number of bytes."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"
