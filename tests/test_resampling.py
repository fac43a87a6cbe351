"""Moving pixels: exact where positions fall on pixels, by oracles elsewhere, and the families built of it."""

import math

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

from cnntrain.cli.main import config_dir
from cnntrain.config.validate import signature
from cnntrain.runtime.errors import InputError
from cnntrain.transforms.families import TRANSFORMS
from cnntrain.transforms.resampling import Motion, sample, sampling, turn
from cnntrain.transforms.transform import floor_of, padding_of

SHAPE = (3, 9, 12)
CPU = torch.device("cpu")


@pytest.fixture
def x() -> Tensor:
    return torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0)) * 255


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_the_neutral_amount_returns_the_pixels_to_the_bit(name: str, x: Tensor) -> None:
    transform = TRANSFORMS[name](SHAPE)
    assert transform.neutral in transform.amounts
    assert torch.equal(transform.change(x, transform.neutral, np.arange(3)), x)
    if transform.attack is not None:  # nothing is changed without a network to ask
        return
    others = [a for a in transform.amounts if a != transform.neutral]
    assert all(not torch.equal(transform.change(x, amount, np.arange(3)), x) for amount in (others[0], others[-1]))


@pytest.mark.parametrize("border", ["zero", "reflect", "edge", "circular"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_whole_shifts_move_pixels_as_padding_and_slicing_do(border: str, interpolation: str, x: Tensor) -> None:
    mode = {"zero": "constant", "reflect": "reflect", "edge": "replicate", "circular": "circular"}[border]
    padded = F.pad(x, (5, 5, 5, 5), mode=mode)
    for dx, dy in ((0, 3), (-2, 0), (5, -4)):
        expected = padded[:, :, 5 - dy : 5 - dy + 9, 5 - dx : 5 - dx + 12]
        how = sampling(Motion(shift=(dx, dy)), SHAPE[1:], border=border, interpolation=interpolation)  # type: ignore[arg-type]
        assert torch.equal(sample(x, how), expected)


@pytest.mark.parametrize("quarters", [-3, -1, 1, 2, 3, 4])
def test_quarter_turns_and_flips_are_permutations(quarters: int) -> None:
    x = torch.rand(2, 1, 8, 8)
    how = sampling(Motion(turn(90.0 * quarters)), (8, 8))
    assert torch.equal(sample(x, how), x.rot90(-quarters, (2, 3)))
    for name, axis in (("flip_x", 3), ("flip_y", 2)):
        assert torch.equal(TRANSFORMS[name]((1, 8, 8)).change(x, (1.0,), np.arange(2)), x.flip(axis))


def test_bilinear_rotation_scale_and_shear_agree_with_torch(x: Tensor) -> None:
    for motion in (
        Motion(turn(33.0)),
        Motion(((1.7, 0.0), (0.0, 1.7))),
        Motion(((1.0, 0.4), (0.0, 1.0)), shift=(0.3, -1.2)),
        Motion(turn(-70.0), centre=(1.5, -2.0)),
    ):
        (a, b), (c, d) = motion.back().matrix
        u, v = np.meshgrid(np.arange(12) - 5.5 - motion.centre[0], np.arange(9) - 4.0 - motion.centre[1])
        dx, dy = motion.shift
        across = a * (u - dx) + b * (v - dy) + motion.centre[0]
        down = c * (u - dx) + d * (v - dy) + motion.centre[1]
        grid = torch.from_numpy(np.stack([across * 2 / 12, down * 2 / 9], -1)).float().expand(3, -1, -1, -1)
        expected = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        assert torch.allclose(sample(x, sampling(motion, SHAPE[1:])), expected, atol=2e-3)


def test_bicubic_reproduces_quadratics_and_nearest_takes_pixels() -> None:
    column = torch.arange(16.0)
    quadratic = (3 + 2 * column - 0.5 * column**2).expand(1, 1, 16, 16)
    moved = sample(quadratic, sampling(Motion(shift=(0.3, 0.0)), (16, 16), interpolation="bicubic"))
    back = column - 0.3
    assert torch.allclose(moved[0, 0, 8, 3:-3], (3 + 2 * back - 0.5 * back**2)[3:-3], atol=1e-4)
    x = torch.rand(1, 1, 8, 8)
    near = sample(x, sampling(Motion(turn(25.0)), (8, 8), interpolation="nearest"))
    assert set(near.flatten().tolist()) <= {0.0, *x.flatten().tolist()}


def test_motions_undo_themselves_and_say_what_room_they_need() -> None:
    motion = Motion(((1.2, 0.3), (-0.1, 0.8)), shift=(2.0, -3.0), centre=(1.0, 0.5))
    (a, b), (c, d) = motion.matrix
    (e, f), (g, h) = motion.back().matrix
    assert np.allclose(np.array([[a, b], [c, d]]) @ np.array([[e, f], [g, h]]), np.eye(2))
    x = F.pad(torch.rand(1, 1, 6, 6), (9, 9, 9, 9))
    smooth = F.avg_pool2d(x, 5, 1, 2)
    there_and_back = sample(sample(smooth, sampling(motion, (24, 24))), sampling(motion.back(), (24, 24)))
    assert (there_and_back - smooth).abs().mean() < 0.02
    assert Motion(shift=(0.0, 3.0)).reach((10, 10)) == 3 and Motion(turn(90.0)).reach((10, 10)) == 0
    assert Motion(turn(45.0)).reach((10, 10)) == math.ceil(5 * math.sqrt(2) - 5)


def test_the_floor_is_nothing_for_exact_amounts_and_something_between(x: Tensor) -> None:
    shift, rotate = TRANSFORMS["translate_y"](SHAPE, amounts=[3.0, 2.5]), TRANSFORMS["rotate"](SHAPE)
    for border in ("zero", "reflect", "edge", "circular"):
        transform = TRANSFORMS["translate_y"](SHAPE, border=border)
        assert torch.equal(floor_of(transform, (4.0,), CPU)(x), x)  # though the warp itself loses rows
    assert not torch.equal(floor_of(shift, (2.5,), CPU)(x), x)
    assert torch.equal(floor_of(rotate, (180.0,), CPU)(x), x)
    blurred = floor_of(rotate, (18.0,), CPU)(x)
    assert 1 < (blurred - x).abs().mean() < 80


def test_padding_only_changes_what_the_border_covers(x: Tensor) -> None:
    transform = TRANSFORMS["translate_y"](SHAPE)
    control = padding_of(transform, (3.0,), CPU)(x)
    assert torch.equal(control[:, :, 3:], x[:, :, 3:]) and not control[:, :, :3].any()
    edge = padding_of(TRANSFORMS["translate_x"](SHAPE, border="edge"), (-2.0,), CPU)(x)
    assert torch.equal(edge[..., :-2], x[..., :-2]) and torch.equal(edge[..., -1], x[..., -1])


def test_a_cropped_shift_shows_what_lies_beside_the_frame() -> None:
    larger = torch.rand(2, 1, 14, 14)
    transform = TRANSFORMS["translate_x"]((1, 8, 8), amounts=[-3, 0, 2], border="crop")
    assert transform.margin == 3
    for amount in (-3, 0, 2):
        expected = larger[:, :, 3:11, 3 - amount : 11 - amount]
        assert torch.equal(transform.change(larger, (float(amount),), np.arange(2)), expected)


def test_blur_keeps_the_mean_and_noise_is_an_images_own(x: Tensor) -> None:
    flat = torch.full((1, 1, 9, 9), 100.0)
    assert torch.allclose(TRANSFORMS["blur"]((1, 9, 9)).change(flat, (2.0,), np.arange(1)), flat)
    noise = TRANSFORMS["noise"](SHAPE)
    together = noise.change(x, (0.1,), np.array([4, 7, 9]))
    alone = noise.change(x[1:2], (0.1,), np.array([7]))
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(together, TRANSFORMS["noise"](SHAPE, seed=1).change(x, (0.1,), np.array([4, 7, 9])))
    added = noise.change(torch.full((1, *SHAPE), 127.0), (0.1,), np.array([0])) - 127
    assert added.std() == pytest.approx(25.5, rel=0.2)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("translate_y", {"amounts": [9]}),
        ("translate_x", {"amounts": [-20]}),
        ("translate", {"amounts": [0, 12]}),
        ("scale", {"amounts": [0]}),
        ("rotate", {"amounts": [400]}),
        ("shear", {"amounts": [90]}),
        ("noise", {"amounts": [-0.1]}),
        ("blur", {"amounts": []}),
        ("rotate", {"centre": [0.5, 2]}),
    ],
)
def test_amounts_without_sense_are_refused(name: str, options: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"warp.{name}"):
        TRANSFORMS[name](SHAPE, **options)


def test_every_warp_has_a_file_with_its_defaults() -> None:
    files = {path.stem: yaml.safe_load(path.read_text()) for path in (config_dir() / "warp").glob("*.yaml")}
    standard = files.pop("standard")
    assert standard == {"defaults": ["translate_y", "scale", "rotate"]} and set(files) == set(TRANSFORMS)
    for name, content in files.items():
        own = {key: parameter.default for key, parameter in signature(TRANSFORMS[name]).items()}
        assert content[name] == {key: list(v) if isinstance(v, tuple) else v for key, v in own.items()}
