"""Insertion and deletion: how the class's probability changes as pixels come or go in a map's order.

Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018, section 4.2,
with the constants of their code: what is deleted becomes the mean of the training pixels, insertion starts from the
image blurred with a kernel of 11 pixels and a deviation of 5, and the area is that of trapezoids.
"""

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from cnntrain.runtime.progress import counting
from cnntrain.runtime.seeding import generator
from cnntrain.studies.explain.question import Question, Targets

STEPS = 32  # from no pixel to all of them; RISE has 224 on images of 224 pixels a side
KERNEL, SIGMA = 11, 5.0


def areas(question: Question, targets: Targets, maps: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the areas [N] under the probability of each image's target: of insertion and of deletion.

    Pixels of the same value come in an order that is drawn.
    """
    ranks = pixel_ranks(maps, question.options.seed)
    shares, inserted, deleted = Targets(targets.classes, "probability"), list[Tensor](), list[Tensor]()
    with counting(len(maps), f"{name}: insertion and deletion", "image") as progress, torch.inference_mode():
        for places, images, some in question.batches(shares):
            rank = torch.from_numpy(ranks[places]).to(images.device)[:, None]
            blurred = transforms.gaussian_blur(images, [KERNEL, KERNEL], [SIGMA, SIGMA])
            for start, changed in ((blurred, inserted), (images, deleted)):
                end = images if start is blurred else torch.zeros_like(images)
                curve = [
                    some.of(question.subject.net(torch.where(rank < count, end, start)))
                    for count in np.linspace(0, maps[0].size, STEPS + 1).round()
                ]
                changed.append(torch.trapezoid(torch.stack(curve), dx=1 / STEPS, dim=0).cpu())
            progress(len(images))
    return torch.cat(inserted).numpy(), torch.cat(deleted).numpy()


def pixel_ranks(maps: np.ndarray, seed: int) -> np.ndarray:
    """Return for each pixel of maps [N, H, W] how many come before it, the largest values first."""
    flat = maps.reshape(len(maps), -1)
    shuffled = generator(seed, "ties").permutation(flat.shape[1])
    order = shuffled[np.argsort(-flat[:, shuffled], axis=1, kind="stable")]
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(flat.shape[1])[None], axis=1)
    return ranks.reshape(maps.shape)
