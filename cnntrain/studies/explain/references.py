"""Maps that look at no network: what a method has to beat before it says anything about one."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from cnntrain.runtime.seeding import generator

EDGES, WHOLE = "edge map", "whole image"


def random_order(pixels: np.ndarray, seed: int) -> np.ndarray:
    """Return maps that are drawn."""
    return generator(seed, "random order").random(pixels.shape[:3], dtype=np.float32)


def edge_map(pixels: np.ndarray, seed: int) -> np.ndarray:
    """Return the size of the grey values' slopes (Sobel's filters)."""
    grey = pixels.mean(axis=3)
    return np.asarray(np.hypot(ndimage.sobel(grey, axis=1), ndimage.sobel(grey, axis=2)), dtype=np.float32)


def centred_gaussian(pixels: np.ndarray, seed: int) -> np.ndarray:
    """Return maps that fall off from the centre: of what photographers put there."""
    height, width = pixels.shape[1:3]
    down, across = (((np.arange(side) + 0.5) / side - 0.5) ** 2 for side in (height, width))
    falling = np.exp(-(down[:, None] + across) / (2 * 0.25**2)).astype(np.float32)  # a quarter of the side is one sigma
    return np.broadcast_to(falling, pixels.shape[:3])


def whole_image(pixels: np.ndarray, seed: int) -> np.ndarray:
    """Return maps without any preference."""
    return np.ones(pixels.shape[:3], dtype=np.float32)


# Maps float32 [N, H, W] of pixels uint8 [N, H, W, C].
REFERENCES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    EDGES: edge_map,
    "random order": random_order,
    "centred Gaussian": centred_gaussian,
    WHOLE: whole_image,
}
