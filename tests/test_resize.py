"""Windows of larger stored images at the network's size: torchvision's windows, its pixels, its centre crop."""

import csv
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made import picture, tree
from PIL import Image
from scipy.stats import ks_2samp
from torch import Tensor
from torchvision.transforms import RandomResizedCrop, v2
from torchvision.transforms.v2 import functional as oracle

from cnntrain.cli.main import main
from cnntrain.data.augment.augmentations import Plan, flip, resized_crop
from cnntrain.data.augment.resize import resized_at_once, resized_one_by_one
from cnntrain.data.datasets.fingerprint import fingerprint
from cnntrain.data.datasets.registry import load
from cnntrain.data.loading.batch import Store
from cnntrain.data.loading.loader import ResidentLoader, StreamedLoader, eval_batches
from cnntrain.data.loading.normalise import Normalise
from cnntrain.data.storage.images import resident, stored
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.seeding import generator
from scripts.crops import Files

CPU = torch.device("cpu")
Call = Callable[..., dict[str, Any]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Photographs of unequal sizes in two classes of ten."""
    for label, name in enumerate(("ant", "bee")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            picture(10 * label + number, 30 + number, 37 - number).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


def windows(count: int, shape: tuple[int, int], seed: int = 0, **options: Any) -> np.ndarray:
    plan = Plan(seed, 0, count, np.arange(count).reshape(1, count), shape)
    return resized_crop(**options).draw(generator(seed, "resized_crop", 0), plan)[0].numpy()


# --- pixels

BOXES = [(0, 0, 40, 33), (3, 5, 20, 20), (7, 0, 9, 25), (39, 32, 1, 1), (0, 1, 40, 2), (10, 11, 16, 12), (0, 0, 40, 20)]


def on_a_cpu(x: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Windows of uint8 [B, H, W, C], image by image."""
    rows, cols = (([0] * len(x), [1] * len(x)) for _ in range(2))
    return resized_one_by_one(x, torch.arange(len(x)), rows, cols, boxes, size)


@pytest.mark.parametrize("resize", [on_a_cpu, resized_at_once])
@pytest.mark.parametrize("size", [(16, 12), (40, 33), (64, 50), (7, 20)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_window_is_scaled_as_torchvision_scales_it(size: tuple[int, int], channels: int, resize: Any) -> None:
    x = torch.from_numpy(generator(0, "images").integers(0, 256, (len(BOXES), 40, 33, channels), dtype=np.uint8))
    ours = resize(x, torch.tensor(BOXES), size)
    assert ours.shape == (len(BOXES), *size, channels) and ours.dtype == torch.uint8
    for image, box, mine in zip(x.permute(0, 3, 1, 2).float(), BOXES, ours.permute(0, 3, 1, 2), strict=True):
        theirs = oracle.resized_crop(image, *box, list(size), antialias=True)
        torch.testing.assert_close(mine.float(), theirs, rtol=0, atol=1.01 if resize is on_a_cpu else 0.501)
        assert (mine.float() - theirs).mean().abs() < 0.2  # rounded, not cut off


def test_a_window_differs_from_pillows_by_rounding_alone() -> None:
    image = picture(0, 40, 33)
    x = torch.from_numpy(np.array(image))[None]
    for top, left, height, width in BOXES:
        box = (left, top, left + width, top + height)
        theirs = np.asarray(image.crop(box).resize((12, 16), Image.Resampling.BILINEAR)).astype(int)
        ours = on_a_cpu(x, torch.tensor([(top, left, height, width)]), (16, 12))[0].numpy()
        assert abs(ours - theirs).max() <= 1


def test_threads_that_share_the_images_give_the_bits_of_one() -> None:
    x = torch.from_numpy(generator(0, "images").integers(0, 256, (len(BOXES), 40, 33, 3), dtype=np.uint8))
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 3, 16):
            torch.set_num_threads(number)
            found.append(on_a_cpu(x, torch.tensor(BOXES), (16, 12)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("resize", [on_a_cpu, resized_at_once])
def test_the_whole_image_at_its_own_size_is_itself(resize: Any) -> None:
    x = torch.from_numpy(generator(0, "images").integers(0, 256, (2, 9, 11, 3), dtype=np.uint8))
    assert torch.equal(resize(x, torch.tensor([(0, 0, 9, 11)] * 2), (9, 11)), x)


@pytest.mark.parametrize(("upside", "mirrored"), [(False, False), (True, False), (False, True), (True, True)])
def test_windows_of_mirrored_images_are_read_without_mirroring_them(upside: bool, mirrored: bool) -> None:
    x = torch.from_numpy(generator(0, "images").integers(0, 256, (5, 20, 30, 3), dtype=np.uint8))
    rows, cols = torch.arange(20).expand(3, -1), torch.arange(30).expand(3, -1)
    rows, cols = (rows.flip(1) if upside else rows), (cols.flip(1) if mirrored else cols)
    index, boxes = torch.tensor([4, 0, 2]), torch.tensor([(0, 0, 20, 30), (3, 5, 7, 9), (19, 2, 1, 28)])
    store = Store(x, CPU)
    ours = store.windows(index, rows, cols, boxes, (8, 8), outside=False)
    assert "flat" not in vars(store)  # nothing was gathered
    whole = store.gather(index, rows, cols, outside=False)
    assert torch.equal(ours, on_a_cpu(whole, boxes, (8, 8)))
    assert (ours.int() - resized_at_once(whole, boxes, (8, 8)).int()).abs().max() <= 1
    some = rows.clone()
    some[1, 3] = 0  # no run: gathered
    expected = resized_at_once(store.gather(index, some, cols, outside=False), boxes, (8, 8))
    assert torch.equal(store.windows(index, some, cols, boxes, (8, 8), outside=False), expected)


# --- windows


@pytest.mark.parametrize(
    ("shape", "options"),
    [((73, 73), {}), ((60, 80), {"scale": (0.5, 0.6), "ratio": (1.0, 2.0)}), ((20, 90), {"scale": (0.3, 1.0)})],
)
def test_windows_are_distributed_as_torchvisions(shape: tuple[int, int], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    image, scale, ratio = (
        torch.empty(3, *shape),
        options.get("scale", (0.08, 1.0)),
        options.get("ratio", (3 / 4, 4 / 3)),
    )
    theirs = np.array([RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(2000)])
    ours = windows(2000, shape, **options)
    for of in (
        lambda w: w[:, 2] * w[:, 3],  # area
        lambda w: w[:, 3] / w[:, 2],  # ratio
        lambda w: w[:, 0] / np.maximum(shape[0] - w[:, 2], 1),  # places
        lambda w: w[:, 1] / np.maximum(shape[1] - w[:, 3], 1),
    ):
        assert ks_2samp(of(ours), of(theirs)).pvalue > 1e-3
    assert (ours[:, :2] >= 0).all() and (ours[:, :2] + ours[:, 2:] <= shape).all() and (ours[:, 2:] > 0).all()


@pytest.mark.parametrize(("shape", "ratio"), [((40, 40), (2.0, 3.0)), ((40, 40), (0.2, 0.5)), ((30, 60), (0.9, 1.1))])
def test_a_window_that_never_fits_is_the_largest_in_the_centre(
    shape: tuple[int, int], ratio: tuple[float, float]
) -> None:
    expected = RandomResizedCrop.get_params(torch.empty(3, *shape), [1.0, 1.0], list(ratio))
    assert {tuple(window) for window in windows(20, shape, scale=(1.0, 1.0), ratio=ratio)} == {expected}


@pytest.mark.parametrize("options", [{"scale": (0.5, 0.4)}, {"ratio": (2.0, 1.0)}, {"scale": (0.0, 0.0)}])
def test_a_range_that_is_none_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"resized_crop .*{next(iter(options))}"):
        resized_crop(**options)


# --- stored images


@pytest.mark.parametrize("cache", ["none", "ram", "pack"])
def test_what_is_evaluated_is_torchvisions_centre_crop_of_the_stored_image(root: Path, cache: Any) -> None:
    data = load("folder", root, {"image_size": 28, "stored_size": 32}, cache=cache)
    plain = load("folder", root, {"image_size": 28, "stored_size": 32}, cache="none")
    assert data.info.shape == (3, 28, 28) and data.info == plain.info and data.test is not None
    # Cut twice, by a multiple of four pixels as from 256 to 224, is cut once; else halves may round to the next pixel.
    reference = v2.Compose([v2.PILToTensor(), v2.Resize(32), v2.CenterCrop(28)])
    source = stored(plain.train.source)
    for position, ours in enumerate(resident(data.train.source).images.numpy()):
        with Image.open(source.path(position)) as image:  # type: ignore[attr-defined]
            np.testing.assert_array_equal(ours, reference(image.convert("RGB")).permute(1, 2, 0).numpy())
    images = torch.cat([images for images, _ in eval_batches(data.test, data.info, batch_size=3, device=CPU)])
    expected = resident(data.test.source).images
    assert torch.equal(images, Normalise(data.info, CPU)(expected))
    assert stored(data.train.source).shape == (32, 32, 3)
    if cache == "pack":
        assert fingerprint(data) == fingerprint(plain)


@pytest.mark.parametrize("side", [16, 28])
def test_seven_eighths_of_a_larger_image_are_evaluated_at_the_networks_size(root: Path, side: int) -> None:
    """As torchvision's Resize(256) and CenterCrop(224), however many pixels are stored."""
    data = load("folder", root, {"image_size": 14, "stored_size": side}, cache="none")
    whole = load("folder", root, {"image_size": side}, cache="ram")
    assert data.test is not None and whole.test is not None
    pixels = resident(whole.test.source).images.permute(0, 3, 1, 2)
    expected = oracle.resize(oracle.center_crop(pixels, [round(side * 7 / 8)]), [14, 14], antialias=True)
    assert torch.equal(data.test.source.read(range(len(data.test))), expected.permute(0, 2, 3, 1))


@pytest.mark.parametrize("side", [16, 28])
@pytest.mark.parametrize("cropped", [False, True])
def test_training_sees_windows_or_the_centre_whichever_way_the_images_come(
    root: Path, cropped: bool, side: int
) -> None:
    options = {"image_size": 14, "stored_size": side}
    parts = {"flip": flip(1.0)} | ({"resized_crop": resized_crop()} if cropped else {})
    seen = []
    for cache in ("ram", "pack", "none"):
        data = load("folder", root, options, cache=cache)  # type: ignore[arg-type]
        settings = {"batch_size": 5, "parts": parts, "seed": 0, "device": CPU}
        loader: Any = ResidentLoader if cache == "ram" else StreamedLoader
        built = loader(data.train, data.info, **settings, **({} if cache == "ram" else {"workers": 0}))
        built.seek(1, 1)
        seen.append(built.batch().images)
        index, drawn = built.plan.index[1], built.drawn.get("resized_crop")
    assert seen[0].shape == (5, 3, 14, 14) and all(torch.equal(seen[0], other) for other in seen[1:])
    pixels: Tensor = stored(data.train.source).read(index).flip(2)
    if drawn is None:
        expected = data.train.source.read(index).flip(2)
    else:
        images = pixels.permute(0, 3, 1, 2)  # bytes, as torchvision scales them
        expected = torch.stack(
            [oracle.resized_crop(x, *box.tolist(), [14, 14]) for x, box in zip(images, drawn[1], strict=True)]
        ).permute(0, 2, 3, 1)
    torch.testing.assert_close(seen[0], Normalise(data.info, CPU)(expected.contiguous()), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options"), [("folder", {"image_size": 16}), ("folder", {}), ("tiny_imagenet", {"image_size": 16})]
)
def test_images_stored_smaller_than_they_are_seen_are_refused(root: Path, name: str, options: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"stored_size=14 .*dataset\.image_size"):
        load(name, root, {**options, "stored_size": 14})


def test_windows_of_files_come_in_the_order_of_those_from_packs(tmp_path: Path) -> None:
    """What scripts/crops.py compares. Each image is of one colour here, of which every window is."""
    for split, label, number in itertools.product(("train", "val"), ("ant", "bee"), range(5)):
        (tmp_path / split / label).mkdir(parents=True, exist_ok=True)
        shade = 20 * number + 10 * (label == "bee")
        Image.new("RGB", (40, 33), (shade, 255 - shade, shade)).save(tmp_path / split / label / f"{number}.png")
    data = load("folder", tmp_path, {"image_size": 14}, val_size=0, cache="ram")
    packed = StreamedLoader(data.train, data.info, device=CPU, parts={}, workers=0, batch_size=4, seed=3)
    files = Files(tmp_path / "train", data, 14, 4, 3)
    for epoch, place in ((0, 0), (0, 1), (1, 0)):
        packed.seek(epoch, place)
        files.seek(epoch, place)
        expected, found = packed.batch(), files.batch()
        assert torch.equal(found.labels, expected.labels)
        torch.testing.assert_close(found.images, expected.images, rtol=0, atol=1e-4)


def test_a_run_on_windows_is_evaluated_and_predicts_alike(root: Path, folder: Path, cnntrain: Call) -> None:
    words = ("fit", "model=softmax", "dataset=folder", f"dataset.root={root}", "dataset.image_size=14", "device=cpu")
    words += ("dataset.stored_size=28", "dataset.cache=pack", "augmentation=resized_crop", "trainer.epochs=1")
    cnntrain(*words, "trainer.batch_size=8", "trainer.tensorboard=false", "data_root=here", "output_dir=run")
    measured = cnntrain("eval", "run=run", "split=test")
    files = sorted(str(path) for path in root.rglob("*.png"))
    cnntrain("predict", "run=run", f"images={root}", "output_dir=told")
    with Path("told/predictions.csv").open(encoding="utf-8") as source:
        told = {row["file"]: row for row in csv.DictReader(source)}
    assert sorted(told) == files
    data = load("folder", root, {"image_size": 14, "stored_size": 28}, cache="none")
    assert data.test is not None
    shown = [str(stored(data.test.source).path(position)) for position in range(len(data.test))]  # type: ignore[attr-defined]
    right = [told[file]["class"] == Path(file).parent.name for file in shown]
    assert measured["n"] == 4 and measured["top1"] == sum(right) / 4


def test_windows_that_are_scaled_up_are_remarked_on(
    root: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", "model=softmax", "dataset=folder", f"dataset.root={root}", "dataset.image_size=14", "device=cpu"]
    words += ["augmentation=resized_crop", "trainer.epochs=1", "trainer.batch_size=8", "trainer.tensorboard=false"]
    said = []
    for size in ("null", "28"):
        assert main([*words, f"dataset.stored_size={size}", f"output_dir=run_{size}"]) == 0
        said.append("dataset.stored_size=28" in capfd.readouterr().err)
    assert said == [True, False]
    words += ["dataset.image_size=null", f"dataset.root={tree(folder / 'alike')}"]  # of one size, which is all detail
    assert main([*words, "output_dir=run"]) == 0 and "resized_crop" not in capfd.readouterr().err
