"""Images on a plane, near each other where their descriptors are: by principal components, and by t-SNE.

Van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008: the first 50 principal components, perplexity 30.
Distances between far groups of a t-SNE mean nothing; principal components keep them as well as two numbers can.
"""

import itertools

import numpy as np
import torch
from torch.nn import functional as F

from cnntrain.data.storage.images import spread
from cnntrain.studies.explain.tiles import Tile, TiledPicture

MAPPED = 500  # images
COMPONENTS, PERPLEXITY = 50, 30
CELLS, THUMBNAIL = 26, 32  # of the plane on each axis; the most pixels of an image's side
ASIDE = 2  # cells by which an image makes room
NEAR = sorted(itertools.product(range(-ASIDE, ASIDE + 1), repeat=2), key=lambda step: step[0] ** 2 + step[1] ** 2)


def embedding_picture(name: str, descriptors: np.ndarray, pixels: np.ndarray, seed: int) -> TiledPicture:
    """Return the picture of the planes of descriptors [N, D], with the images uint8 [N or more, H, W, C] on them."""
    chosen = spread(len(descriptors), MAPPED)
    components, share = principal_components(descriptors[chosen])
    small = thumbnails(pixels[chosen])
    tiles = []
    for how, points in {
        f"principal components ({100 * share:.0f} % of the variance)": components[:, :2],
        "t-SNE": stochastic_neighbours(components, seed),
    }.items():
        plane, shown = placed(points, small)
        tiles.append(Tile(f"{how}\n{shown} of {len(chosen)} images have room, at most {ASIDE} cells aside", plane))
    return TiledPicture(f"neighbours_map_{name}", f"{name}: near each other where alike", tiles, columns=2, side=5.0)


def principal_components(descriptors: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the first components [N, at most 50] of descriptors [N, D], and the first two's share of the variance."""
    from sklearn.decomposition import PCA

    found = PCA(min(COMPONENTS, *descriptors.shape), random_state=0)
    components = found.fit_transform(descriptors)
    return components, float(np.nan_to_num(found.explained_variance_ratio_[:2]).sum())


def stochastic_neighbours(components: np.ndarray, seed: int) -> np.ndarray:
    """Return the points [N, 2] of t-SNE, which starts from the principal components."""
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(components) - 1) / 3)
    start = components[:, :2] / (components[:, 0].std() or 1) * 1e-4
    return np.asarray(TSNE(perplexity=perplexity, init=start, random_state=seed).fit_transform(components))


def thumbnails(pixels: np.ndarray) -> np.ndarray:
    """Return images uint8 [N, H, W, C] in colours, of at most 32 pixels a side."""
    height, width = pixels.shape[1:3]
    shrink = min(1.0, THUMBNAIL / max(height, width))
    size = max(1, round(height * shrink)), max(1, round(width * shrink))
    images = F.adaptive_avg_pool2d(torch.from_numpy(pixels).permute(0, 3, 1, 2).float(), size)
    coloured = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
    return coloured.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def placed(points: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the plane uint8 [H, W, 3] with images at their points [N, 2], and how many are on it.

    An image whose cell is taken has the nearest free one that is at most `ASIDE` cells away on each axis, or none.
    """
    height, width = images.shape[1:3]
    plane = np.full((CELLS * height, CELLS * width, 3), 255, dtype=np.uint8)
    centred = points - (points.max(axis=0) + points.min(axis=0)) / 2
    cells = np.rint((centred / (2 * np.abs(centred).max() or 1) + 0.5) * (CELLS - 1)).astype(int)
    free = set(itertools.product(range(CELLS), repeat=2))
    for image, (column, row) in zip(images, cells.tolist(), strict=True):
        cell = next(
            ((row + down, column + right) for down, right in NEAR if (row + down, column + right) in free), None
        )
        if cell:
            free.remove(cell)
            top, left = cell[0] * height, cell[1] * width
            plane[top : top + height, left : left + width] = image
    return plane, CELLS**2 - len(free)
