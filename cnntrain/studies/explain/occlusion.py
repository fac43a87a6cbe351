"""Occlusion: how far the class's probability falls when a patch covers a part of the image.

Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 4.2. They give neither the
patch's size nor its step nor its grey: these are options, and the page names them. A pixel's value is the mean over all
patches that cover it.
"""

import itertools

import torch
from torch import Tensor

from cnntrain.runtime.errors import InputError
from cnntrain.studies.explain.attribution import Attribution, AttributionMaps
from cnntrain.studies.explain.options import Explain, OcclusionOptions
from cnntrain.studies.explain.question import Subject, Targets, grey_image


def occlusion_maps(subject: Subject, images: Tensor, targets: Targets, options: Explain) -> AttributionMaps:
    """Return by how much the explained number falls where a patch covers the image, averaged over patches."""
    patch, stride = patch_and_stride(options.occlusion, subject.info.shape)
    grey = grey_image(subject, options.occlusion.fill)
    windows = patches(images.shape[2:], patch, stride)
    maps = [
        occluded(subject, image, targets.take(slice(i, i + 1)), grey, windows, options.batch_size)
        for i, image in enumerate(images)
    ]
    return AttributionMaps(torch.stack(maps))


def patch_and_stride(options: OcclusionOptions, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Return the sides of the patch and its step in pixels: a quarter of the image and a quarter of that, unless said.

    Raises `InputError` for a patch that does not fit, and for a step that leaves pixels uncovered.
    """
    side = min(shape[1:])
    patch = options.patch or max(1, side // 4)
    stride = options.stride or max(1, patch // 4)
    if patch >= side:
        raise InputError(f"occlusion.patch={patch} covers an image of {side} pixels whole; take at most {side // 2}")
    if stride > patch:
        raise InputError(f"occlusion.stride={stride} leaves pixels out; take at most the patch's side, {patch}")
    return patch, stride


def patches(size: tuple[int, ...], patch: int, stride: int) -> list[tuple[slice, slice]]:
    """Return the windows of all patches, row by row; the last ones are cut off at the border."""
    starts = [range(0, side - patch + stride, stride) for side in size]
    return [
        (slice(top, min(top + patch, size[0])), slice(left, min(left + patch, size[1])))
        for top, left in itertools.product(*starts)
    ]


@torch.inference_mode()
def occluded(
    subject: Subject, image: Tensor, target: Targets, grey: Tensor, windows: list[tuple[slice, slice]], batch_size: int
) -> Tensor:
    """Return the map [H, W] of one image [C, H, W]."""
    before = target.of(subject.net(image[None].clone()))  # which it may overwrite
    total, covered = (torch.zeros(image.shape[1:], dtype=torch.float64, device=image.device) for _ in range(2))
    for start in range(0, len(windows), batch_size):
        some = windows[start : start + batch_size]
        batch = image.repeat(len(some), 1, 1, 1)
        for covering, (rows, columns) in zip(batch, some, strict=True):
            covering[:, rows, columns] = grey[:, rows, columns]
        repeated = Targets(target.classes.expand(len(some)), target.quantity)
        falls = before - repeated.of(subject.net(batch))
        for fall, window in zip(falls, some, strict=True):
            total[window] += fall
            covered[window] += 1
    return (total / covered).float()


OCCLUSION = Attribution(
    occlusion_maps,
    "fall of the {quantity}",
    signed=True,
    usual="probability",
    remark="A patch covers a part of the image: where the number falls most, the class depends on what is covered. "
    "Blue means that the class is more likely without that part.",
)
