"""Digests of images: of a dataset, to tell whether a run's images are there again, and of each image."""

import hashlib
import os

import numpy as np
from torch import Tensor

from cnntrain.data.datasets.splits import PARTS
from cnntrain.data.storage.images import Dataset, Files, Pixels, splits_of, stored
from cnntrain.data.storage.pack import Packed


def fingerprint(dataset: Dataset) -> str:
    """Return a short digest of the labels and the pixels, or, of files, their relative paths and sizes in bytes."""
    digest = hashlib.sha256()
    for name, split in zip(PARTS, splits_of(dataset), strict=True):
        if split is None:
            continue
        source = stored(split.source)
        digest.update(f"{name} {len(split)} {source.shape}".encode())
        digest.update(split.labels.numpy().tobytes())
        files = source.files if isinstance(source, Packed) else source
        if isinstance(files, Pixels):
            digest.update(files.images.contiguous().numpy().data)
        elif isinstance(files, Files):
            for position in range(len(split)):
                for name, path in files.parts(position):
                    digest.update(os.fsencode(f"{name} {path.stat().st_size}\n"))
    return digest.hexdigest()[:16]


def checksums(images: Tensor) -> np.ndarray:
    """Return a checksum of each image's pixels, uint8 [N, H, W, C], as uint64 [N]."""
    sums = [hashlib.blake2b(image.data, digest_size=8).digest() for image in images.contiguous().numpy()]
    return np.frombuffer(b"".join(sums), dtype="<u8")
