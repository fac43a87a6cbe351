"""Segmentation: label maps that move with their images, mIoU by independent counts, exact resume, exact networks."""

import csv
import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cuts import Call, agree, cut
from made import Page, create_model, picture
from PIL import Image
from sklearn.metrics import jaccard_score
from torch import Tensor, nn
from torch.nn import functional as F

from cnntrain.cli.main import main
from cnntrain.data.augment.augmentations import AUGMENTATIONS, Augmentation
from cnntrain.data.datasets.registry import load
from cnntrain.data.loading.loader import ResidentLoader, StreamedLoader, eval_batches
from cnntrain.data.loading.normalise import denormalised
from cnntrain.data.storage.images import IGNORED, Centre, DatasetInfo, Pixels, Split
from cnntrain.data.storage.masks import read_mask
from cnntrain.models import DENSE
from cnntrain.nn.composite import Level
from cnntrain.nn.geometry import geometry
from cnntrain.nn.stages import StageError, stage_shapes
from cnntrain.nn.upsampling import BilinearUp
from cnntrain.runs.predictions import names_apart
from cnntrain.stats import segmentation
from cnntrain.tasks.segmentation import Segmentation

CPU = torch.device("cpu")
CLASSES = ("red", "green", "blue")
CODES = torch.tensor([[250, 0, 0], [0, 250, 0], [0, 0, 250], [0, 0, 0]])  # the last: from outside the image
VOC = (3, 500, 500)
SHAPES = (
    *("model=unet", "model.width=4", "model.depth=2", "dataset=shapes", "dataset.image_size=16"),
    *("dataset.train_images=60", "dataset.test_images=12", "trainer.epochs=2", "trainer.batch_size=8", "device=cpu"),
    *("augmentation=none", "optimizer.lr=0.05", "trainer.tensorboard=false"),
)


# --- label maps move with their images


def coded(count: int = 16, height: int = 40, width: int = 48) -> Split:
    """Images in blocks of pure red, green and blue, with label maps that say so."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (count, height // 8, width // 8)).repeat(8, axis=1).repeat(8, axis=2)
    images = np.concatenate((CODES.numpy()[labels], labels[..., None]), axis=3).astype(np.uint8)
    return Split(Pixels(torch.from_numpy(images)), torch.zeros(count, 0, dtype=torch.int64))


def coded_info(size: tuple[int, int]) -> DatasetInfo:
    return DatasetInfo("coded", CLASSES, (3, *size), (0.3, 0.4, 0.5), (0.2, 0.25, 0.3), "maps")


MOVES: dict[str, dict[str, Augmentation]] = {
    "nothing": {},
    "flip": {"flip": AUGMENTATIONS["flip"]()},
    "alternating_flip": {"alternating_flip": AUGMENTATIONS["alternating_flip"]()},
    "crop": {"crop": AUGMENTATIONS["crop"](padding=5)},
    "crop, black": {"crop": AUGMENTATIONS["crop"](padding=5, border="zero")},
    "resized_crop": {"resized_crop": AUGMENTATIONS["resized_crop"](scale=(0.3, 1.0))},
    "affine": {"affine": AUGMENTATIONS["affine"](shift=0.1, rotate=30.0, zoom=0.3, shear=10.0)},
    "elastic": {"elastic": AUGMENTATIONS["elastic"](displacement=0.05)},
    "flip, elastic": {"flip": AUGMENTATIONS["flip"](), "elastic": AUGMENTATIONS["elastic"](displacement=0.03, grid=4)},
    "all": {
        "flip": AUGMENTATIONS["flip"](),
        "resized_crop": AUGMENTATIONS["resized_crop"](scale=(0.5, 1.0)),
        "affine": AUGMENTATIONS["affine"](rotate=10.0),
    },
}


@pytest.mark.parametrize("size", [(40, 48), (24, 24)], ids=["stored size", "smaller"])
@pytest.mark.parametrize("moves", MOVES)
def test_a_colour_coded_picture_and_its_label_map_move_together(moves: str, size: tuple[int, int]) -> None:
    """A pixel of a pure colour has the class of this colour; where colours meet in resampling it has one of theirs."""
    info, settings = coded_info(size), {"batch_size": 16, "seed": 1, "parts": MOVES[moves], "device": CPU}
    loader = ResidentLoader(coded(), info, **settings)
    loader.seek(0, 0)
    images, target, labels = loader.batch()
    assert labels.dtype == torch.uint8 and labels.shape == (16, *size) and target is labels
    pixels = denormalised(images, info).permute(0, 2, 3, 1)
    away = (pixels[..., None, :] - CODES).abs().amax(-1)  # [B, H, W, codes]
    pure = away.amin(-1) <= 6
    nearest = away.argmin(-1)
    assert pure.float().mean() > 0.5
    assert torch.equal(nearest[pure] == 3, labels[pure] == IGNORED)
    inside = pure & (nearest < 3)
    assert torch.equal(nearest[inside], labels[inside].long())
    of_label = pixels.gather(3, labels.long().clamp(max=2)[..., None])[..., 0]
    mixed = ~pure & (labels != IGNORED)
    assert (of_label[mixed] > 20).all()  # its colour is in the mixture
    with closing(StreamedLoader(coded(), info, workers=0, **settings)) as streamed:
        streamed.seek(0, 0)
        assert all(torch.equal(a, b) for a, b in zip(streamed.batch(), (images, target, labels), strict=True))


@pytest.mark.parametrize("name", ["colour", "cutout"])
def test_what_changes_colours_leaves_the_label_map(name: str) -> None:
    options = {"colour": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}, "cutout": {"size": 9}}
    info = coded_info((40, 48))
    plain, changed = (
        ResidentLoader(coded(), info, batch_size=16, seed=1, parts=parts, device=CPU)
        for parts in ({}, {name: AUGMENTATIONS[name](**options[name])})
    )
    for loader in (plain, changed):
        loader.seek(0, 0)
    one, other = plain.batch(), changed.batch()
    assert not torch.equal(one.images, other.images)
    assert torch.equal(one.labels, other.labels)


def test_evaluation_gives_label_maps_of_the_centre_scaled_to_the_nearest_pixel() -> None:
    split, info = coded(4, 40, 48), coded_info((20, 24))
    stored = split.source.read([0, 1, 2, 3])
    seen = Split(Centre(split.source, (20, 24)), split.labels)
    (_, labels), *_ = eval_batches(seen, info, batch_size=4, device=CPU)
    # seven eighths of each side: 35 × 42 pixels from (2, 3); the nearest of each of 20 × 24
    rows, cols = 2 + ((np.arange(20) + 0.5) * 35 / 20).astype(int), 3 + ((np.arange(24) + 0.5) * 42 / 24).astype(int)
    assert torch.equal(labels, stored[:, rows][:, :, cols, 3])


def test_shapes_are_the_same_at_every_reading_and_show_every_class(tmp_path: Path) -> None:
    one, other = (load("shapes", tmp_path, {"image_size": 32, "train_images": 40}) for _ in range(2))
    assert one.val is not None and one.test is not None
    assert torch.equal(one.train.source.read(range(30)), other.train.source.read(range(30)))
    maps = one.train.source.read(range(len(one.train)))[..., -1]
    assert set(maps.unique().tolist()) == {0, 1, 2, 3}
    assert len(one.info.mean) == 3 and all(0.2 < mean < 0.8 for mean in one.info.mean)


# --- the task


def answers_and_maps(classes: int = 4, count: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (count, 9, 11), generator=generator, dtype=torch.uint8)
    logits = torch.randn(count, classes, 9, 11, generator=generator)
    logits += 2 * F.one_hot(labels.long(), classes).permute(0, 3, 1, 2)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORED
    return logits, labels


def test_every_number_is_that_of_pixels_counted_one_by_one() -> None:
    """Scikit-learn's intersection over union (Jaccard) of the labelled pixels, and torch's cross-entropy."""
    logits, labels = answers_and_maps()
    task = Segmentation(tuple("abcd"), (9, 11))
    numbers = task.measure(task.kept(logits, labels))
    known = labels != IGNORED
    truth, predicted = labels[known].numpy(), logits.argmax(1)[known].numpy()
    expected = jaccard_score(truth, predicted, average=None)
    assert [row["iou"] for row in numbers["per_class"]] == pytest.approx(expected)
    assert numbers["miou"] == pytest.approx(expected.mean())
    assert numbers["pixel_accuracy"] == pytest.approx((truth == predicted).mean())
    recalls = [(predicted[truth == k] == k).mean() for k in range(4)]
    assert numbers["mean_accuracy"] == pytest.approx(np.mean(recalls))
    assert numbers["fw_iou"] == pytest.approx(sum((truth == k).mean() * expected[k] for k in range(4)))
    assert numbers["loss"] == pytest.approx(F.cross_entropy(logits, labels.long(), ignore_index=IGNORED).item())
    assert numbers["miou_low"] < numbers["miou"] < numbers["miou_high"]
    assert numbers["n"] == 12 and numbers["pixels"] == known.sum()
    batches = [(logits[:5], labels[:5]), (logits[5:], labels[5:])]
    sums = sum(task.counts(*batch)["confusion"] for batch in batches)
    assert task.score({"confusion": sums}, 12)["miou"] == pytest.approx(expected.mean())
    validated = task.validate(batches)
    assert set(validated) == set(task.val_keys) and validated["miou_low"] == numbers["miou_low"]


def test_a_class_that_is_neither_there_nor_predicted_has_no_part_in_the_mean() -> None:
    confusion = np.zeros((1, 3, 3), dtype=np.int64)
    confusion[0, :2, :2] = [[6, 2], [1, 3]]
    numbers = segmentation.segmentation(confusion, np.zeros(1), ("a", "b", "never"))
    assert numbers["miou"] == pytest.approx((6 / 9 + 3 / 6) / 2)
    assert numbers["per_class"][2]["iou"] is None


def test_an_interval_over_groups_draws_whole_groups() -> None:
    """Frames of one sequence that are all alike say no more than one of them."""
    rng = np.random.default_rng(0)
    each = rng.integers(1, 50, (8, 3, 3)) + 60 * np.eye(3, dtype=np.int64)
    frames, groups = each.repeat(5, axis=0), np.arange(8).repeat(5)
    alone, grouped = (segmentation.resampled(frames, which) for which in (None, groups))
    assert np.std(segmentation.mean_iou(grouped)) == pytest.approx(
        5**0.5 * np.std(segmentation.mean_iou(alone)), rel=0.1
    )
    whole = segmentation.resampled(each)
    assert np.allclose(segmentation.mean_iou(grouped), segmentation.mean_iou(whole))


@pytest.mark.parametrize("weighted", [False, True])
def test_loss_is_torchs_over_labelled_pixels_and_a_smaller_answer_is_about_the_centre(weighted: bool) -> None:
    logits, labels = answers_and_maps()
    weights = torch.tensor([0.5, 1.0, 2.0, 4.0]) if weighted else None
    task = Segmentation(tuple("abcd"), (9, 11), weights)
    expected = F.cross_entropy(logits, labels.long(), weights, ignore_index=IGNORED)
    assert task.loss(logits, labels).item() == pytest.approx(expected.item())
    small = logits[:, :, 2:7, 3:8]
    expected = F.cross_entropy(small, labels[:, 2:7, 3:8].long(), weights, ignore_index=IGNORED)
    assert task.loss(small, labels).item() == pytest.approx(expected.item())
    nothing = torch.full_like(labels, IGNORED)
    assert task.loss(logits, nothing).item() == 0.0


# --- networks


@pytest.mark.parametrize(
    ("name", "shape", "classes", "options", "params", "macs"),
    [
        ("unet", (1, 572, 572), 2, {"padded": False}, 31_030_658, 150_428_424_448),
        ("unet", (1, 572, 572), 1, {"padded": False}, 31_030_593, None),
        ("unet", (3, 572, 572), 2, {}, 31_031_810, None),
        ("fcn32s", VOC, 21, {"backbone_size": 224, "border": 100}, 134_346_581, None),
        ("fcn16s", VOC, 21, {"backbone_size": 224, "border": 100}, 134_357_354, None),
        ("fcn8s", VOC, 21, {"backbone_size": 224, "border": 100}, 134_362_751, None),
        ("segnet", (3, 360, 480), 11, {}, 29_449_355, None),
        ("segnet_basic", (3, 360, 480), 11, {}, 1_416_587, None),
        ("dilated", (3, 96, 96), 21, {}, 134_346_581, None),
        ("dilated", (3, 96, 96), 21, {"context": "basic"}, 134_346_581 + 28_392, None),
        ("dilated", (3, 96, 96), 21, {"context": "large"}, 134_346_581 + 6_803_139, None),
    ],
)
def test_counts_are_the_papers(
    name: str, shape: tuple[int, int, int], classes: int, options: dict[str, Any], params: int, macs: int | None
) -> None:
    rows = geometry(create_model(name, shape, classes, device="meta", **options), shape)
    assert sum(row.params for row in rows) == params
    assert macs is None or sum(row.macs for row in rows) == macs


def test_the_published_unet_maps_572_pixels_to_388_and_a_padded_one_keeps_any_size() -> None:
    published = create_model("unet", (1, 572, 572), 2, device="meta", padded=False)
    assert published(torch.empty(1, 1, 572, 572, device="meta")).shape == (1, 2, 388, 388)
    small = create_model("unet", (3, 21, 30), 5, width=4, depth=3)
    assert small.eval()(torch.rand(2, 3, 21, 30)).shape == (2, 5, 21, 30)


@pytest.mark.parametrize(("name", "crops"), [("fcn32s", [19]), ("fcn16s", [5, 27]), ("fcn8s", [5, 9, 31])])
def test_fcns_crop_where_the_released_networks_do(name: str, crops: list[int]) -> None:
    net = create_model(name, VOC, 21, device="meta", backbone_size=224, border=100)
    inner = [part.offset for part in net.modules() if isinstance(part, Level)][::-1]
    assert [*inner, net.up.crop.offset] == crops


@pytest.mark.parametrize("backbone", ["vgg11", "resnet20", "nin", "mobilenet_v1"])
def test_an_fcn_stands_on_any_chain_and_answers_in_place(backbone: str) -> None:
    """A disturbed square moves the scores around itself the most: the map lies where the image does."""
    net = create_model("fcn8s", (3, 64, 64), 3, backbone=backbone).eval()
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for top, left in ((8, 8), (8, 40), (40, 24)):
        other = x.clone()
        other[:, :, top : top + 16, left : left + 16] = 1 - other[:, :, top : top + 16, left : left + 16]
        with torch.no_grad():
            change = (net(x) - net(other)).abs().sum((0, 1))
        weights = change / change.sum()
        rows, cols = (weights.sum(axis) @ (torch.arange(64.0) + 0.5) for axis in (1, 0))
        assert abs(rows - top - 8) < 12 and abs(cols - left - 8) < 12


def test_context_modules_see_what_the_paper_says_and_begin_as_the_identity() -> None:
    for context in ("basic", "large"):
        net = create_model("dilated", (3, 160, 160), 4, context=context, width=2, hidden=8).eval()
        module = nn.Sequential(*(net.get_submodule(f"context{number}") for number in range(1, 9)))
        fields = [row.receptive_field for row in geometry(module, (4, 160, 160))]
        assert fields == [(side, side) for side in (3, 5, 9, 17, 33, 65, 67, 67)]
        scores = torch.rand(2, 4, 20, 20, generator=torch.Generator().manual_seed(0))
        tolerance = 1e-6 if context == "basic" else 0.1
        assert torch.allclose(module(scores), scores, atol=tolerance)


@pytest.mark.parametrize(("name", "options"), [("segnet", {"width": 4}), ("segnet_basic", {"width": 4})])
@pytest.mark.parametrize("size", [(36, 45), (64, 64)])
def test_a_segnet_puts_maxima_back_in_images_of_any_size(
    name: str, options: dict[str, int], size: tuple[int, int]
) -> None:
    net = create_model(name, (3, *size), 5, **options).eval()
    with torch.no_grad():
        assert net(torch.rand(2, 3, *size)).shape == (2, 5, *size)


@pytest.mark.parametrize("name", DENSE)
def test_every_network_learns_a_map_in_a_few_steps(name: str) -> None:
    """The loss on one batch falls to less than a third, and every parameter gets a gradient."""
    small = {
        "unet": {"width": 8, "depth": 3},
        "segnet": {"width": 8, "depth": 2},
        "segnet_basic": {"width": 8, "depth": 2},
    }
    options = small.get(name, {"width": 16, "hidden": 64} if name == "dilated" else {"backbone": "resnet20"})
    net = create_model(name, (3, 32, 32), 3, **options).train()
    for layer in net.modules():
        layer.training = not isinstance(layer, nn.Dropout)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (4, 2, 2), generator=generator).repeat_interleave(16, 1).repeat_interleave(16, 2)
    x = F.one_hot(labels, 3).permute(0, 3, 1, 2) + 0.1 * torch.randn(4, 3, 32, 32, generator=generator)
    optimizer, losses = torch.optim.Adam(net.parameters(), 1e-3 if name == "dilated" else 3e-3), []
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert losses[-1] < losses[0] / 3, losses[::10]


def test_a_skip_is_removed_by_its_path() -> None:
    whole, less = (
        create_model("unet", (3, 32, 32), 4, width=4, depth=3, remove=remove) for remove in ([], ["level2.skip"])
    )
    merge = dict(whole.named_modules())["merge.first.conv"], dict(less.named_modules())["merge.first.conv"]
    assert [layer.in_channels for layer in merge] == [8, 4]
    assert less.eval()(torch.rand(1, 3, 32, 32)).shape == (1, 4, 32, 32)


ALIGNED = {
    "unet": {"width": 2, "depth": 3},
    "dilated": {"width": 2, "hidden": 4},
    "fcn8s": {"backbone": "vgg11"},
    "fcn32s": {"backbone": "nin", "border": 10},
}


def test_without_a_stage_an_answer_lies_where_it_did_or_is_refused() -> None:
    """What strides decides how far a map is enlarged: without it, the map would lie over a part of the image alone."""
    refused = {name: set[str]() for name in ALIGNED}
    for name, options in ALIGNED.items():
        whole = create_model(name, (3, 64, 64), 3, device="meta", **options)
        levels = {path: part for path, part in whole.named_modules() if isinstance(part, Level)}
        inner = [f"{path}.{stage}" for path, level in levels.items() for stage in level.names]
        stages = [name for name, _ in whole.named_children()][:-1]
        for path in (
            path for path in [*stages, *inner] if path.rpartition(".")[2].startswith(("up", "pool", "border"))
        ):
            try:
                net = create_model(name, (3, 64, 64), 3, remove=[path], device="meta", **options)
            except StageError:
                refused[name].add(path)
                continue
            assert name == "dilated"
            (up,) = (part for part in net.modules() if isinstance(part, BilinearUp))
            arrives = stage_shapes(net, (3, 64, 64))["score"]
            assert up.factor * arrives[1] == 64 and net.up.crop.offset == up.factor // 2
    assert refused["unet"] == {"level2.pool", "level2.up", "level2.level3.pool", "level2.level3.up"}
    assert {"pool1", "after_pool3.after_pool4.pool5", "after_pool3.up"} < refused["fcn8s"]
    assert "border" in refused["fcn32s"] and not refused["dilated"]


# --- runs


def test_a_training_that_is_stopped_and_resumed_ends_with_the_same_bits(cnntrain: Call, folder: Path) -> None:
    words = [*SHAPES, "augmentation=strong", "dataset.balance=weights", "trainer.accumulate=2"]
    steps = cnntrain("fit", *words, "output_dir=whole")["steps"]
    for step in (1, steps - 1):
        cut(*words, f"output_dir=cut{step}", nth=step)
        assert cnntrain("fit", *words, f"output_dir=cut{step}", f"dataset.workers={step % 2}")["resumed_from"] == step
        agree(folder / "whole", folder / f"cut{step}")


def test_fit_and_eval_give_the_tasks_numbers(cnntrain: Call, folder: Path) -> None:
    fitted = cnntrain("fit", *SHAPES, "output_dir=run")
    assert fitted["headline"] == "miou" and fitted["task"] == "segmentation"
    assert {"n", "loss", "miou", "miou_low", "miou_high", "epoch"} <= fitted["best"].keys()
    found = cnntrain("eval", "run=run")
    assert {"task", "n", "loss", "miou", "miou_low", "miou_high", "pixel_accuracy", "mean_accuracy"} <= found.keys()
    assert all({"class", "n", "iou"} <= row.keys() for row in found["per_class"])
    assert sum(row["n"] for row in found["per_class"]) == 12 * 16 * 16
    with np.load(folder / "run/eval/test_best/predictions.npz") as saved:
        assert saved["confusion"].shape == (12, 4, 4)
    assert cnntrain("eval", "run=run", "split=val", "weights=last")["n"] == 6


def test_pixels_without_a_class_are_no_reason_to_stop_and_without_any_there_is_nothing_to_score(
    cnntrain: Call, refused: Callable[..., str], folder: Path
) -> None:
    rng = np.random.default_rng(0)
    for part, labelled in (("train", 2), ("val", 1), ("test", 0)):
        for number in range(4):
            labels = np.full((16, 16), IGNORED, dtype=np.uint8)
            labels[:, :8], labels[:, 8:] = (0, 1) if number < labelled else (IGNORED, IGNORED)
            for kind, pixels in (("images", rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)), ("masks", labels)):
                (folder / "data" / part / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / "data" / part / kind / f"{number}.png")
    words = [word for word in SHAPES if not word.startswith(("dataset", "trainer.batch", "trainer.tens"))]
    words += ["dataset=segmentation_folder", "dataset.root=data", "trainer.batch_size=1", "trainer.log_every=1"]
    assert cnntrain("fit", *words, "output_dir=run")["best"]["miou"] is not None
    steps = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    assert {step["miou"] is None for step in steps if step["kind"] == "train"} == {True, False}
    assert cnntrain("eval", "run=run", "split=val")["pixels"] == 256
    assert Path(cnntrain("report", "run=run", "split=val")["report"]).is_file()
    assert "test" in refused("eval", "run=run")
    for mask in (folder / "data/val/masks").iterdir():
        Image.fromarray(np.full((16, 16), IGNORED, dtype=np.uint8)).save(mask)
    assert main(["fit", *words, "output_dir=other"]) == 1


def test_two_networks_are_paired_by_image_and_by_group() -> None:
    """Equal networks have p = 1; a better one is found; the interval holds the difference; groups make it wider."""
    rng = np.random.default_rng(0)
    first = rng.integers(1, 40, (40, 3, 3)) + 60 * np.eye(3, dtype=np.int64)
    assert segmentation.paired(first, first).p == 1.0
    second = first + 15 * np.eye(3, dtype=np.int64)
    found = segmentation.paired(first, second)
    delta = segmentation.mean_iou(second.sum(0)) - segmentation.mean_iou(first.sum(0))
    assert found.delta == pytest.approx(delta) and found.low < delta < found.high and found.p < 0.001
    assert (found.only_second, found.only_first, found.n) == (40, 0, 40)
    noisy = np.maximum(first + rng.integers(-20, 21, first.shape), 0)
    alone = segmentation.paired(first, noisy)
    assert alone.p > 0.05 and alone.low < 0 < alone.high
    swapped = segmentation.paired(noisy, first)
    assert swapped.delta == pytest.approx(-alone.delta) and swapped.p == pytest.approx(alone.p, abs=0.02)


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trainings that differ in their width."""
    folder = tmp_path_factory.mktemp("runs")
    for name, width in (("run", 4), ("other", 6)):
        assert main(["fit", *SHAPES, f"model.width={width}", f"output_dir={folder / name}"]) == 0
    return folder


def test_runs_are_compared_reported_and_used(cnntrain: Call, folder: Path, two_runs: Path) -> None:
    shutil.copytree(two_runs, folder, dirs_exist_ok=True)
    compared = cnntrain("compare", "runs=[run,other]", "output_dir=side", "figures=false")
    (test,) = compared["over_images"]
    assert test["n"] == 12 and test["delta_low"] <= test["delta"] <= test["delta_high"] and 0 < test["p"] <= 1
    assert {"miou", "miou_low"} <= compared["runs"][0].keys()
    side = Page(folder / "side/report.html").text
    assert "permutation test" in side and "only this run better" in side and "McNemar" not in side
    reported = cnntrain("report", "run=run")
    page = Page(Path(reported["report"]))
    assert len(page.all("img")) >= 12 + 4 and "IoU" in page.text and "disc" in page.text
    for number in range(3):
        picture(number, 20, 24).save(folder / f"{number}.png")
    predicted = cnntrain("predict", "run=run", "images='*.png'", "output_dir=answers", "report=true")
    masks = sorted((folder / "answers/masks").iterdir())
    assert predicted["n"] == 3 and [mask.name for mask in masks] == ["0.png", "1.png", "2.png"]
    labels = read_mask(masks[0])
    assert labels.shape == (20, 24) and (labels[:, 3:22] < 4).all() and (labels[:, [0, 1, 23]] == IGNORED).all()
    rows = list(csv.DictReader(Path(predicted["output"]).read_text().splitlines()))
    shares = [float(value) for key, value in rows[0].items() if key.startswith("share of ")]
    assert sum(shares) == pytest.approx(1, abs=1e-5)


def test_networks_of_different_tasks_are_not_compared(
    cnntrain: Call, refused: Callable[..., str], folder: Path, two_runs: Path
) -> None:
    shutil.copytree(two_runs, folder, dirs_exist_ok=True)
    cnntrain("fit", "model=softmax", "dataset=digits", "trainer.epochs=1", "output_dir=digits")
    for pair in ("run,digits", "digits,run"):
        line = refused("compare", f"runs=[{pair}]")
        assert "run gives a class for every pixel" in line and "digits gives a class" in line


def test_files_of_one_name_are_told_apart_by_their_folders() -> None:
    assert names_apart([Path("a/1.png"), Path("b/2.png")]) == {Path("a/1.png"): "1", Path("b/2.png"): "2"}
    same = [Path("x/a/1.png"), Path("x/b/1.png"), Path("x/b/1.jpg")]
    assert list(names_apart(same).values()) == ["a_1_png", "b_1_png", "b_1_jpg"]


def test_skips_are_ablated_as_layers_are(cnntrain: Call, folder: Path) -> None:
    words = [word for word in SHAPES if not word.startswith("model.depth")]
    found = cnntrain(
        "ablate", *words, "model.depth=3", "study=skips", "seeds=2", "trainer.epochs=1", "output_dir=study", "jobs=1",
        "figures=false",
    )  # fmt: skip
    assert [row["variant"] for row in found["table"]] == [
        *("full", "no_level2.skip", "no_level2.level3.skip", "no_level2.skip_level2.level3.skip")
    ]
    assert found["complete"] and all({"miou", "miou_low", "seed"} <= row.keys() for row in found["rows"])
    assert all(row["miou_low"] <= row["miou_mean"] <= row["miou_high"] for row in found["table"])


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("model=unet", "dataset=digits"), ("unet", "digits")),
        (("model=lenet5", "dataset=shapes"), ("lenet5", "shapes")),
        ((*SHAPES, "augmentation.mixup.alpha=0.2"), ("mixup", "shapes")),
        ((*SHAPES, "dataset.balance=sampling"), ("balance",)),
        ((*SHAPES, "dataset.classes=[disc,square]"), ("dataset.classes",)),
        ((*SHAPES, "model.depth=6"), ("depth", "16×16")),
        ((*SHAPES, "model.remove=[level2.skp]"), ("level2.skip",)),
    ],
)
def test_what_does_not_fit_together_is_refused(
    refused: Callable[..., str], words: tuple[str, ...], names: tuple[str, ...]
) -> None:
    line = refused("fit", *words)
    assert all(name in line for name in names), line
