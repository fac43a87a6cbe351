"""Detection on a grid (YOLO v1). Answers are [B, 5 × boxes + classes, S, S], targets float32 [B, M, 6].

A target's box is its class, left, top, right and bottom in pixels, and whether it is difficult; the class -1 is none.
Of each box an answer holds the middle within its cell, the roots of its width and height as parts of the image, and its
confidence; then the classes. The loss is that of darknet's detection layer, where the paper is silent: of the boxes of
a cell with an object that of the largest IoU is responsible, or of the smallest distance where none overlaps; its
confidence is to be that IoU, through which no gradient flows; of two objects in one cell the first counts.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NotRequired, TypedDict, get_type_hints

import numpy as np
import torch
from torch import Tensor

from cnntrain.data.augment.boxes import area
from cnntrain.data.storage.images import DatasetInfo, Split, TargetKind
from cnntrain.runtime.ranges import Count, Natural
from cnntrain.runtime.tables import percent, render, terminal_width
from cnntrain.stats import detection
from cnntrain.stats.paired_tests import Pairs
from cnntrain.tasks.task import Headline, Number, Numbers, Way, about_groups, by_resampling, kept_of_all

COORDINATES, NO_OBJECT = 5.0, 0.5  # weights of the loss
OVERLAP = 0.5  # above which of two boxes of a class the less likely is dropped
MOST = 100  # detections an image
NOTHING_KEPT = {  # of no image
    "detections": torch.zeros(0, MOST, 6),
    "objects": torch.zeros(0, 0, 6),
    "loss": torch.zeros(0, dtype=torch.float64),
    "lost": torch.zeros(0, dtype=torch.int64),
}


class BoxTrainNumbers(TypedDict):
    """Of the last steps of a training; average precision is not known of them."""

    task: str
    loss: Number
    map50: Number
    found: Number  # share of the objects whose responsible box has an IoU of 0.5 and the right class


class BoxValNumbers(TypedDict):
    """Of a validation; the interval is over images."""

    task: str
    n: Natural
    loss: Number
    map50: Number
    map50_low: Number
    map50_high: Number


BoxClassNumbers = TypedDict(
    "BoxClassNumbers",
    {"class": str, "n": Natural, "ap50": Number, "ap50_low": Number, "ap50_high": Number, "ap50_11": Number},
)


class BoxEvalNumbers(TypedDict):
    """Of an evaluation; intervals are over images."""

    task: str
    n: Count
    groups: NotRequired[Count | None]
    objects: Natural
    lost: Natural  # objects that share a cell with one before them, which the grid cannot give
    loss: Number
    map50: Number
    map50_low: Number
    map50_high: Number
    map50_11: Number
    map: Number
    per_class: list[BoxClassNumbers]


class BoxCellNumbers(TypedDict):
    """Of a study's cell."""

    task: str
    train_map50: float
    test_map50: float
    test_n: Count
    groups: NotRequired[None]


@dataclass(frozen=True, eq=False)
class Detection:
    """Darknet's loss for boxes in images of `size` (height, width)."""

    classes: tuple[str, ...]
    size: tuple[int, int]

    name: ClassVar[str] = "detection"
    targets: ClassVar[TargetKind] = "boxes"
    gives: ClassVar[str] = "boxes"
    takes: ClassVar[frozenset[Way]] = frozenset()
    headline: ClassVar[Headline] = by_resampling("map50", "mAP", of_steps=False)
    train_numbers: ClassVar[type] = BoxTrainNumbers
    val_numbers: ClassVar[type] = BoxValNumbers
    eval_numbers: ClassVar[type] = BoxEvalNumbers
    cell_numbers: ClassVar[type] = BoxCellNumbers
    decisive: ClassVar[str] = "detections"
    train_keys: ClassVar[tuple[str, ...]] = tuple(get_type_hints(BoxTrainNumbers))
    val_keys: ClassVar[tuple[str, ...]] = tuple(get_type_hints(BoxValNumbers))

    @classmethod
    def of(cls, info: DatasetInfo) -> "Detection":
        """Return the task of a dataset."""
        return cls(info.classes, info.shape[1:])

    def reads(self, answer: Sequence[int]) -> bool:
        """Say whether an answer is a square grid of boxes and classes."""
        if len(answer) != 3:
            return False
        channels, height, width = answer
        number, rest = divmod(channels - len(self.classes), 5)
        return height == width and number > 0 and not rest

    def class_weights_of(self, train: Split) -> Tensor:
        """Return one for each class: the loss takes none."""
        return torch.ones(len(self.classes))

    @property
    def weighted(self) -> bool:
        """A batch counts by its images."""
        return False

    def loss(self, answer: Tensor, target: Tensor) -> Tensor:
        """Return the mean over images of darknet's sum of squares."""
        return self.losses(answer, target).mean()

    def losses(self, answer: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each image [B]."""
        matched = self.matched(answer, target)
        confidence = matched.boxes[..., 4]
        total = NO_OBJECT * confidence.square().sum((1, 2))
        there, chosen = matched.there, matched.chosen
        own = matched.boxes.gather(2, chosen[..., None, None].expand(*chosen.shape, 1, 5))[:, :, 0]
        wanted = torch.cat((matched.middles, matched.roots), 2)
        of_object = (
            (matched.classes - matched.wanted).square().sum(2)
            + (own[..., 4] - matched.overlap).square()
            - NO_OBJECT * own[..., 4].square()
            + COORDINATES * (own[..., :4] - wanted).square().sum(2)
        )
        return total + (there * of_object).sum(1)

    def weight(self, target: Tensor) -> Tensor:
        """Return the number of images."""
        return torch.full((), len(target), device=target.device)

    def matched(self, answer: Tensor, target: Tensor) -> "Matched":
        """Return what an answer says of each cell, beside the object whose middle lies in it."""
        images, channels, side, _ = answer.shape
        number, cells = (channels - len(self.classes)) // 5, side * side
        flat = answer.float().permute(0, 2, 3, 1).reshape(images, cells, channels)
        boxes, classes = flat[..., : 5 * number].reshape(images, cells, number, 5), flat[..., 5 * number :]
        placed = self.placed(target, side)
        objects = placed.new_zeros(images, cells + 1, 6)
        objects.scatter_(1, placed[..., :1].long().expand_as(placed), placed)  # the last place takes what is in no cell
        objects = objects[:, :cells]
        there = objects[..., 5] > 0
        middles, sizes = objects[..., 1:3] % 1, objects[..., 3:5]
        with torch.no_grad():
            guessed = torch.cat((boxes[..., :2] / side, boxes[..., 2:4].square()), 3)
            truth = torch.cat((middles / side, sizes), 2)[:, :, None]
            overlaps = overlap(guessed, truth)
            distances = (guessed - truth).square().sum(3)
            chosen = torch.where((overlaps > 0).any(2), overlaps.argmax(2), distances.argmin(2))
            best = overlaps.gather(2, chosen[..., None])[..., 0]
        numbers = torch.arange(len(self.classes), device=answer.device)
        wanted = (target_class(objects)[..., None] == numbers).float()
        return Matched(boxes, classes, there.float(), middles, sizes.clamp(min=0).sqrt(), wanted, chosen, best)

    def placed(self, target: Tensor, side: int) -> Tensor:
        """Return each object [B, M, 6]: its cell, middle in cells, size as parts of the image, and 1 + its class.

        One that is none, or whose cell has another already, lies in the cell after the last.
        """
        height, width = self.size
        left, top, right, bottom = target[..., 1:5].unbind(2)
        x, y = (left + right) / (2 * width) * side, (top + bottom) / (2 * height) * side
        x, y = (value.clamp(0, side - 1e-4) for value in (x, y))
        cell = torch.where(target[..., 0] >= 0, y.floor() * side + x.floor(), -1.0)
        earlier = torch.ones(cell.shape[1], cell.shape[1], device=cell.device).tril(-1).bool()
        second = ((cell[:, :, None] == cell[:, None, :]) & earlier).any(2)
        cell = torch.where((cell >= 0) & ~second, cell, float(side * side))
        return torch.stack((cell, x, y, (right - left) / width, (bottom - top) / height, target[..., 0] + 1), 2)

    @property
    def no_counts(self) -> dict[str, Tensor]:
        """No objects."""
        return {name: torch.zeros((), dtype=torch.int64) for name in ("objects", "found")}

    def counts(self, answer: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return how many objects there are, and of how many the responsible box overlaps and the class is right."""
        matched = self.matched(answer, target)
        right = (matched.classes.argmax(2) == matched.wanted.argmax(2)) & (matched.overlap >= 0.5)
        found = (right & (matched.there > 0)).sum()
        return {"objects": (target[..., 0] >= 0).sum(), "found": found}

    def score(self, sums: Mapping[str, Tensor], n: int) -> Numbers:
        """Return the share of the objects that are found; average precision needs all images at once."""
        objects = int(sums["objects"])
        return {"task": self.name, "map50": None, "found": int(sums["found"]) / objects if objects else None}

    def kept(self, answer: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return each image's detections [B, 100, 6] (class, score, box in pixels), objects, loss and lost objects."""
        side = answer.shape[2]
        there = target[..., 0] >= 0
        lost = (there & (self.placed(target, side)[..., 0] == side * side)).sum(1)
        return {
            "detections": self.detections(answer),
            "objects": target.float(),
            "loss": self.losses(answer, target).double(),
            "lost": lost,
        }

    def detections(self, answer: Tensor) -> Tensor:
        """Return the likeliest boxes of each image after non-maximum suppression, on the CPU: float32 [B, 100, 6]."""
        from torchvision.ops import batched_nms  # it takes as long to import as torch

        images, channels, side, _ = answer.shape
        number, (height, width) = (channels - len(self.classes)) // 5, self.size
        flat = answer.float().cpu().permute(0, 2, 3, 1)
        boxes, classes = flat[..., : 5 * number].unflatten(3, (number, 5)), flat[..., 5 * number :]
        rows, cols = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        x, y = ((boxes[..., k] + place[..., None]) / side for k, place in ((0, cols), (1, rows)))
        wide, high = boxes[..., 2].square(), boxes[..., 3].square()
        corners = torch.stack(
            [(x - wide / 2) * width, (y - high / 2) * height, (x + wide / 2) * width, (y + high / 2) * height], 4
        )
        limits = torch.tensor([width, height, width, height], dtype=torch.float32)
        corners = torch.minimum(corners.clamp(min=0), limits).flatten(1, 3)
        scores = (boxes[..., 4, None] * classes[..., None, :]).flatten(1, 3)  # [B, boxes, classes]
        kept = torch.zeros(images, MOST, 6)
        kept[..., 0] = -1
        for image, (all_boxes, all_scores) in enumerate(zip(corners, scores, strict=True)):
            place, label = (all_scores > 0).nonzero(as_tuple=True)
            values = all_scores[place, label]
            best = batched_nms(all_boxes[place], values, label, OVERLAP)[:MOST]
            found = torch.cat((label[best, None].float(), values[best, None], all_boxes[place[best]]), 1)
            kept[image, : len(best)] = found
        return kept

    def validate(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> Numbers:
        """Return n, mean loss, and mean average precision with its interval over images."""
        kept = kept_of_all(self, pairs, NOTHING_KEPT)
        if not len(kept["loss"]):
            return dict.fromkeys(self.val_keys) | {"task": self.name, "n": 0}
        numbers = self.measure(kept)
        return {key: numbers[key] for key in self.val_keys}

    def measure(self, kept: Mapping[str, Tensor]) -> Numbers:
        """Return the numbers of `stats.detection.detection`, and how many objects the grid cannot give."""
        found, objects = (kept[key].numpy() for key in ("detections", "objects"))
        groups = kept["groups"].numpy() if "groups" in kept else None
        numbers = detection.detection(found, objects, self.classes, groups)
        loss, lost = float(kept["loss"].mean()), int(kept["lost"].sum())
        return {"task": self.name, "loss": loss, "lost": lost, **numbers}

    @staticmethod
    def per_image(kept: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return detections and objects of each image, float32 [N, 100 + M, 6]."""
        return np.concatenate((kept["detections"], kept["objects"]), axis=1)

    @staticmethod
    def paired(first: np.ndarray, second: np.ndarray, groups: np.ndarray | None = None) -> Pairs:
        """Compare mean average precision over images, or groups of them."""
        return detection.paired(first[:, :MOST], second[:, :MOST], first[:, MOST:], groups)

    def image_columns(self, kept: Mapping[str, Tensor]) -> list[dict[str, object]]:
        """Return how many objects an image has, and its detections of a score of 0.2 and more."""
        objects = (kept["objects"][..., 0] >= 0).sum(1).tolist()
        likely = (kept["detections"][..., 1] >= 0.2).sum(1).tolist()
        return [{"objects": n, "detections": found} for n, found in zip(objects, likely, strict=True)]

    def baseline(self, targets: Tensor | None) -> Numbers:
        """Return what the results of a run say of its task."""
        return {"task": self.name, "headline": self.headline.key}

    @staticmethod
    def remarks(result: Mapping[str, Any]) -> Iterator[str]:
        """Yield nothing."""
        yield from ()

    @staticmethod
    def details(results: Mapping[str, Any]) -> Iterator[str]:
        """Yield the other average precisions, loss, a table of the classes and what the grid cannot give."""
        yield from about_groups(results)
        yield f"VOC 2007, 11 points   {percent(results['map50_11'])}"
        yield f"COCO, IoU 0.5 … 0.95  {percent(results['map'])}"
        yield f"loss                  {results['loss']:.4f}\n"
        yield render([class_row(row) for row in results["per_class"]], width=terminal_width())
        if results["lost"]:
            of_all = f"{results['lost']:,} of {results['objects']:,} objects"
            yield f"\nthe grid cannot give {of_all}, which share a cell with another"

    @staticmethod
    def warnings(result: Mapping[str, Any]) -> Iterator[str]:
        """Yield nothing."""
        yield from ()


@dataclass(frozen=True)
class Matched:
    """What an answer says of each cell [B, S·S, …], beside the object in it."""

    boxes: Tensor  # [B, cells, boxes, 5]
    classes: Tensor  # [B, cells, classes]
    there: Tensor  # 1 where there is an object
    middles: Tensor  # [B, cells, 2] of the object, within the cell
    roots: Tensor  # [B, cells, 2] of its width and height
    wanted: Tensor  # [B, cells, classes]: 1 for its class
    chosen: Tensor  # the responsible box
    overlap: Tensor  # its IoU


def target_class(objects: Tensor) -> Tensor:
    """Return the classes of objects that `placed` gives."""
    return objects[..., 5].round() - 1


def overlap(one: Tensor, other: Tensor) -> Tensor:
    """Return the IoU of boxes [..., 4] given by their middle, width and height, pair by pair."""
    a, b = (torch.cat((box[..., :2] - box[..., 2:] / 2, box[..., :2] + box[..., 2:] / 2), -1) for box in (one, other))
    both = torch.cat((torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])), -1)
    shared = area(both)
    return shared / (area(a) + area(b) - shared).clamp(min=1e-9)


def class_row(row: Mapping[str, Any]) -> dict[str, object]:
    """Return a class as a line of a table; one without objects has no numbers."""
    if row["ap50"] is None:
        return {"class": row["class"], "objects": row["n"]} | dict.fromkeys(("AP", "interval", "11 points"))
    return {
        "class": row["class"],
        "objects": row["n"],
        "AP": percent(row["ap50"]),
        "interval": f"{100 * row['ap50_low']:.1f} … {100 * row['ap50_high']:.1f}",
        "11 points": percent(row["ap50_11"]),
    }
