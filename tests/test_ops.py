"""Warps: torchvision's results for the same parameters, one set a sample, in pixels of 0..255."""

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as oracle

from cnntrain.data.augment.ops import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    displaced,
    displacements,
    inverse_affine,
    resample,
)
from cnntrain.runtime.seeding import generator


@pytest.mark.parametrize(("height", "width"), [(13, 13), (9, 20), (16, 7)])
def test_resample_agrees_with_torchvision(height: int, width: int) -> None:
    rng = generator(0, "affine", height)
    x = torch.from_numpy(rng.uniform(0, 255, (16, 3, height, width))).float()
    angle, scale = torch.from_numpy(rng.uniform(-90, 90, 16)), torch.from_numpy(rng.uniform(0.6, 1.5, 16))
    shift, shear = torch.from_numpy(rng.uniform(-3, 3, (16, 2))), torch.from_numpy(rng.uniform(-30, 30, (16, 2)))

    def expected(image: Tensor, i: int) -> Tensor:
        return oracle.affine(
            image,
            angle=angle[i].item(),
            translate=shift[i].tolist(),
            scale=scale[i].item(),
            shear=shear[i].tolist(),
            interpolation=oracle.InterpolationMode.BILINEAR,
        )

    warped = resample(x, inverse_affine(angle, shift, scale, shear))
    torch.testing.assert_close(
        warped, torch.stack([expected(image, i) for i, image in enumerate(x)]), rtol=0, atol=5e-3
    )
    assert warped.is_contiguous(memory_format=torch.channels_last)


def test_a_map_and_the_one_back_meet() -> None:
    rng = generator(0, "inverse")
    angle, shift = torch.from_numpy(rng.uniform(-180, 180, 9)), torch.from_numpy(rng.uniform(-4, 4, (9, 2)))
    scale, shear = torch.from_numpy(rng.uniform(0.5, 2, 9)), torch.zeros(9, 2, dtype=torch.float64)
    there = inverse_affine(angle, torch.zeros_like(shift), scale, shear)[..., :2]
    back = inverse_affine(-angle, torch.zeros_like(shift), 1 / scale, shear)[..., :2]
    torch.testing.assert_close(there @ back, torch.eye(2, dtype=torch.float64).expand(9, 2, 2))
    moved = inverse_affine(angle, shift, scale, shear)
    torch.testing.assert_close(
        (moved[..., :2] @ shift.unsqueeze(-1))[..., 0], -moved[..., 2]
    )  # the centre moves by shift


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (adjust_brightness, oracle.adjust_brightness),
        (adjust_contrast, oracle.adjust_contrast),
        (adjust_saturation, oracle.adjust_saturation),
    ],
)
def test_a_factor_means_what_it_means_in_torchvision(ours, theirs) -> None:
    x, factors = (
        torch.from_numpy(generator(0, "factor").uniform(0, 255, (5, 3, 6, 7))).float(),
        [0.0, 0.4, 1.0, 1.3, 3.0],
    )
    expected = torch.stack([theirs(image / 255, factor) for image, factor in zip(x, factors, strict=True)])
    torch.testing.assert_close(ours(x, torch.tensor(factors)) / 255, expected, rtol=0, atol=1e-5)


def test_hue_handles_grey_and_equal_channels() -> None:
    level = torch.tensor([0.0, 100.0, 255.0])
    x = torch.stack(torch.meshgrid(level, level, level, indexing="ij")).reshape(1, 3, 3, 9)
    for turn in (-0.5, -0.2, 0.0, 1 / 3, 0.5):
        changed = adjust_hue(x, torch.tensor([turn]))
        torch.testing.assert_close(changed / 255, oracle.adjust_hue(x / 255, turn), rtol=0, atol=1e-5)
    torch.testing.assert_close(adjust_hue(x, torch.tensor([1 / 3])), x.roll(1, 1), rtol=0, atol=1e-3)


def test_a_displacement_of_whole_pixels_shifts_and_none_changes_nothing() -> None:
    x = torch.from_numpy(generator(0, "displaced").uniform(0, 255, (2, 3, 9, 13))).float()
    torch.testing.assert_close(displaced(x, torch.zeros(2, 2, 9, 13)), x, rtol=0, atol=1e-3)
    by = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1).expand(2, 2, 9, 13)
    moved = displaced(x, by)
    torch.testing.assert_close(moved[:, :, 1:, :-2], x[:, :, :-1, 2:], rtol=0, atol=1e-3)
    torch.testing.assert_close(moved[:, :, 0, :-2], x[:, :, 0, 2:], rtol=0, atol=1e-3)  # mirrored beyond the border


def test_a_coarse_grid_lies_on_corners_and_middles_and_is_smooth_between() -> None:
    coarse = torch.from_numpy(generator(0, "coarse").standard_normal((2, 2, 3, 3))).float()
    fine = displacements(coarse, 9, 13)
    torch.testing.assert_close(fine[:, :, ::4, ::6], coarse)
    assert fine.diff(dim=3).diff(dim=3).abs().max() < coarse.abs().max() / 4
