"""Feeds: the same batches whichever way the pixels come, in an order that is a function of (seed, epoch)."""

from collections.abc import Callable
from contextlib import closing

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cnntrain.data.augment.augmentations import AUGMENTATIONS, Augmentation
from cnntrain.data.loading.batch import Batch, Store
from cnntrain.data.loading.loader import ResidentLoader, StreamedLoader, eval_batches, plan_epoch
from cnntrain.data.loading.normalise import Normalise, denormalised, normalised
from cnntrain.data.storage.images import DatasetInfo, Pixels, Split
from cnntrain.runtime.errors import InputError

CPU = torch.device("cpu")
Recipe = Callable[[], dict[str, Augmentation]]


def info(channels: int) -> DatasetInfo:
    return DatasetInfo(
        "drawn", ("a", "b", "c"), (channels, 12, 10), (0.4, 0.5, 0.6)[:channels], (0.2, 0.3, 0.1)[:channels]
    )


def split(channels: int, count: int = 50) -> Split:
    generator = torch.Generator().manual_seed(channels)
    images = torch.randint(256, (count, 12, 10, channels), dtype=torch.uint8, generator=generator)
    return Split(Pixels(images), torch.randint(3, (count,), generator=generator))


def everything() -> dict[str, Augmentation]:
    return {
        "flip": AUGMENTATIONS["flip"](),
        "crop": AUGMENTATIONS["crop"](padding=2, border="zero"),
        "affine": AUGMENTATIONS["affine"](shift=0.1, rotate=10.0, zoom=0.1),
        "colour": AUGMENTATIONS["colour"](brightness=0.2, contrast=0.2),
        "cutout": AUGMENTATIONS["cutout"](size=4),
        "mixup": AUGMENTATIONS["mixup"](alpha=0.4),
    }


def crop_flip() -> dict[str, Augmentation]:
    return {"flip": AUGMENTATIONS["flip"](), "crop": AUGMENTATIONS["crop"](padding=2)}


RECIPES: dict[str, Recipe] = {"none": dict, "crop_flip": crop_flip, "everything": everything}


def resident(channels: int, recipe: str, **settings: object) -> ResidentLoader:
    options = {"batch_size": 8, "seed": 1, **settings}
    return ResidentLoader(split(channels), info(channels), device=CPU, parts=RECIPES[recipe](), **options)


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("channels", [1, 3])
def test_without_augmentation_a_batch_is_the_planned_images_normalised(channels: int) -> None:
    loader, data = resident(channels, "none"), split(channels)
    loader.seek(2, 3)
    x, target, labels = loader.batch()
    index = torch.from_numpy(plan_epoch(data.labels.numpy(), 8, 1, 2, balanced=False).index[3])
    expected = data.source.read(index.numpy()).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (info(channels).mean, info(channels).std))
    torch.testing.assert_close(x, (expected - mean) / std, rtol=1e-5, atol=1e-5)
    assert torch.equal(labels, data.labels[index]) and target is labels


@pytest.mark.parametrize("channels", [1, 3])
def test_flip_and_crop_in_one_gather_equal_padding_flipping_and_slicing(channels: int) -> None:
    loader, data = resident(channels, "crop_flip"), split(channels)
    loader.seek(0, 0)
    x = loader.batch().images
    images = data.source.read(loader.plan.index[0]).permute(0, 3, 1, 2).float()
    normalise = Normalise(info(channels), CPU)
    for row in range(8):
        image = images[row].flip(2) if loader.drawn["flip"][0, row] else images[row]
        padded = torch.nn.functional.pad(image[None], (2, 2, 2, 2), mode="reflect")[0]
        candidates = [padded[:, i : i + 12, j : j + 10] for i in range(5) for j in range(5)]
        assert any(
            torch.allclose(normalise(c.permute(1, 2, 0)[None].contiguous())[0], x[row], atol=1e-5) for c in candidates
        )


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_normalised_alike_from_bytes_and_numbers_and_back(channels: int) -> None:
    facts, pixels = info(channels), split(channels).source.read(range(4))
    expected = (pixels.numpy() / 255 - np.array(facts.mean)) / np.array(facts.std)
    images = Normalise(facts, CPU)(pixels)
    numbers = pixels.permute(0, 3, 1, 2).float()
    np.testing.assert_allclose(images.permute(0, 2, 3, 1), expected, atol=1e-5)
    torch.testing.assert_close(normalised(numbers, facts), images)
    torch.testing.assert_close(denormalised(images, facts), numbers, atol=1e-3, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_streamed_equals_resident_to_the_bit_and_can_start_anywhere(channels: int, recipe: str) -> None:
    settings = {"batch_size": 8, "seed": 1, "device": CPU, "parts": RECIPES[recipe]()}
    loader = resident(channels, recipe)
    with closing(StreamedLoader(split(channels), info(channels), workers=1, **settings)) as streamed:
        for epoch, place in [(0, 0), (0, 1), (0, 4), (1, 2), (1, 3), (0, 5)]:
            loader.seek(epoch, place)
            streamed.seek(epoch, place)
            assert same(loader.batch(), streamed.batch()), (epoch, place)


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_a_batch_is_a_function_of_seed_epoch_and_place(recipe: str) -> None:
    one, other, unlike = resident(3, recipe), resident(3, recipe), resident(3, recipe, seed=1 + 2**32)
    one.seek(0, 0)
    one.batch()
    for loader in (one, other, unlike):
        loader.seek(3, 2)
    assert same(one.batch(), other.batch())
    assert not torch.equal(one.batch().images, unlike.batch().images)


@pytest.mark.parametrize("border", ["reflect", "zero"])
def test_a_label_map_moves_by_the_gather_of_its_image(border: str) -> None:
    """The map of an image is the image itself: wherever a pixel goes, its label goes."""
    maps = torch.randint(1, 256, (12, 9, 8, 1), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    parts = {"crop": AUGMENTATIONS["crop"](padding=3, border=border), "flip": AUGMENTATIONS["flip"]()}
    identity = DatasetInfo("maps", ("a", "b"), (1, 9, 8), (0.0,), (1 / 255,))
    data = Split(Pixels(maps), torch.arange(12) % 2)
    loader = ResidentLoader(data, identity, batch_size=4, parts=parts, seed=0, device=CPU)
    loader.seek(0, 1)
    index, drawn = loader.planned()
    rows, cols = loader.render.positions(loader.store, index, drawn)
    moved = Store(maps, CPU).gather(index, rows, cols, outside=loader.render.outside)
    loader.seek(0, 1)
    torch.testing.assert_close(loader.batch().images, moved.permute(0, 3, 1, 2).float())
    assert not torch.equal(moved, maps[index])


def test_targets_of_any_shape_and_type_come_with_their_images() -> None:
    targets = torch.rand(50, 3, 2)
    data = Split(split(1).source, targets)
    loader = ResidentLoader(data, info(1), batch_size=8, parts={}, seed=0, device=CPU)
    loader.seek(0, 2)
    assert torch.equal(loader.batch().labels, targets[loader.plan.index[2]])
    batches = eval_batches(data, info(1), batch_size=20, device=CPU)
    assert torch.equal(torch.cat([target for _, target in batches]), targets)


def test_images_come_in_channels_last() -> None:
    for recipe in RECIPES:
        loader = resident(3, recipe)
        loader.seek(0, 0)
        assert loader.batch().images.is_contiguous(memory_format=torch.channels_last)


def test_mixing_keeps_the_hard_labels_for_scoring() -> None:
    loader = resident(3, "everything")
    loader.seek(0, 0)
    _, target, labels = loader.batch()
    assert target.shape == (8, 3) and labels.dtype == torch.int64
    torch.testing.assert_close(target.sum(1), torch.ones(8))


def test_an_epoch_shows_every_image_at_most_once_and_epochs_differ() -> None:
    labels = np.arange(50) % 3
    first, second = (plan_epoch(labels, 8, 0, epoch, balanced=False).index for epoch in (0, 1))
    assert first.shape == (6, 8) and len(set(first.ravel())) == 48
    assert not np.array_equal(first, second)


def test_balanced_sampling_shows_each_class_equally_often() -> None:
    labels = np.repeat([0, 1, 2], [900, 90, 10])
    plan = plan_epoch(labels, 100, 0, 0, balanced=True)
    counts = np.bincount(labels[plan.index.ravel()])
    assert counts.sum() == 1000 and (abs(counts - 1000 / 3) < 80).all()
    assert len(set(plan.index.ravel()[labels[plan.index.ravel()] == 0])) > 200


def test_a_batch_larger_than_the_dataset_is_refused() -> None:
    with pytest.raises(InputError, match=r"trainer\.batch_size=51 .* 50 "):
        resident(1, "none", batch_size=51)


def test_statistics_for_other_channels_are_refused() -> None:
    wrong = DatasetInfo("wrong", ("a",), (3, 4, 4), (0.5,), (0.2,))
    with pytest.raises(ValueError, match="3 .* 1 "):
        Normalise(wrong, CPU)


def test_a_sweep_shows_a_split_in_order_to_its_last_image() -> None:
    data = split(3)
    for count in (0, 1):
        batches = list(eval_batches(data, info(3), batch_size=16, device=CPU, workers=count))
        assert [len(y) for _, y in batches] == [16, 16, 16, 2]
        assert torch.equal(torch.cat([y for _, y in batches]), data.labels)
        expected = Normalise(info(3), CPU)(data.source.images)  # type: ignore[attr-defined]
        assert torch.equal(torch.cat([x for x, _ in batches]), expected)


class Unreadable:
    """A source whose third image is bad."""

    shape = (12, 10, 1)

    def __len__(self) -> int:
        return 16

    def read(self, index: list[int]) -> torch.Tensor:
        if 3 in index:
            raise InputError("cannot read bad.png")
        return torch.zeros(len(index), *self.shape, dtype=torch.uint8)


def test_a_bad_file_is_named_in_one_line_though_a_worker_found_it() -> None:
    data = Split(Unreadable(), torch.zeros(16, dtype=torch.int64))  # type: ignore[arg-type]
    loader = StreamedLoader(data, info(1), workers=1, batch_size=8, seed=0, device=CPU, parts={})
    with closing(loader), pytest.raises(InputError) as caught:
        for place in (0, 1):
            loader.seek(0, place)
            loader.batch()
    assert str(caught.value) == "cannot read bad.png"


class Reads(TorchDispatchMode):
    """Counts looks at values."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += "_local_scalar_dense" in str(function) or "nonzero" in str(function)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_a_batch_looks_at_no_value(recipe: str) -> None:
    loader = resident(3, recipe)
    loader.seek(0, 0)
    with Reads() as reads:
        loader.batch()
    assert reads.count == 0
