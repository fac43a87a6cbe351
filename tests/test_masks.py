"""Folders of images and masks: how they lie, what masks may hold, what is refused; CamVid; packs, workers, resume."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from cuts import Call, agree, cut
from made import picture
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as oracle

from cnntrain.data.datasets.registry import load
from cnntrain.data.storage.borders import split_weights, weight_levels, with_weights
from cnntrain.data.storage.decode import cover
from cnntrain.data.storage.images import IGNORED, Centre, Pixels
from cnntrain.data.storage.masks import covered, in_file, read_mask, write_mask
from cnntrain.runtime.errors import InputError
from cnntrain.tasks.segmentation import Segmentation, palette

WORDS = (
    *("model=unet", "model.width=4", "model.depth=2", "dataset=segmentation_folder", "dataset.root=data"),
    *("trainer.epochs=1", "trainer.batch_size=4", "device=cpu", "augmentation=crop_flip", "trainer.tensorboard=false"),
)


def masked(root: Path, number: int, size: tuple[int, int] = (16, 16), values: tuple[int, ...] = (0, 1, 2)) -> Path:
    """Write `number` images and masks into folders below `root`."""
    rng = np.random.default_rng(number)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for place in range(number):
        picture(place, *size).save(root / "images" / f"s{place % 3}_{place}.png")
        labels = np.array(values)[rng.integers(0, len(values), size)].astype(np.uint8)
        labels.flat[: len(values)] = values
        Image.fromarray(labels).save(root / "masks" / f"s{place % 3}_{place}.png")
    return root


def read(root: Path, **options: object) -> list[torch.Tensor]:
    data = load("segmentation_folder", root, options)
    return [split.source.read(range(len(split))) for split in (data.train, data.val, data.test) if split]


# --- how they lie


@pytest.mark.parametrize("layout", ["{split}/{kind}", "{kind}/{split}"])
def test_images_and_masks_are_found_by_split_and_kind(tmp_path: Path, layout: str) -> None:
    for number, split in ((6, "train"), (3, "val"), (2, "test")):
        made = masked(tmp_path / "made" / split, number)
        for kind in ("images", "masks"):
            target = tmp_path / "data" / layout.format(split=split, kind=kind)
            target.parent.mkdir(parents=True, exist_ok=True)
            (made / kind).rename(target)
    data = load("segmentation_folder", tmp_path / "data", {"sequences": r"^s\d"})
    assert [len(split) for split in (data.train, data.val, data.test) if split] == [6, 3, 2]
    assert data.info.classes == ("0", "1", "2") and data.info.shape == (3, 16, 16)
    assert data.train.groups is not None and data.train.groups.tolist() == [0, 0, 1, 1, 2, 2]  # in the order of names
    image = data.train.source.read([0])[0]
    assert np.array_equal(image[..., :3], np.asarray(picture(0, 16, 16)))


def test_a_folder_without_splits_is_divided_and_sequences_stay_together(tmp_path: Path) -> None:
    data = load("segmentation_folder", masked(tmp_path, 12), {"sequences": r"^s\d"}, val_size=0.3)
    groups = [
        set(split.groups.tolist()) for split in (data.train, data.val, data.test) if split and split.groups is not None
    ]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 3


def test_camvid_is_known_as_segnet_and_data_unpack_lay_it_out(tmp_path: Path) -> None:
    for number, split in ((4, "train"), (2, "val"), (2, "test")):
        made = masked(tmp_path / "made" / split, number, values=(0, 3, 10, 11))
        (tmp_path / "camvid").mkdir(exist_ok=True)
        (made / "images").rename(tmp_path / "camvid" / split)
        (made / "masks").rename(tmp_path / "camvid" / f"{split}annot")
    data = load("camvid", tmp_path, {})
    assert len(data.info.classes) == 11 and data.info.classes[10] == "bicyclist"
    labels = data.train.source.read(range(4))[..., 3]
    assert set(labels.unique().tolist()) == {0, 3, 10, IGNORED}
    with pytest.raises(InputError, match="trainannot"):
        load("camvid", tmp_path / "made", {})


# --- what masks hold


def test_masks_are_numbers_palettes_or_0_and_255(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (10, 12)).astype(np.uint8)
    write_mask(labels, tmp_path / "palette.png", palette(3))
    Image.fromarray(labels).save(tmp_path / "grey.png")
    Image.fromarray(np.repeat(labels[..., None], 3, 2)).save(tmp_path / "rgb.png")
    for name in ("palette", "grey", "rgb"):
        assert np.array_equal(read_mask(tmp_path / f"{name}.png"), labels)
    colours = np.asarray(Image.open(tmp_path / "palette.png").convert("RGB"))
    assert np.array_equal(colours, palette(3)[labels])
    binary = load("segmentation_folder", masked(tmp_path / "two", 8, values=(0, 255)), {})
    assert binary.info.classes == ("background", "foreground")
    assert set(binary.train.source.read([0])[..., 3].unique().tolist()) == {0, 1}
    odd = masked(tmp_path / "odd", 8, values=(7, 40, 255))
    named = load("segmentation_folder", odd, {"values": [40, 7], "class_names": ["a", "b"]})
    assert set(named.train.source.read([0])[..., 3].unique().tolist()) == {0, 1, IGNORED}


def test_the_palette_is_pascal_vocs() -> None:
    expected = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128)]
    assert [tuple(colour) for colour in palette(21)[:7].tolist()] == expected
    assert palette(21)[20].tolist() == [0, 64, 128] and palette(256)[255].tolist() == [224, 224, 192]


@pytest.mark.parametrize("size", [(10, 10), (7, 13), (20, 40)])
def test_a_scaled_mask_is_torchvisions_of_the_same_window(size: tuple[int, int]) -> None:
    labels = np.random.default_rng(0).integers(0, 5, (23, 31)).astype(np.uint8)
    (tall, wide), (height, width) = labels.shape, size
    whole = (height, wide * height // tall) if wide * height >= tall * width else (tall * width // wide, width)
    nearest = oracle.resize(
        torch.from_numpy(labels)[None], list(whole), interpolation=oracle.InterpolationMode.NEAREST_EXACT
    )
    assert np.array_equal(covered(labels, size), oracle.center_crop(nearest, list(size))[0].numpy())


# --- runs


@pytest.mark.parametrize("file", [(16, 16), (31, 40), (50, 18), (9, 11), (16, 200)])
@pytest.mark.parametrize(("stored", "gives"), [(16, 16), (20, 16), (16, 10)])
def test_a_mask_lies_in_its_file_where_the_network_saw_it(file: tuple[int, int], stored: int, gives: int) -> None:
    """A picture whose colours say where they are, seen as a network sees it, is put back to where they were."""
    places = np.stack([*np.meshgrid(*(np.linspace(0, 250, side) for side in file), indexing="ij"), np.zeros(file)], 2)
    covering = cover(places.round().astype(np.uint8), (stored, stored))
    first, last = (16 - gives) // 2, (16 + gives) // 2
    answer = Centre(Pixels(torch.from_numpy(covering)[None]), (16, 16)).read([0])[0].numpy()[first:last, first:last]
    pixel = min(file) / stored * max(16, round(stored * 7 / 8)) / 16  # of the network, in pixels of the file
    for axis, side in enumerate(file):
        labels = in_file(answer[..., axis], file, (stored, stored), (16, 16)).astype(float)
        inside = labels != IGNORED
        assert np.abs(labels - places[..., axis])[inside].max() <= 250 / (side - 1) * (pixel + 1)
        there = np.flatnonzero(inside.any(axis=1 - axis))
        assert abs(len(there) - gives * pixel) <= 2 and abs(there[0] + there[-1] - side + 1) <= 3


def test_files_packs_and_memory_give_the_same_bits_and_a_stop_changes_none(cnntrain: Call, folder: Path) -> None:
    masked(folder / "data", 24, size=(20, 18))
    words = [*WORDS, "dataset.image_size=16"]
    cnntrain("fit", *words, "output_dir=ram")
    for cache, workers in (("pack", 0), ("none", 1)):
        how = [f"dataset.cache={cache}", f"dataset.workers={workers}"]
        cut(*words, *how, f"output_dir={cache}", nth=2)
        assert cnntrain("fit", *words, *how, f"output_dir={cache}")["resumed_from"] == 2
        agree(folder / "ram", folder / cache)
    found = cnntrain("eval", "run=ram")
    assert found["n"] == 5 and [row["class"] for row in found["per_class"]] == ["0", "1", "2"]


# --- what is refused


def mask_of(root: Path, number: int = 0) -> Path:
    return sorted((root / "masks").iterdir())[number]


def smaller(root: Path) -> None:
    Image.fromarray(np.zeros((9, 16), dtype=np.uint8)).save(mask_of(root))


def another_value(root: Path) -> None:
    Image.fromarray(np.full((16, 16), 77, dtype=np.uint8)).save(mask_of(root))


def coloured(root: Path) -> None:
    picture(0, 16, 16).save(mask_of(root))


BAD: dict[str, tuple[Callable[[Path], object], tuple[str, ...], tuple[str, ...]]] = {
    "another size": (smaller, (), ("s0_0.png", "16×9", "16×16")),
    "another size, scaled": (smaller, ("dataset.image_size=8",), ("s0_0.png", "16×9", "16×16")),
    "a value that is no class": (another_value, ("dataset.values=[0,1,2]",), ("s0_0.png", "77")),
    "values that are no numbers from 0": (another_value, (), ("77", "dataset.values")),
    "colours": (coloured, (), ("s0_0.png", "RGB")),
    "no mask": (lambda root: mask_of(root).unlink(), (), ("s0_0.png", "no mask")),
    "no image": (lambda root: (root / "images" / mask_of(root).name).unlink(), (), ("s0_0.png", "no image")),
    "no folder": (lambda root: (root / "masks").rename(root / "labels"), (), ("masks", "labels", "dataset.masks")),
    "names": (lambda root: None, ("dataset.class_names=[a,b]",), ("dataset.class_names", "3")),
    "sequences": (lambda root: None, ("dataset.sequences=^x",), ("dataset.sequences", "s0_0.png")),
    "expression": (lambda root: None, ("dataset.sequences='['",), ("dataset.sequences",)),
    "another task": (lambda root: None, ("model=lenet5",), ("lenet5", "unet")),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_refused_by_file_and_reason(refused: Callable[..., str], folder: Path, case: str) -> None:
    spoil, words, names = BAD[case]
    spoil(masked(folder / "data", 9))
    own = [word for word in WORDS if not (case == "another task" and word.startswith("model"))]
    line = refused("fit", *own, *words)
    assert all(name in line for name in names), line


# --- border weights


def test_border_weights_are_the_papers_pixel_by_pixel() -> None:
    """The formula with the distances to every region, found by flooding and measured to every one of its pixels."""
    labels = np.zeros((24, 30), dtype=np.uint8)
    labels[3:10, 2:9], labels[3:10, 11:20], labels[14:20, 5:25], labels[12, 27], labels[0, :4] = 1, 1, 2, 1, IGNORED
    objects = flooded(labels)
    assert len(objects) == 4
    rows, cols = np.mgrid[:24, :30]
    away = [np.sqrt(min_squares(rows, cols, places)) for places in objects]
    d1, d2, *_ = np.sort(away, axis=0)
    expected = np.where(labels == 0, np.exp(-((d1 + d2) ** 2) / (2 * 3.0**2)), 0)
    coded = torch.from_numpy(with_weights(labels, 3, 3.0))
    classes, weights = split_weights(coded, 3)
    assert np.array_equal(classes, labels) and expected.max() > 0.6
    assert np.abs(weights.numpy() - expected).max() <= 0.5 / weight_levels(3) + 1e-6


def flooded(labels: np.ndarray) -> list[list[tuple[int, int]]]:
    left = {(int(y), int(x)) for y, x in np.argwhere((labels > 0) & (labels != IGNORED))}
    regions = []
    while left:
        region, edge = [], [left.pop()]
        while edge:
            y, x = edge.pop()
            region.append((y, x))
            for other in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if other in left and labels[other] == labels[y, x]:
                    left.remove(other)
                    edge.append(other)
        regions.append(region)
    return regions


def min_squares(rows: np.ndarray, cols: np.ndarray, places: list[tuple[int, int]]) -> np.ndarray:
    return np.min([(rows - y) ** 2 + (cols - x) ** 2 for y, x in places], axis=0)


def test_the_loss_weighs_each_pixel_by_its_class_and_its_border() -> None:
    labels = np.zeros((12, 12), dtype=np.uint8)
    labels[2:10, 1:5], labels[2:10, 7:11], labels[0] = 1, 1, IGNORED
    coded = torch.from_numpy(with_weights(labels, 2, 5.0))[None]
    answer = torch.randn(1, 2, 12, 12, generator=torch.Generator().manual_seed(0))
    of_class = torch.tensor([0.5, 2.0])
    task = Segmentation(("a", "b"), (12, 12), of_class, border_weight=10.0)
    truth = torch.from_numpy(labels)[None].long()
    weights = of_class[truth.clamp(max=1)] + 10 * split_weights(coded, 2)[1]
    weights[truth == IGNORED] = 0
    losses = F.cross_entropy(answer, truth, ignore_index=IGNORED, reduction="none")
    assert task.loss(answer, coded).item() == pytest.approx(((losses * weights).sum() / weights.sum()).item())
    assert task.weight(coded).item() == pytest.approx(weights.sum().item())
    plain = Segmentation(("a", "b"), (12, 12))
    assert torch.equal(task.counts(answer, coded)["confusion"], plain.counts(answer, truth.byte())["confusion"])


def test_border_weights_are_the_same_from_files_and_memory_and_a_stop_changes_none(
    cnntrain: Call, folder: Path, refused: Callable[..., str]
) -> None:
    masked(folder / "data", 24, size=(20, 18))
    words = [*WORDS, "dataset.image_size=16", "trainer.border_weight=10", "augmentation.elastic.displacement=0.05"]
    cnntrain("fit", *words, "output_dir=ram")
    cut(*words, "dataset.workers=1", "dataset.cache=none", "output_dir=files", nth=2)
    assert cnntrain("fit", *words, "dataset.workers=1", "dataset.cache=none", "output_dir=files")["resumed_from"] == 2
    agree(folder / "ram", folder / "files")
    assert "border_weight" in refused("fit", "model=lenet5", "dataset=digits", "trainer.border_weight=10")
