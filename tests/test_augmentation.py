"""Augmentation: torchvision's results for the same parameters, draws that nothing else disturbs, no look at a value."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms.v2 import functional as oracle

from cnntrain.data.augment.augmentations import (
    AUGMENTATIONS,
    Augmentation,
    Plan,
    affine,
    alternating_flip,
    colour,
    crop,
    cutout,
    elastic,
    flip,
    mixup,
    resized_crop,
)
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.seeding import generator

RECIPES = sorted((Path(__file__).parents[1] / "conf" / "augmentation").glob("*.yaml"))

EVERY = {
    "flip": flip(),
    "alternating_flip": alternating_flip(),
    "crop": crop(2),
    "crop, black": crop(2, "zero"),
    "resized_crop": resized_crop(),
    "affine": affine(0.1, 20, 0.2, 10),
    "elastic": elastic(0.05),
    "colour": colour(0.4, 0.4, 0.4, 0.2),
    "cutout": cutout(3),
    "mixup": mixup(1.0),
}


SHAPE = (12, 16)  # of the images below


def plan(*, seed: int = 0, epoch: int = 0, steps: int = 3, batch: int = 8, size: int = 24) -> Plan:
    index = generator(seed, "order", epoch).permutation(size)[: steps * batch].reshape(steps, batch)
    return Plan(seed, epoch, size, index, SHAPE)


def draw(part: Augmentation, name: str, shown: Plan) -> Tensor:
    return part.draw(generator(shown.seed, name, shown.epoch), shown)


def images(batch: int = 8, channels: int = 3, height: int = 12, width: int = 16) -> Tensor:
    values = generator(0, "images").integers(0, 256, size=(batch, channels, height, width))
    return torch.from_numpy(values).float().contiguous(memory_format=torch.channels_last)


def gather(x: Tensor, parts: Iterable[tuple[Augmentation, Tensor]]) -> Tensor:
    """The loader's gather, pixel by pixel: augmentations act in order, so their positions are asked for backwards."""
    batch, _, height, width = x.shape
    rows, cols = torch.arange(height).expand(batch, -1), torch.arange(width).expand(batch, -1)
    for part, drawn in reversed(list(parts)):
        assert part.place is not None
        rows, cols = part.place(rows, cols, height, width, drawn)
    result = torch.zeros_like(x)
    for sample in range(batch):
        for i, row in enumerate(rows[sample].tolist()):
            for j, col in enumerate(cols[sample].tolist()):
                if 0 <= row < height and 0 <= col < width:
                    result[sample, :, i, j] = x[sample, :, row, col]
    return result


def each(x: Tensor, change: Callable[[Tensor, int], Tensor]) -> Tensor:
    """The oracle's result sample by sample."""
    return torch.stack([change(image, sample) for sample, image in enumerate(x)])


def cropped(image: Tensor, by: Tensor, padding: int, mode: str) -> Tensor:
    padded = oracle.pad(image, [padding] * 4, padding_mode=mode)
    down, across = (by + padding).tolist()
    return oracle.crop(padded, down, across, *image.shape[1:])


def is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


def apply(part: Augmentation, x: Tensor, target: Tensor, drawn: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Everything the part does to a batch, its gather left out."""
    if part.place:
        rows = torch.arange(x.shape[2], device=x.device).expand(len(x), -1)
        cols = torch.arange(x.shape[3], device=x.device).expand(len(x), -1)
        part.place(rows, cols, x.shape[2], x.shape[3], drawn)
    if part.pixels:
        x = part.pixels(x, drawn)
    if part.batch:
        x, target = part.batch(x, target, drawn, classes)
    return x, target


# Draws


@pytest.mark.parametrize("name", EVERY)
def test_draws_depend_on_seed_epoch_and_name_alone(name: str) -> None:
    part, here = EVERY[name], plan(seed=3, epoch=5)
    drawn = draw(part, name, here)
    assert drawn.device.type == "cpu"
    assert drawn.shape[:2] == here.index.shape
    for other in EVERY:
        draw(EVERY[other], other, plan(seed=9))
    assert torch.equal(drawn, draw(part, name, here))


@pytest.mark.parametrize("name", EVERY)
def test_draws_differ_between_seeds_epochs_and_names(name: str) -> None:
    part, index = EVERY[name], np.arange(64).reshape(2, 32)
    drawn = draw(part, name, Plan(1, 0, 64, index, SHAPE))
    assert not torch.equal(drawn, draw(part, name, Plan(1 + 2**32, 0, 64, index, SHAPE)))
    assert not torch.equal(drawn, draw(part, name, Plan(1, 1, 64, index, SHAPE)))
    if name != "alternating_flip":
        assert not torch.equal(drawn, draw(part, "another", Plan(1, 0, 64, index, SHAPE)))


@pytest.mark.parametrize("name", ["crop", "crop, black", "affine", "elastic", "colour", "cutout", "mixup"])
def test_every_sample_has_its_own_draw(name: str) -> None:
    drawn = draw(EVERY[name], name, Plan(0, 0, 64, np.arange(64).reshape(8, 8), SHAPE))
    rows = drawn.reshape(64, -1)
    assert len(rows.unique(dim=0)) >= (20 if name.startswith("crop") else 60)  # a crop by 2 has 25 places


def test_what_an_option_draws_does_not_move_the_others() -> None:
    shown = plan()
    mild, strong = draw(colour(0.2, 0.2), "colour", shown), draw(colour(0.2, 0.2, 0.9, 0.5), "colour", shown)
    assert torch.equal(mild[..., :2], strong[..., :2])
    assert not torch.equal(mild[..., 2:], strong[..., 2:])


# Positions


def test_flip_mirrors_the_share_it_is_asked_for() -> None:
    x, drawn = images(), draw(flip(), "flip", plan())[0]
    assert 0 < drawn.sum() < len(drawn)
    expected = each(x, lambda image, i: oracle.horizontal_flip(image) if drawn[i] else image)
    assert torch.equal(gather(x, [(flip(), drawn)]), expected)
    many = Plan(0, 0, 4000, np.arange(4000).reshape(4, 1000))
    assert abs(draw(flip(0.3), "flip", many).float().mean() - 0.3) < 0.03
    assert not draw(flip(0.0), "flip", many).any()
    assert draw(flip(1.0), "flip", many).all()


def test_alternating_flips_alternate_for_each_image() -> None:
    part, flipped = alternating_flip(), torch.empty(6, 24, dtype=torch.bool)
    for epoch in range(6):
        shown = plan(epoch=epoch)
        flipped[epoch, torch.from_numpy(shown.index).flatten()] = draw(part, "alternating_flip", shown).flatten()
    assert torch.equal(flipped[1:], ~flipped[:-1])
    assert 0 < flipped[0].sum() < 24


@pytest.mark.parametrize(("border", "mode"), [("reflect", "reflect"), ("zero", "constant")])
def test_crop_is_a_window_of_the_padded_image(border: str, mode: str) -> None:
    part = crop(5, border)
    x, drawn = images(height=7, width=9), draw(part, "crop", plan())[0]
    assert torch.equal(gather(x, [(part, drawn)]), each(x, lambda image, i: cropped(image, drawn[i], 5, mode)))
    assert part.outside == (border == "zero")


def test_crop_reaches_every_place() -> None:
    drawn = draw(crop(2), "crop", Plan(0, 0, 1000, np.arange(1000).reshape(1, 1000)))[0]
    assert sorted(map(tuple, drawn.unique(dim=0).tolist())) == [(i, j) for i in range(-2, 3) for j in range(-2, 3)]


@pytest.mark.parametrize(("first", "second"), [("reflect", "zero"), ("zero", "reflect"), ("zero", "zero")])
def test_places_compose_and_black_stays_black(first: str, second: str) -> None:
    mode = {"reflect": "reflect", "zero": "constant"}
    a, b, mirror = crop(3, first), crop(3, second), flip()
    x, shown = images(), plan(seed=2)
    drawn = [draw(part, name, shown)[0] for part, name in ((a, "a"), (mirror, "flip"), (b, "b"))]

    def expected(image: Tensor, i: int) -> Tensor:
        image = cropped(image, drawn[0][i], 3, mode[first])
        image = oracle.horizontal_flip(image) if drawn[1][i] else image
        return cropped(image, drawn[2][i], 3, mode[second])

    assert torch.equal(gather(x, zip((a, mirror, b), drawn, strict=True)), each(x, expected))


def test_crop_refuses_what_cannot_be_reflected() -> None:
    here, place = torch.arange(4).expand(1, -1), crop(4).place
    assert place is not None
    with pytest.raises(InputError, match=r"padding=4 .*4×4.*padding=3 .*border=zero"):
        place(here, here, 4, 4, torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(InputError, match="border .*'reflect'"):
        crop(border="reflct")
    with pytest.raises(InputError, match="interpolation .*'bilinear'"):
        affine(interpolation="biliner")


# Pixels


def test_affine_draws_within_its_ranges_and_shifts_by_its_share_of_the_shorter_side() -> None:
    shown = Plan(0, 0, 2000, np.arange(2000).reshape(2, 1000))
    inverse = draw(affine(zoom=0.25), "affine", shown)
    scale = 1 / inverse[..., 0, 0]
    assert 1 / 1.25 <= scale.min() < 0.81
    assert 1.24 < scale.max() <= 1.25
    assert abs(scale.log().mean()) < 0.01
    turned = draw(affine(rotate=30), "affine", shown)
    angle = torch.rad2deg(torch.atan2(turned[..., 0, 1], turned[..., 0, 0]))
    assert -30 <= angle.min() < -29.5
    assert 29.5 < angle.max() <= 30
    slanted = draw(affine(shear=45), "affine", shown)[..., 0, 1]
    assert -1 <= slanted.min() < -0.95
    assert 0.95 < slanted.max() <= 1
    moved = draw(affine(shift=0.25), "affine", shown)
    torch.testing.assert_close(moved[..., :2], torch.eye(2).expand(2, 1000, 2, 2))
    assert 0.24 < moved[..., 2].abs().max() <= 0.25
    one_right = torch.tensor([[[1.0, 0.0, -1 / 8], [0.0, 1.0, 0.0]]])
    x, part = images(1, 3, 8, 12), affine(shift=0.25)
    assert part.pixels is not None
    torch.testing.assert_close(part.pixels(x, one_right)[..., 1:], x[..., :-1], rtol=0, atol=1e-3)


def test_affine_at_rest_is_the_identity_in_both_interpolations() -> None:
    for part in (affine(), affine(interpolation="nearest")):
        assert part.pixels is not None
        x = images(height=11, width=14)
        torch.testing.assert_close(part.pixels(x, draw(part, "affine", plan())[0]), x, rtol=0, atol=1e-3)


def test_nearest_invents_no_grey_between_black_and_white() -> None:
    x = (images() > 127).float() * 255
    for interpolation, only in (("nearest", True), ("bilinear", False)):
        part = affine(0.1, 20, 0.2, 10, interpolation)
        assert part.pixels is not None
        values = part.pixels(x, draw(part, "affine", plan())[0])
        assert ((values == 0) | (values == 255)).all() == only


@pytest.mark.parametrize("channels", [1, 3])
def test_colour_agrees_with_torchvision(channels: int) -> None:
    part = colour(0.8, 0.8, 0.8, 0.5)
    x, drawn = images(channels=channels), draw(part, "colour", plan())[0]
    assert part.pixels is not None

    def expected(image: Tensor, i: int) -> Tensor:
        brightness, contrast, saturation, hue = drawn[i].tolist()
        image = oracle.adjust_contrast(oracle.adjust_brightness(image / 255, brightness), contrast)
        return oracle.adjust_hue(oracle.adjust_saturation(image, saturation), hue)

    changed = part.pixels(x, drawn)
    torch.testing.assert_close(changed / 255, each(x, expected), rtol=0, atol=1e-4)
    assert is_channels_last(changed)


def test_colour_factors_stay_in_their_ranges() -> None:
    shown = Plan(0, 0, 2000, np.arange(2000).reshape(2, 1000))
    low, high = draw(colour(0.2, 1.5, 0.0, 0.1), "colour", shown).flatten(0, 1).aminmax(dim=0)
    torch.testing.assert_close(low, torch.tensor([0.8, 0.0, 1.0, -0.1]), rtol=0, atol=0.01)
    torch.testing.assert_close(high, torch.tensor([1.2, 2.5, 1.0, 0.1]), rtol=0, atol=0.01)


# Batches


@pytest.mark.parametrize("size", [1, 4, 5])
def test_cutout_hides_a_square_clipped_at_the_border(size: int) -> None:
    part, height, width = cutout(size), 11, 14
    assert part.batch is not None
    centre = torch.tensor([[0.5, 0.5], [0.0, 0.0], [0.999, 0.999], [0.5, 0.0]])
    x, _ = part.batch(torch.ones(4, 2, height, width), torch.zeros(4), centre, 2)
    hidden = (x == 0).sum((2, 3))
    before, after = size // 2, size - size // 2  # the centre counts to what comes after
    assert torch.equal(hidden[:, 0], hidden[:, 1])
    assert hidden[:, 0].tolist() == [size**2, after**2, (before + 1) ** 2, size * after]
    for sample in x[:, 0] == 0:
        rows, cols = sample.any(1), sample.any(0)
        assert torch.equal(sample, rows[:, None] & cols)
        assert int(rows.sum()) == int(rows.nonzero().max() - rows.nonzero().min()) + 1


def test_cutout_leaves_the_rest_and_the_target_alone() -> None:
    x, target = images() + 1, torch.arange(8)
    assert EVERY["cutout"].batch is not None
    changed, kept = EVERY["cutout"].batch(x, target, draw(EVERY["cutout"], "cutout", plan())[0], 8)
    assert torch.equal(changed[changed != 0], x[changed != 0])
    assert torch.equal(kept, target)


def test_mixup_mixes_what_its_target_says() -> None:
    # An image whose every pixel is its class number shows in its mean what its target must say.
    target = torch.arange(8)
    x = torch.nn.functional.one_hot(target, 8).float()[:, :, None, None].expand(-1, -1, 5, 6)
    x, part = x.contiguous(memory_format=torch.channels_last), mixup(1.0)
    assert part.batch is not None
    drawn = draw(part, "mixup", plan())[0]
    mixed, soft = part.batch(x, target, drawn, 8)
    torch.testing.assert_close(soft.sum(1), torch.ones(8))
    torch.testing.assert_close(mixed.mean((2, 3)), soft)
    weight, partner = drawn[:, 0], drawn[:, 1].long()
    assert partner.sort().values.tolist() == list(range(8))
    other = partner != target
    assert other.any()
    torch.testing.assert_close(soft[target, target][other], weight[other])
    again, softer = part.batch(mixed, soft, drawn, 8)
    torch.testing.assert_close(again.mean((2, 3)), softer)


def test_mixup_draws_its_weights_from_a_beta_distribution() -> None:
    shown = Plan(0, 0, 20000, np.arange(20000).reshape(100, 200))
    weight = draw(mixup(0.2), "mixup", shown)[..., 0]
    assert weight.min() >= 0
    assert weight.max() <= 1
    assert abs(weight.mean() - 0.5) < 0.01
    assert abs(weight.var() - 1 / (4 * (2 * 0.2 + 1))) < 0.01


# What holds for all


class Forbidden(TorchDispatchMode):
    """Fail on what reads a value on the host or has a shape that depends on one."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        masks = name == "aten.index.Tensor" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if masks or any(word in name for word in ("_local_scalar_dense", "nonzero", "masked_select", "unique")):
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


def test_the_guard_sees_what_waits() -> None:
    x = torch.arange(3)
    for waits in (lambda: x.max().item(), lambda: x[x > 1], lambda: x.nonzero(), lambda: bool(x[0])):
        with pytest.raises(AssertionError, match="waits for the device"), Forbidden():
            waits()


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_waits_for_the_device_and_channels_last_is_kept(name: str, channels: int) -> None:
    x, target = images(channels=channels), torch.arange(8)
    drawn, before = draw(EVERY[name], name, plan())[0], x.clone()
    with Forbidden():
        changed, _ = apply(EVERY[name], x, target, drawn, 8)
    assert is_channels_last(changed)
    assert changed.dtype == torch.float32
    assert changed.shape == x.shape
    assert torch.equal(x, before)  # the batch it was given is not written to


@pytest.mark.parametrize("name", EVERY)
def test_helper_tensors_live_where_the_batch_does(name: str) -> None:
    """On the meta device a tensor left on the CPU fails, and so does any look at a value."""
    drawn = draw(EVERY[name], name, plan())[0].to("meta")
    changed, _ = apply(EVERY[name], images().to("meta"), torch.arange(8).to("meta"), drawn, 8)
    assert changed.device.type == "meta"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_lists_every_option_of_its_parts_in_the_order_they_act(recipe: Path) -> None:
    text = recipe.read_text(encoding="utf-8")
    assert text.startswith("# ")
    content: Mapping[str, Mapping[str, object]] = yaml.safe_load(text)
    stages = []
    for name, options in content.items():
        maker = AUGMENTATIONS[name]
        assert list(options) == list(inspect.signature(maker).parameters)
        part = maker(**options)
        stages.append([bool(part.place), bool(part.pixels or part.window), bool(part.batch)].index(True))
    assert stages == sorted(stages)


def test_the_recipes_are_there() -> None:
    assert {path.stem for path in RECIPES} >= {"none", "digits", "crop_flip", "strong"}


def test_no_part_does_nothing() -> None:
    assert set(AUGMENTATIONS) == {name.partition(",")[0] for name in EVERY}
    for part in EVERY.values():
        assert sum(map(bool, (part.place, part.pixels, part.window, part.batch))) == 1
