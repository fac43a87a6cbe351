"""Detection: boxes that move with their images, darknet's loss cell by cell, average precision as others compute it."""

import contextlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cuts import Call, agree, cut
from made import create_model, md5, picture
from torch import Tensor
from torchvision.datasets import voc as torchvision_voc

from cnntrain.cli.main import main
from cnntrain.data.augment.augmentations import AUGMENTATIONS, Augmentation
from cnntrain.data.augment.boxes import padded
from cnntrain.data.datasets import voc as pascal
from cnntrain.data.datasets.registry import load
from cnntrain.data.loading.loader import ResidentLoader, StreamedLoader, eval_batches
from cnntrain.data.loading.normalise import denormalised
from cnntrain.data.storage.images import Centre, DatasetInfo, Pixels, Split
from cnntrain.data.storage.masks import write_mask
from cnntrain.nn.geometry import geometry
from cnntrain.report.boxes import missed_objects
from cnntrain.runtime.errors import InputError
from cnntrain.stats import detection
from cnntrain.tasks.detection import Detection
from cnntrain.tasks.segmentation import palette

CPU = torch.device("cpu")
WORDS = (
    *("model=yolo_v1", "model.backbone=resnet20", "model.grid=4", "model.width=8", "dataset=shapes"),
    *("dataset.targets=boxes", "dataset.image_size=16", "dataset.train_images=60", "dataset.test_images=12"),
    *("trainer.epochs=2", "trainer.batch_size=8", "device=cpu", "augmentation=none", "trainer.tensorboard=false"),
    *("optimizer=adamw", "optimizer.lr=1e-3"),
)


# --- boxes move with their images


def rectangles(count: int = 32, height: int = 60, width: int = 72) -> Split:
    """Black images with one white rectangle each, and the box around it."""
    rng = np.random.default_rng(0)
    images, boxes = np.zeros((count, height, width, 3), dtype=np.uint8), []
    for image in images:
        top, left = rng.integers(0, height - 20), rng.integers(0, width - 20)
        high, wide = rng.integers(8, 20, 2)
        image[top : top + high, left : left + wide] = 255
        boxes.append(np.array([[1, left, top, left + wide, top + high, 0]], dtype=np.float32))
    return Split(Pixels(torch.from_numpy(images)), padded(boxes))


def info(size: tuple[int, int]) -> DatasetInfo:
    return DatasetInfo("drawn", ("a", "b"), (3, *size), (0.3,) * 3, (0.25,) * 3, "boxes")


MOVES: dict[str, dict[str, Augmentation]] = {
    "nothing": {},
    "flip": {"flip": AUGMENTATIONS["flip"]()},
    "alternating_flip": {"alternating_flip": AUGMENTATIONS["alternating_flip"]()},
    "crop": {"crop": AUGMENTATIONS["crop"](padding=9, border="zero")},
    "resized_crop": {"resized_crop": AUGMENTATIONS["resized_crop"](scale=(0.4, 1.0))},
    "affine": {"affine": AUGMENTATIONS["affine"](shift=0.1, rotate=30.0, zoom=0.3, shear=10.0)},
    "elastic": {"elastic": AUGMENTATIONS["elastic"](displacement=0.04)},
    "all": {
        "flip": AUGMENTATIONS["flip"](),
        "resized_crop": AUGMENTATIONS["resized_crop"](scale=(0.6, 1.0)),
        "affine": AUGMENTATIONS["affine"](rotate=10.0),
        "colour": AUGMENTATIONS["colour"](brightness=0.2),
    },
}


@pytest.mark.parametrize("size", [(60, 72), (48, 48)], ids=["stored size", "smaller"])
@pytest.mark.parametrize("moves", MOVES)
def test_a_box_is_around_its_rectangle_whatever_moved_the_image(moves: str, size: tuple[int, int]) -> None:
    settings = {"batch_size": 32, "seed": 1, "parts": MOVES[moves], "device": CPU}
    loader = ResidentLoader(rectangles(), info(size), **settings)
    loader.seek(0, 0)
    images, target, labels = loader.batch()
    assert target is labels and labels.shape == (32, 1, 6)
    around(denormalised(images, info(size)), labels, slack=4 if {"affine", "elastic"} & MOVES[moves].keys() else 1.5)
    with closing(StreamedLoader(rectangles(), info(size), workers=0, **settings)) as streamed:
        streamed.seek(0, 0)
        assert all(torch.equal(a, b) for a, b in zip(streamed.batch(), (images, target, labels), strict=True))


def around(pixels: Tensor, labels: Tensor, slack: float) -> None:
    """Hold boxes against where the images are white, cut at their borders."""
    seen = 0
    for image, (box, *_) in zip(pixels, labels, strict=True):
        rows, cols = (torch.nonzero((image.amax(0) > 110).any(axis)).flatten() for axis in (1, 0))
        if box[0] < 0:
            assert len(rows) * len(cols) < 140  # dropped: too little is left of at most 20 × 20, enlarged by 1.3
            continue
        seen += 1
        expected = torch.tensor([cols[0], rows[0], cols[-1] + 1, rows[-1] + 1], dtype=torch.float32)
        assert (box[1:5] - expected).abs().max() <= slack, (box, expected)
    assert seen > len(labels) // 2


def test_evaluation_gives_boxes_of_the_centre() -> None:
    split = rectangles()
    seen = Split(Centre(split.source, (48, 48)), split.labels)
    (images, labels), *_ = eval_batches(seen, info((48, 48)), batch_size=32, device=CPU)
    around(denormalised(images, info((48, 48))), labels, slack=1.5)


def test_of_a_box_that_leaves_the_image_what_is_inside_counts_until_too_little_is() -> None:
    split = Split(Pixels(torch.zeros(1, 40, 40, 3, dtype=torch.uint8)), torch.tensor([[[0.0, 0, 0, 16, 16, 0]]]))
    for by, expected in ((4, [0.0, 0, 0, 12, 16, 0]), (13, [-1.0, 0, 0, 0, 0, 0])):
        drawn = torch.tensor([[[0, by]]])
        shift = AUGMENTATIONS["crop"](border="zero")._replace(draw=lambda rng, plan, drawn=drawn: drawn)
        loader = ResidentLoader(split, info((40, 40)), batch_size=1, seed=0, parts={"crop": shift}, device=CPU)
        loader.seek(0, 0)
        assert loader.batch().labels.tolist() == [[expected]]


# --- the loss


def darknets(answer: np.ndarray, target: np.ndarray, size: int, classes: int) -> float:
    """The loss of one image, object after object and cell by cell, with plain numbers."""
    channels, side, _ = answer.shape
    number, total, taken = (channels - classes) // 5, 0.0, set()
    for row in range(side):
        for col in range(side):
            total += sum(0.5 * answer[5 * b + 4, row, col] ** 2 for b in range(number))
    for label, left, top, right, bottom, _ in target:
        if label < 0:
            continue
        x, y = (left + right) / 2 / size, (top + bottom) / 2 / size
        row, col = int(y * side), int(x * side)
        if (row, col) in taken:
            continue
        taken.add((row, col))
        true = (x, y, (right - left) / size, (bottom - top) / size)
        cell = answer[:, row, col]
        total += sum((cell[5 * number + k] - (k == label)) ** 2 for k in range(classes))
        guesses = []
        for b in range(number):
            a = cell[5 * b : 5 * b + 5]
            guess = ((col * 0 + a[0]) / side, a[1] / side, a[2] ** 2, a[3] ** 2)
            own = (x - col / side, y - row / side, *true[2:])
            guesses.append((iou(guess, own), sum((p - q) ** 2 for p, q in zip(guess, own, strict=True)), b))
        if any(guess[0] > 0 for guess in guesses):
            best = max(guesses, key=lambda guess: guess[0])
        else:
            best = min(guesses, key=lambda guess: guess[1])
        a = cell[5 * best[2] : 5 * best[2] + 5]
        total += (a[4] - best[0]) ** 2 - 0.5 * a[4] ** 2
        wanted = (x * side - col, y * side - row, true[2] ** 0.5, true[3] ** 0.5)
        total += 5 * sum((p - q) ** 2 for p, q in zip(a[:4], wanted, strict=True))
    return total


def iou(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    ends = [[(box[k] - box[k + 2] / 2, box[k] + box[k + 2] / 2) for k in (0, 1)] for box in (one, other)]
    wide, high = (max(0, min(a[1], b[1]) - max(a[0], b[0])) for a, b in zip(*ends, strict=True))
    both = wide * high
    return both / (one[2] * one[3] + other[2] * other[3] - both)


def some_objects(count: int, size: int, classes: int, most: int = 5) -> Tensor:
    rng, images = np.random.default_rng(0), []
    for _ in range(count):
        corners = rng.uniform(0, size - 12, (rng.integers(0, most + 1), 2))
        sides = rng.uniform(4, 12, corners.shape)
        labels = rng.integers(0, classes, (len(corners), 1))
        images.append(np.concatenate((labels, corners, corners + sides, 0 * labels), 1).astype(np.float32))
    return padded(images)


def test_the_loss_is_darknets_object_by_object() -> None:
    task, target = Detection(("a", "b", "c"), (32, 32)), some_objects(12, 32, 3)
    answer = torch.randn(12, 2 * 5 + 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.5
    expected = [darknets(a.double().numpy(), t.double().numpy(), 32, 3) for a, t in zip(answer, target, strict=True)]
    assert task.losses(answer, target).tolist() == pytest.approx(expected, rel=1e-4)
    assert task.loss(answer, target).item() == pytest.approx(np.mean(expected), rel=1e-4)


def test_the_overlap_that_confidence_is_to_be_has_no_gradient() -> None:
    task, target = Detection(("a",), (32, 32)), torch.tensor([[[0.0, 8, 8, 20, 20, 0]]])
    answer = torch.full((1, 6, 2, 2), 0.5, requires_grad=True)
    task.loss(answer, target).backward()
    assert answer.grad is not None
    x, y, root = 14 / 16, 14 / 16, (12 / 32) ** 0.5
    expected = [10 * (0.5 - x), 10 * (0.5 - y), 10 * (0.5 - root), 10 * (0.5 - root)]
    assert answer.grad[0, :4, 0, 0].tolist() == pytest.approx(expected, rel=1e-4)


def test_a_perfect_answer_is_decoded_to_its_objects_and_two_in_a_cell_lose_one() -> None:
    task = Detection(("a", "b"), (64, 64))
    target = torch.tensor([[[1.0, 10, 20, 30, 44, 0], [0, 40, 40, 60, 52, 0], [0, 12, 21, 30, 44, 0]]])
    answer = torch.zeros(1, 2 * 5 + 2, 4, 4)
    for label, left, top, right, bottom, _ in target[0, :2].tolist():
        x, y = (left + right) / 32, (top + bottom) / 32
        cell = answer[0, :, int(y), int(x)]
        cell[:5] = torch.tensor([x % 1, y % 1, ((right - left) / 64) ** 0.5, ((bottom - top) / 64) ** 0.5, 1.0])
        cell[10 + int(label)] = 1.0
    kept = task.kept(answer, target)
    found = kept["detections"][0]
    assert found[:2, 0].tolist() == [1, 0] or found[:2, 0].tolist() == [0, 1]
    boxes = {int(row[0]): row[2:].tolist() for row in found[:2]}
    assert boxes[1] == pytest.approx([10, 20, 30, 44], abs=1e-3) and boxes[0] == pytest.approx(
        [40, 40, 60, 52], abs=1e-3
    )
    assert (found[2:, 0] == -1).all() and kept["lost"].tolist() == [1]
    assert kept["loss"].item() == pytest.approx(0, abs=1e-8)
    numbers = task.measure(kept)
    assert numbers["objects"] == 3 and numbers["lost"] == 1
    assert [row["ap50"] for row in numbers["per_class"]] == pytest.approx([1 / 2 + 0, 1.0])


# --- average precision


def some_detections(objects: np.ndarray, classes: int) -> np.ndarray:
    """Objects with noise, missed ones, doubles and inventions; scores that differ."""
    rng, images = np.random.default_rng(1), []
    for there in objects:
        rows = []
        for label, *box, _ in there[there[:, 0] >= 0]:
            for _ in range(rng.integers(0, 3)):
                rows.append((label, 0, *(np.array(box) + rng.normal(0, 1.2, 4))))
        for _ in range(rng.integers(0, 4)):
            corner = rng.uniform(0, 20, 2)
            rows.append((rng.integers(0, classes), 0, *corner, *(corner + rng.uniform(4, 12, 2))))
        images.append(np.array(rows).reshape(-1, 6))
    most = max(map(len, images))
    detections = np.full((len(images), most, 6), -1.0)
    for place, rows in enumerate(images):
        detections[place, : len(rows)] = rows
        detections[place, : len(rows), 1] = rng.uniform(0, 1, len(rows))
    return detections


def test_cocos_average_precision_is_pycocotools() -> None:
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    objects = some_objects(40, 32, 3).double().numpy()
    objects[..., 1:5] = objects[..., 1:5].round(3)
    detections = some_detections(objects, 3)
    truth, found = COCO(), []
    annotations = [
        {"id": 1 + i * 100 + j, "image_id": i, "category_id": int(label), "bbox": [x, y, right - x, low - y],
         "area": (right - x) * (low - y), "iscrowd": 0}
        for i, there in enumerate(objects) for j, (label, x, y, right, low, _) in enumerate(there) if label >= 0
    ]  # fmt: skip
    truth.dataset = {
        "images": [{"id": i} for i in range(len(objects))],
        "categories": [{"id": k} for k in range(3)],
        "annotations": annotations,
    }
    for i, rows in enumerate(detections):
        found += [
            {"image_id": i, "category_id": int(label), "bbox": [x, y, right - x, low - y], "score": score}
            for label, score, x, y, right, low in rows if label >= 0
        ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        theirs = COCOeval(truth, truth.loadRes(found), "bbox")
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
    ours = [detection.coco_precision(detections, objects, label) for label in range(3)]
    assert np.mean(ours) == pytest.approx(theirs.stats[0], abs=1e-6)
    half = [detection.at_points(detection.ranked(detections, objects, k, 0.5, coco=True), 101) for k in range(3)]
    assert np.mean(half) == pytest.approx(theirs.stats[1], abs=1e-6)


def test_vocs_average_precisions_follow_their_definitions() -> None:
    """Hits and misses of a list by hand: the area under, and eleven points of, the interpolated precision."""
    objects = np.zeros((2, 3, 6))
    objects[..., 0] = -1
    objects[0, :2] = [[0, 0, 0, 10, 10, 0], [0, 20, 20, 30, 30, 0]]
    objects[1, :2] = [[0, 0, 0, 10, 10, 0], [0, 20, 20, 30, 30, 1]]  # the second is difficult
    detections = np.full((2, 4, 6), -1.0)
    detections[0, :3] = [
        [0, 0.9, 0, 0, 10, 10],
        [0, 0.8, 1, 1, 10, 10],
        [0, 0.6, 21, 20, 30, 30],
    ]  # the second: a double
    detections[1, :2] = [[0, 0.7, 20, 20, 30, 30], [0, 0.1, 40, 40, 50, 50]]  # the first: of the difficult one
    rank = detection.ranked(detections, objects, 0, 0.5)
    assert rank.right.tolist() == [True, False, True, False] and rank.objects.sum() == 3
    precision = {1 / 3: 1.0, 2 / 3: 2 / 3}
    assert detection.average_precision(rank) == pytest.approx((precision[1 / 3] + precision[2 / 3]) / 3)
    eleven = [1.0] * 4 + [2 / 3] * 3 + [0.0] * 4  # recalls 0 … 0.3, 0.4 … 0.6, 0.7 … 1
    assert detection.at_points(rank, 11) == pytest.approx(np.mean(eleven))
    double = detection.average_precision(rank, np.array([2.0, 2.0]))
    assert double == pytest.approx(detection.average_precision(rank))  # as if every image were there twice


def test_two_detectors_are_paired_by_image() -> None:
    objects = some_objects(30, 32, 2).double().numpy()
    rough = some_detections(objects, 2)
    exact = np.concatenate((objects[..., :1], 0.5 + 0 * objects[..., :1], objects[..., 1:5]), axis=2)
    same, better = detection.paired(rough, rough, objects), detection.paired(rough, exact, objects)
    assert same.delta == 0 and same.p == 1.0
    assert better.delta > 0.2 and better.low > 0 and better.p < 0.01 and better.only_second > better.only_first


# --- networks


@pytest.mark.parametrize(
    ("name", "options", "params", "macs"),
    [
        ("yolo_v1", {}, 271_703_550, 20_285_153_280),
        ("yolo_v1", {"batch_norm": True}, 271_716_734, None),
        ("yolo_tiny", {}, 27_095_374, 1_608_015_360),
    ],
)
def test_counts_are_the_papers(name: str, options: dict[str, Any], params: int, macs: int | None) -> None:
    shape = (3, 448, 448)
    net = create_model(name, shape, 20, device="meta", **options)
    rows = geometry(net, shape)
    assert rows[-1].out_shape == (30, 7, 7)
    assert sum(row.params for row in rows) == params
    assert macs is None or sum(row.macs for row in rows) == macs


# --- folders


def voc(root: Path) -> None:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for number in range(4):
        picture(number, 30, 40).save(root / "JPEGImages" / f"{number}.jpg")
        (root / "Annotations" / f"{number}.xml").write_text(
            "<annotation><size><width>40</width><height>30</height></size>"
            "<object><name>cat</name><difficult>0</difficult><bndbox><xmin>5</xmin><ymin>3</ymin><xmax>24</xmax>"
            "<ymax>12</ymax></bndbox></object><object><name>dog</name><difficult>1</difficult><bndbox><xmin>21</xmin>"
            "<ymin>11</ymin><xmax>40</xmax><ymax>30</ymax></bndbox></object></annotation>"
        )
    for part, names in (("train", "0\n1\n2\n"), ("test", "3\n")):
        (root / "ImageSets/Main" / f"{part}.txt").write_text(names)


def yolo(root: Path) -> None:
    for part, numbers in (("train", (0, 1, 2)), ("test", (3,))):
        for kind in ("images", "labels"):
            (root / part / kind).mkdir(parents=True)
        for number in numbers:
            picture(number, 30, 40).save(root / part / "images" / f"{number}.png")
            (root / part / "labels" / f"{number}.txt").write_text(
                "0 0.35 0.23333333 0.5 0.33333333\n1 0.75 0.66666667 0.5 0.66666667\n"
            )
    (root / "classes.txt").write_text("cat\ndog\n")


def coco(root: Path) -> None:
    (root / "annotations").mkdir(parents=True)
    for part, numbers in (("train", (0, 1, 2)), ("test", (3,))):
        (root / part).mkdir()
        images, annotations = [], []
        for number in numbers:
            picture(number, 30, 40).save(root / part / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": 40, "height": 30})
            for k, box in ((7, [4, 2, 20, 10]), (9, [20, 10, 20, 20])):
                annotations.append(
                    {"id": len(annotations), "image_id": number, "category_id": k, "bbox": box, "iscrowd": int(k == 9)}
                )
        held = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
        }
        (root / "annotations" / f"instances_{part}2017.json").write_text(json.dumps(held))


def change(file: str, old: str, new: str) -> Callable[[Path], object]:
    return lambda root: (root / file).write_text((root / file).read_text().replace(old, new))


def named_by_yaml(root: Path) -> None:
    yolo(root)
    (root / "classes.txt").unlink()
    (root / "data.yaml").write_text("path: .\nnames:\n  0: cat\n  1: dog\n")


def named_in_a_list(root: Path) -> None:
    named_by_yaml(root)
    (root / "data.yaml").write_text("names: [cat, dog]\n")


def named_beside_labels(root: Path) -> None:
    yolo(root)
    for part in ("train", "test"):
        shutil.copy(root / "classes.txt", root / part / "labels")
    (root / "classes.txt").unlink()


def without_division(root: Path) -> None:
    voc(root)
    (root / "ImageSets/Main/train.txt").rename(root / "ImageSets/Main/trainval.txt")


def with_captions(root: Path) -> None:
    """As COCO's archives, which have other files of the same images; and two images of different splits have a name."""
    coco(root)
    (root / "annotations/captions_train2017.json").write_text('{"annotations": []}')
    (root / "test/3.png").rename(root / "test/0.png")
    picture(9, 7, 7).save(root / "0.png")
    change("annotations/instances_test2017.json", "3.png", "0.png")(root)


@pytest.mark.parametrize(
    "write", [voc, yolo, coco, named_by_yaml, named_in_a_list, named_beside_labels, without_division, with_captions]
)
def test_boxes_are_read_alike_from_every_format(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path)
    data = load("boxes", tmp_path, {"image_size": 20}, val_size=0)
    assert data.info.classes == ("cat", "dog") and data.test is not None
    assert (len(data.train), len(data.test)) == (3, 1)
    difficult = 0.0 if (tmp_path / "train/labels").is_dir() else 1.0
    half, third = 20 / 40, 20 / 30
    expected = torch.tensor(
        [[0, 4 * half, 2 * third, 24 * half, 12 * third, 0], [1, 20 * half, 10 * third, 20, 20, difficult]]
    )
    assert torch.allclose(data.train.labels, expected.expand(3, 2, 6), atol=1e-4)
    assert data.train.source.read([0]).shape == (1, 20, 20, 3)
    assert not torch.equal(data.train.source.read([0]), data.test.source.read([0]))


BAD: dict[str, tuple[Callable[[Path], None], Callable[[Path], object], tuple[str, ...]]] = {
    "broken XML": (voc, change("Annotations/0.xml", "</object></annotation>", ""), ("0.xml", "PASCAL VOC")),
    "no area": (voc, change("Annotations/1.xml", "<xmax>24</xmax>", "<xmax>5</xmax>"), ("1.xml", "no area")),
    "outside": (voc, change("Annotations/1.xml", "<xmax>40</xmax>", "<xmax>400</xmax>"), ("1.xml", "outside", "40×30")),
    "no image": (voc, lambda root: (root / "JPEGImages/2.jpg").unlink(), ("2.xml", "no image")),
    "no annotation": (voc, lambda root: (root / "Annotations/2.xml").unlink(), ("2.jpg", "no annotation")),
    "a number beyond the classes": (yolo, change("train/labels/0.txt", "1 0.75", "5 0.75"), ("0.txt", "0 to 1")),
    "no labels": (yolo, lambda root: (root / "train/labels/1.txt").unlink(), ("1.png", "1.txt")),
    "labels alone": (yolo, lambda root: (root / "train/images/1.png").unlink(), ("1.txt",)),
    "broken JSON": (coco, change("annotations/instances_train2017.json", '"bbox"', '"box"'), ("train2017", "bbox")),
    "too few numbers": (coco, change("annotations/instances_train2017.json", "[4, 2, 20, 10]", "[4, 2, 20]"),
                        ("train2017", "values")),
    "two files for a split": (coco, lambda root: (root / "annotations/instances_train2014.json").write_text("{}"),
                              ("train2014", "train2017")),
    "two images of a name": (voc, lambda root: picture(0, 30, 40).save(root / "JPEGImages/1.png"), ("1.jpg", "1.png")),
    "two images of a label": (yolo, lambda root: picture(0, 30, 40).save(root / "train/images/1.jpg"),
                              ("1.jpg", "1.png")),
    "another shape": (voc, lambda root: picture(0, 40, 30).save(root / "JPEGImages/1.jpg"),
                      ("1.xml", "40×30", "30×40")),
    "no names": (named_by_yaml, change("data.yaml", "names", "labels"), ("data.yaml", "names")),
    "a word for names": (named_by_yaml, lambda root: (root / "data.yaml").write_text("names: cat"), ("data.yaml",)),
    "a split without lists": (without_division,
                              lambda root: (root / "ImageSets/Main/val.txt").write_text("2\n"), ("train",)),
    "a split without boxes": (yolo, lambda root: (root / "test/labels/3.txt").write_text(""), ("test", "box")),
    "nothing": (lambda root: (root / "things").mkdir(parents=True), lambda root: None, ("things", "VOC", "YOLO")),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_boxes_are_refused_by_file_and_reason(refused: Callable[..., str], folder: Path, case: str) -> None:
    write, spoil, names = BAD[case]
    write(folder / "data")
    spoil(folder / "data")
    network = ("model=yolo_v1", "model.backbone=resnet20", "model.grid=4", "augmentation=none")
    line = refused("fit", *network, "dataset=boxes", "dataset.root=data", "dataset.image_size=16")
    assert all(name in line for name in names), line


def test_an_unknown_class_is_refused_with_the_nearest_and_bad_boxes_can_be_left_out(
    refused: Callable[..., str], folder: Path
) -> None:
    voc(folder / "data")
    words = ("model=yolo_v1", "model.backbone=resnet20", "model.grid=4", "dataset=boxes", "dataset.root=data")
    line = refused("fit", *words, "dataset.class_names=[cats,dog]", "dataset.image_size=16")
    assert "'cat'" in line and "cats" in line
    change("Annotations/1.xml", "<xmax>24</xmax>", "<xmax>5</xmax>")(folder / "data")
    data = load("boxes", folder / "data", {"image_size": 16, "bad_boxes": "skip"}, val_size=0)
    assert (data.train.labels[..., 0] >= 0).sum(1).tolist() == [2, 1, 2] and "1 box" in data.remarks[0]


# --- runs


def test_a_training_that_is_stopped_and_resumed_ends_with_the_same_bits(cnntrain: Call, folder: Path) -> None:
    words = [*WORDS, "augmentation=strong", "trainer.accumulate=2"]
    steps = cnntrain("fit", *words, "output_dir=whole")["steps"]
    cut(*words, "output_dir=cut", nth=steps - 1)
    assert cnntrain("fit", *words, "output_dir=cut")["resumed_from"] == steps - 1
    agree(folder / "whole", folder / "cut")


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trainings that differ in their width."""
    folder = tmp_path_factory.mktemp("runs")
    for name, width in (("run", 8), ("other", 12)):
        assert main(["fit", *WORDS, f"model.width={width}", f"output_dir={folder / name}"]) == 0
    return folder


def test_runs_are_evaluated_compared_reported_and_used(cnntrain: Call, folder: Path, two_runs: Path) -> None:
    shutil.copytree(two_runs, folder, dirs_exist_ok=True)
    found = cnntrain("eval", "run=run")
    assert {"task", "n", "loss", "map50", "map50_low", "map50_high"} <= found.keys() and found["n"] == 12
    assert all({"class", "n", "ap50"} <= row.keys() for row in found["per_class"])
    (test,) = cnntrain("compare", "runs=[run,other]")["over_images"]
    assert test["n"] == 12 and 0 < test["p"] <= 1
    assert Path(cnntrain("report", "run=run")["report"]).is_file()
    for number in range(3):
        picture(number, 20, 24).save(folder / f"{number}.png")
    predicted = cnntrain("predict", "run=run", "images='*.png'", "output_dir=answers", "report=true")
    boxes = json.loads((folder / "answers/boxes.json").read_text())
    assert predicted["n"] == 3 and [Path(each["file"]).name for each in boxes] == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("model=lenet5",), ("lenet5", "yolo_v1")),
        (("augmentation.mixup.alpha=0.2",), ("mixup",)),
        (("dataset.balance=weights",), ("balance",)),
        (("model.grid=5",), ("model.grid=5", "4×4")),
    ],
)
def test_what_does_not_fit_together_is_refused(
    refused: Callable[..., str], words: tuple[str, ...], names: tuple[str, ...]
) -> None:
    kept = [word for word in WORDS if not (words[0] == "model=lenet5" and word.startswith("model"))]
    line = refused("fit", *kept, *words)
    assert all(name in line for name in names), line


def test_one_class_is_enough_and_images_of_any_size_are_searched(cnntrain: Call, folder: Path) -> None:
    """Boxes are in pixels of their files, whose larger side may be the height or the width, and lie in them."""
    yolo(folder / "data")
    for file in (folder / "data").rglob("labels/*.txt"):
        file.write_text("0 0.5 0.5 0.4 0.6\n")
    (folder / "data/classes.txt").write_text("cell\n")
    words = [word for word in WORDS if not word.startswith(("dataset", "trainer.epochs", "trainer.batch"))]
    data = (
        "dataset=boxes",
        "dataset.root=data",
        "dataset.image_size=16",
        "dataset.val_size=0",
        "trainer.epochs=60",
        "trainer.batch_size=3",
    )
    cnntrain("fit", *words, *data, "output_dir=run")
    assert [row["class"] for row in cnntrain("eval", "run=run", "split=train")["per_class"]] == ["cell"]
    sizes = [(7, 90), (90, 7), (33, 16)]
    for number, size in enumerate(sizes):
        picture(number, *size).save(folder / f"{number}.png")
    cnntrain("predict", "run=run", "images='*.png'", "output_dir=answers", "report=true")
    answers = json.loads((folder / "answers/boxes.json").read_text())
    assert [(each["height"], each["width"]) for each in answers] == sizes and any(each["boxes"] for each in answers)
    for each in answers:
        for left, top, right, bottom in (box["box"] for box in each["boxes"]):
            assert 0 <= left <= right <= each["width"] and 0 <= top <= bottom <= each["height"]


def test_a_page_calls_no_difficult_object_missed() -> None:
    objects = np.array([[[0, 2, 2, 8, 8, 1], [0, 10, 10, 14, 14, 0]]], dtype=np.float32)
    found = np.full((1, 100, 6), -1, dtype=np.float32)
    assert missed_objects(found, objects, 1).tolist() == [1]
    found[0, 0] = [0, 0.9, 10, 10, 14, 14]
    assert missed_objects(found, objects, 1).tolist() == [0]


# --- PASCAL VOC by name


def packed_voc(root: Path, names: dict[str, list[str]], archive: str, folder: str) -> str:
    """Write an archive with the images of some lists, each with a box and a mask; return its checksum."""
    made = root / "made" / folder
    for kind in ("Main", "Segmentation"):
        (made / "ImageSets" / kind).mkdir(parents=True)
        for part, images in names.items():
            (made / "ImageSets" / kind / f"{part}.txt").write_text("".join(f"{name}\n" for name in images))
    for name in [name for images in names.values() for name in images]:
        for place in ("JPEGImages", "SegmentationClass", "Annotations"):
            (made / place).mkdir(exist_ok=True)
        picture(int(name), 30, 40).save(made / "JPEGImages" / f"{name}.jpg")
        mask = np.zeros((30, 40), dtype=np.uint8)
        mask[5:15, 10:30], mask[4, 10:30] = 12, 255
        write_mask(mask, made / "SegmentationClass" / f"{name}.png", palette(21))
        corners = "<xmin>11</xmin><ymin>6</ymin><xmax>30</xmax><ymax>15</ymax>"
        body = f"<object><name>dog</name><difficult>0</difficult><bndbox>{corners}</bndbox></object>"
        size = "<size><width>40</width><height>30</height></size>"
        (made / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{body}</annotation>")
    with tarfile.open(root / archive, "w") as packed:
        packed.add(root / "made" / "VOCdevkit", "VOCdevkit")
    shutil.rmtree(root / "made")
    return f"md5:{md5(root / archive)}"


def test_voc_2007_is_joined_of_two_archives_as_boxes_or_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter(range(100))
    first = {part: [f"{next(numbers):06}" for _ in range(n)] for part, n in (("train", 4), ("val", 2))}
    second = {"test": [f"{next(numbers):06}" for _ in range(3)]}
    archives = tuple(
        archive._replace(checksum=packed_voc(tmp_path, names, archive.name, archive.folder))
        for archive, names in zip(pascal.ARCHIVES["voc2007"], (first, second), strict=True)
    )
    monkeypatch.setitem(pascal.ARCHIVES, "voc2007", archives)
    boxes = load("voc2007", tmp_path, {"image_size": 60})
    assert [len(split) for split in (boxes.train, boxes.val, boxes.test) if split] == [4, 2, 3]
    label, *box, difficult = boxes.train.labels[0, 0].tolist()
    assert boxes.info.classes[int(label)] == "dog" and difficult == 0
    assert box == pytest.approx([10 * 60 / 40, 5 * 60 / 30, 30 * 60 / 40, 15 * 60 / 30])
    maps = load("voc2007", tmp_path, {"image_size": 30, "targets": "maps"})
    assert [len(split) for split in (maps.train, maps.val, maps.test) if split] == [4, 2, 3]
    seen = maps.train.source.read([0])[0, ..., 3]
    assert maps.info.classes[12] == "dog" and set(seen.unique().tolist()) == {0, 12, 255}
    damaged = tmp_path / "elsewhere"
    damaged.mkdir()
    (damaged / archives[0].name).write_bytes(b"none")
    with pytest.raises(InputError, match="checksum"):
        load("voc2007", damaged, {})


def test_of_voc_2012_the_validation_images_are_the_test_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (archive,) = pascal.ARCHIVES["voc2012"]
    lists = {"train": [f"{number:06}" for number in range(12)], "val": ["000020", "000021"]}
    checksum = packed_voc(tmp_path, lists, archive.name, archive.folder)
    monkeypatch.setitem(pascal.ARCHIVES, "voc2012", (archive._replace(checksum=checksum),))
    for targets in ("boxes", "maps"):
        data = load("voc2012", tmp_path, {"image_size": 30, "targets": targets})
        assert data.test is not None and data.val is not None
        assert (len(data.train) + len(data.val), len(data.test)) == (12, 2)


@pytest.mark.parametrize("name", pascal.ARCHIVES)
def test_addresses_and_checksums_of_voc_are_torchvisions(name: str) -> None:
    known = torchvision_voc.DATASET_YEAR_DICT
    for archive, key in zip(pascal.ARCHIVES[name], (name[3:], f"{name[3:]}-test"), strict=False):
        assert archive.url == known[key]["url"] and archive.checksum == f"md5:{known[key]['md5']}"
        assert archive.folder == known[key]["base_dir"]
