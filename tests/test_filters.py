"""Filters that people designed: HOG against a loop over pixels and scikit-image, kernels against arithmetic."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from made import create_model
from torch import nn

from cnntrain.nn.filters import CLIP, EPSILON
from cnntrain.nn.geometry import geometry
from cnntrain.nn.stages import walk


def photograph(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Smooth random values with noise, [H, W, C]."""
    rng = np.random.default_rng(0)
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    waves = [np.sin(rows / rng.uniform(2, 9) + columns / rng.uniform(2, 9)) for _ in range(channels)]
    return np.stack(waves, axis=-1) + 0.1 * rng.standard_normal((height, width, channels))


def features(net: nn.Sequential, image: np.ndarray, upto: str = "normalise") -> np.ndarray:
    """What leaves a stage, [H, W, C]."""
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    *_, (_, maps) = walk(net.eval(), x, upto=upto)
    return maps[0].permute(1, 2, 0).detach().numpy()


def hog_by_loops(image: np.ndarray) -> np.ndarray:
    """Dalal's and Triggs' features, block by block and pixel by pixel: [rows, columns, 2·2 cells · 9 bins]."""
    height, width, channels = image.shape
    blocks = np.zeros(((height - 16) // 8 + 1, (width - 16) // 8 + 1, 2, 2, 9))
    for row, column, y, x in product(*map(range, (*blocks.shape[:2], 16, 16))):
        i, j = 8 * row + y, 8 * column + x
        best = (0.0, 0.0)
        for c in range(channels):
            gx = image[i, j + 1, c] - image[i, j - 1, c] if 0 < j < width - 1 else 0.0
            gy = image[i + 1, j, c] - image[i - 1, j, c] if 0 < i < height - 1 else 0.0
            best = max(best, (gx, gy), key=lambda g: math.hypot(*g))
        angle = math.degrees(math.atan2(best[1], best[0])) % 180
        vote = math.hypot(*best) * math.exp(-((y - 7.5) ** 2 + (x - 7.5) ** 2) / (2 * 8**2))
        for p, q, b in product(range(2), range(2), range(9)):
            off = abs(angle - (20 * b + 10))
            share = max(0.0, 1 - min(off, 180 - off) / 20)
            share *= max(0.0, 1 - abs(y + 0.5 - (8 * p + 4)) / 8) * max(0.0, 1 - abs(x + 0.5 - (8 * q + 4)) / 8)
            blocks[row, column, p, q, b] += vote * share
    found = blocks.reshape(*blocks.shape[:2], -1)
    found = found / np.sqrt((found**2).sum(-1, keepdims=True) + EPSILON**2)
    found = np.minimum(found, CLIP)
    return np.asarray(found / np.sqrt((found**2).sum(-1, keepdims=True) + EPSILON**2))


def by_cell(found: np.ndarray, cells_of_block: int = 4) -> np.ndarray:
    """Bring [rows, columns, bins · cells] into the order of the loops, cells · bins."""
    rows, columns, numbers = found.shape
    turned = found.reshape(rows, columns, numbers // cells_of_block, cells_of_block).swapaxes(2, 3)
    return turned.reshape(rows, columns, numbers)


@pytest.mark.parametrize("channels", [1, 3])
def test_hog_is_what_a_loop_over_pixels_computes(channels: int) -> None:
    image = photograph(35, 26, channels)
    found = by_cell(features(create_model("hog", (channels, 35, 26), 2), image))
    expected = hog_by_loops(image)
    assert found.shape == expected.shape == (3, 2, 36)
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_hog_with_hard_votes_is_that_of_scikit_image(channels: int) -> None:
    """Its bins and cells are hard and it has no Gaussian: with these three differences named there is no other."""
    skimage = pytest.importorskip("skimage.feature")
    image = photograph(40, 32, channels)
    net = create_model("hog", (channels, 40, 32), 2, votes="hard", gaussian=False)
    expected = skimage.hog(
        image.astype(np.float32), 9, (8, 8), (2, 2), "L2-Hys", feature_vector=False, channel_axis=-1
    )  # fmt: skip
    expected = expected.reshape(*expected.shape[:2], -1)
    np.testing.assert_allclose(by_cell(features(net, image)), expected, atol=2e-5)
    linear = by_cell(features(create_model("hog", (channels, 40, 32), 2), image))
    cosine = (linear * expected).sum(-1)  # both of length one
    assert cosine.min() > 0.9 and cosine.max() < 0.9999  # near, and not the same


def test_a_window_of_64_by_128_has_3780_numbers() -> None:
    sizes = {(128, 64): 3780, (32, 32): 324, (28, 28): 144, (64, 64): 1764}
    for (height, width), numbers in sizes.items():
        rows = {
            row.name: row
            for row in geometry(create_model("hog", (3, height, width), 2, device="meta"), (3, height, width))
        }
        assert math.prod(rows["normalise"].out_shape) == numbers
        assert rows["blocks"].receptive_field == (18, 18) and rows["blocks"].stride == (8, 8)
        assert rows["fc"].params == 2 * numbers + 2 and rows["blocks"].params == 0
        assert rows["blocks"].macs == numbers * 16**2
