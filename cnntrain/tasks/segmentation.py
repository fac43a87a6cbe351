"""Segmentation: a class for every pixel. Answers are logits [B, classes, H', W'], targets label maps, uint8 [B, H, W].

A pixel that is `IGNORED` in the label map has no class: it has no loss and is not scored. An answer smaller than its
target, as an unpadded network gives it, is about the target's centre.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NotRequired, TypedDict, get_type_hints

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cnntrain.data.datasets.splits import pixel_weights
from cnntrain.data.storage.borders import split_weights
from cnntrain.data.storage.images import IGNORED, DatasetInfo, Split, TargetKind
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.ranges import Count, Natural
from cnntrain.runtime.tables import percent, render, terminal_width
from cnntrain.stats import segmentation
from cnntrain.stats.metrics import confusions
from cnntrain.stats.paired_tests import Pairs
from cnntrain.tasks.task import Headline, Number, Numbers, Way, about_groups, by_resampling, kept_of_all


class PixelTrainNumbers(TypedDict):
    """Of the last steps of a training."""

    task: str
    loss: Number
    miou: Number


class PixelValNumbers(TypedDict):
    """Of a validation; the interval is over images."""

    task: str
    n: Natural
    loss: Number
    miou: Number
    miou_low: Number
    miou_high: Number
    pixel_accuracy: Number
    never_predicted: list[str]


PixelClassNumbers = TypedDict(
    "PixelClassNumbers",
    {
        "class": str,
        "n": Natural,  # labelled pixels
        "images": Natural,  # that show it
        "iou": Number,
        "iou_low": Number,
        "iou_high": Number,
        "accuracy": Number,
    },
)


class PixelEvalNumbers(TypedDict):
    """Of an evaluation; intervals are over images, or over groups of them."""

    task: str
    n: Count
    groups: NotRequired[Count | None]
    pixels: Natural
    loss: Number
    miou: Number
    miou_low: Number
    miou_high: Number
    pixel_accuracy: Number
    mean_accuracy: Number
    fw_iou: Number
    per_class: list[PixelClassNumbers]
    confusion: list[list[Natural]]


class PixelCellNumbers(TypedDict):
    """Of a study's cell."""

    task: str
    train_miou: float
    test_miou: float
    test_n: Count


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Cross-entropy over the labelled pixels of images of `size`; `class_weights` [classes] multiply a class's loss.

    With a `border_weight` the label maps of training hold border weights (`storage/borders.py`), which are added to
    those of the classes so many times.
    """

    classes: tuple[str, ...]
    size: tuple[int, int]
    class_weights: Tensor | None = None
    label_smoothing: float = 0.0
    border_weight: float = 0.0

    name: ClassVar[str] = "segmentation"
    targets: ClassVar[TargetKind] = "maps"
    gives: ClassVar[str] = "a class for every pixel"
    takes: ClassVar[frozenset[Way]] = frozenset(("weights", "label_smoothing", "border_weight"))
    headline: ClassVar[Headline] = by_resampling("miou", "mIoU")
    train_numbers: ClassVar[type] = PixelTrainNumbers
    val_numbers: ClassVar[type] = PixelValNumbers
    eval_numbers: ClassVar[type] = PixelEvalNumbers
    cell_numbers: ClassVar[type] = PixelCellNumbers
    decisive: ClassVar[str] = "confusion"
    train_keys: ClassVar[tuple[str, ...]] = tuple(get_type_hints(PixelTrainNumbers))
    val_keys: ClassVar[tuple[str, ...]] = tuple(get_type_hints(PixelValNumbers))

    @classmethod
    def of(cls, info: DatasetInfo) -> "Segmentation":
        """Return the task of a dataset."""
        return cls(info.classes, info.shape[1:])

    def reads(self, answer: Sequence[int]) -> bool:
        """Say whether an answer is a logit for each class, of each pixel or of those around the centre."""
        if len(answer) != 3:
            return False
        classes, *size = answer
        return classes == len(self.classes) and all(map(int.__le__, size, self.size))

    def class_weights_of(self, train: Split) -> Tensor:
        """Return weights by the number of pixels."""
        return pixel_weights(train, len(self.classes))

    @property
    def weighted(self) -> bool:
        """A batch counts by its labelled pixels."""
        return True

    def loss(self, answer: Tensor, target: Tensor) -> Tensor:
        """Return the mean cross-entropy over labelled pixels; with weights it is divided by their sum."""
        if self.border_weight:
            return self.border_loss(answer, target)
        logits, labels = by_pixel(answer, target)
        total = F.cross_entropy(
            logits,
            labels,
            self.class_weights,
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        return total / self.pixel_weight(labels)

    def border_loss(self, answer: Tensor, target: Tensor) -> Tensor:
        """Return the mean cross-entropy over labelled pixels, each by its own weight."""
        logits, coded = by_pixel(answer, target)
        labels, weights = self.weighted_labels(coded)
        losses = F.cross_entropy(
            logits, labels, ignore_index=IGNORED, reduction="none", label_smoothing=self.label_smoothing
        )
        return (losses * weights).sum() / weights.sum().clamp(min=1e-6)

    def weight(self, target: Tensor) -> Tensor:
        """Return the sum of the weights of a batch's labelled pixels."""
        if self.border_weight:
            return self.weighted_labels(target)[1].sum().clamp(min=1e-6)
        return self.pixel_weight(target.flatten().long())

    def weighted_labels(self, coded: Tensor) -> tuple[Tensor, Tensor]:
        """Return classes, int64 […], and weights of pixels, from label maps that hold border weights."""
        labels, border = split_weights(coded, len(self.classes))
        return labels, self.of_class(labels) + self.border_weight * border

    def of_class(self, labels: Tensor) -> Tensor:
        """Return the weights of the classes of pixels […]; one without a class has none."""
        if self.class_weights is None:
            return (labels != IGNORED).float()
        return F.pad(self.class_weights, (0, IGNORED + 1 - len(self.class_weights)))[labels]

    def pixel_weight(self, labels: Tensor) -> Tensor:
        """Return the sum of the weights of labels […], and never zero: a batch may have no labelled pixel."""
        if self.class_weights is None:
            return (labels != IGNORED).sum().clamp(min=1)
        return self.of_class(labels).sum().clamp(min=1e-6)

    @property
    def no_counts(self) -> dict[str, Tensor]:
        """No pixels."""
        return {"confusion": torch.zeros(len(self.classes), len(self.classes), dtype=torch.int64)}

    def counts(self, answer: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the confusion matrix of a batch's pixels; rows are the truth."""
        if self.border_weight:
            target = self.weighted_labels(target)[0]
        return {"confusion": confusion_of(answer, target).sum(dim=0)}

    def score(self, sums: Mapping[str, Tensor], n: int) -> Numbers:
        """Return the mean intersection over union."""
        return {"task": self.name, "miou": segmentation.share(segmentation.mean_iou(sums["confusion"].cpu().numpy()))}

    def kept(self, answer: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return each image's confusion matrix, int64 [B, classes, classes], and summed loss, float64 [B]."""
        logits, labels = by_pixel(answer, target)
        losses = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
        return {
            "confusion": confusion_of(answer, target),
            "loss": losses.view(len(target), -1).sum(dim=1, dtype=torch.float64),
        }

    def validate(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> Numbers:
        """Return n, mean loss, mIoU with its interval over images, pixel accuracy, and what is never predicted."""
        none = {"confusion": self.no_counts["confusion"][None][:0], "loss": torch.zeros(0, dtype=torch.float64)}
        kept = kept_of_all(self, pairs, none)
        if len(kept["loss"]) and not kept["confusion"].any():
            raise InputError("no pixel of the validation images has a class, so that nothing says which epoch is best")
        numbers = self.measure(kept)
        never = [
            name
            for name, right, predicted in zip(
                self.classes, kept["confusion"].sum((0, 2)), kept["confusion"].sum((0, 1)), strict=True
            )
            if right and not predicted
        ]
        return {key: numbers.get(key) for key in self.val_keys} | {"never_predicted": never}

    def measure(self, kept: Mapping[str, Tensor]) -> Numbers:
        """Return the numbers of `stats.segmentation.segmentation`."""
        groups = kept["groups"].numpy() if "groups" in kept else None
        numbers = segmentation.segmentation(kept["confusion"].numpy(), kept["loss"].numpy(), self.classes, groups)
        return {"task": self.name, **numbers}

    @staticmethod
    def per_image(kept: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return confusion matrices, int64 [N, classes, classes]."""
        return kept["confusion"]

    @staticmethod
    def paired(first: np.ndarray, second: np.ndarray, groups: np.ndarray | None = None) -> Pairs:
        """Compare mean IoU over images, or groups of them."""
        return segmentation.paired(first, second, groups)

    def image_columns(self, kept: Mapping[str, Tensor]) -> list[dict[str, object]]:
        """Return what a table says of each image: its mIoU, pixel accuracy and labelled pixels."""
        confusion = kept["confusion"].numpy()
        iou, accuracy = segmentation.mean_iou(confusion), segmentation.pixel_accuracy(confusion)
        return [
            {"miou": f"{one:.6f}", "pixel_accuracy": f"{right:.6f}", "pixels": int(counts.sum())}
            for one, right, counts in zip(iou, accuracy, confusion, strict=True)
        ]

    def baseline(self, targets: Tensor | None) -> Numbers:
        """Return what the results of a run say of its task."""
        return {"task": self.name, "headline": self.headline.key}

    @staticmethod
    def remarks(result: Mapping[str, Any]) -> Iterator[str]:
        """Yield the pixel accuracy."""
        yield f"pixel accuracy    {percent(result['best']['pixel_accuracy'])}"

    @staticmethod
    def details(results: Mapping[str, Any]) -> Iterator[str]:
        """Yield accuracies, loss, a table of the classes and the frequent confusions."""
        yield from about_groups(results)
        mean = percent(results["mean_accuracy"])
        yield f"accuracy      {percent(results['pixel_accuracy'])} of the pixels, {mean} of a class's in the mean"
        yield f"loss          {results['loss']:.4f} over {results['pixels']:,} labelled pixels\n"
        yield render([class_row(row) for row in results["per_class"]], width=terminal_width())
        if mistakes := confusions(results["confusion"], [row["class"] for row in results["per_class"]]):
            yield f"\nmost often confused: {'; '.join(mistakes)}"

    @staticmethod
    def warnings(result: Mapping[str, Any]) -> Iterator[str]:
        """Yield the classes that a network never predicts."""
        if absent := result["best"].get("never_predicted"):
            yield f"never predicted in validation: {', '.join(absent)}"


def class_row(row: Mapping[str, Any]) -> dict[str, object]:
    """Return a class as a line of a table; one that is neither there nor predicted has no numbers."""
    if row["iou"] is None:
        return {"class": row["class"], "images": row["images"]} | dict.fromkeys(
            ("pixels", "IoU", "interval", "accuracy")
        )
    return {
        "class": row["class"],
        "images": row["images"],
        "pixels": f"{row['n']:,}",
        "IoU": percent(row["iou"]),
        "interval": f"{100 * row['iou_low']:.1f} … {100 * row['iou_high']:.1f}",
        "accuracy": None if row["accuracy"] is None else percent(row["accuracy"]),
    }


def centred(target: Tensor, answer: Tensor) -> Tensor:
    """Return the centre of label maps [B, H, W] that answers [B, classes, H', W'] are about."""
    (height, width), (tall, wide) = target.shape[1:], answer.shape[2:]
    top, left = (height - tall) // 2, (width - wide) // 2
    return target[:, top : top + tall, left : left + wide]


def by_pixel(answer: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits, float32 [B, classes, H', W'], and labels, int64 [B, H', W'], of all pixels that answers are about.

    On a GPU they lie as [P, classes] and [P]: torch's loss of maps has no repeatable gradient there. On a CPU, where it
    has, this shape would take three times as long.
    """
    labels = centred(target, answer).long()
    if not answer.is_cuda:
        return answer.float(), labels
    return answer.float().permute(0, 2, 3, 1).reshape(-1, answer.shape[1]), labels.reshape(-1)


def confusion_of(answer: Tensor, target: Tensor) -> Tensor:
    """Return the confusion matrix of each image, int64 [B, classes, classes]; rows are the truth.

    Pixels without a class are counted where nobody looks. It never synchronises with the device, as bincount would.
    """
    images, classes = answer.shape[:2]
    labels, predicted = centred(target, answer).long(), answer.argmax(dim=1)
    cells = torch.where(labels == IGNORED, classes**2, labels * classes + predicted).view(images, -1)
    counts = torch.zeros(images, classes**2 + 1, dtype=torch.int64, device=answer.device)
    counts.scatter_add_(1, cells, torch.ones_like(cells))
    return counts[:, :-1].reshape(images, classes, classes)


def palette(count: int) -> np.ndarray:
    """Return a colour for each of `count` classes, uint8 [count, 3]: PASCAL VOC's, in which bits of the number mix."""
    numbers = np.arange(count)
    colours = np.zeros((count, 3), dtype=np.uint8)
    for place in range(8):
        for channel in range(3):
            colours[:, channel] |= (((numbers >> (3 * place + channel)) & 1) << (7 - place)).astype(np.uint8)
    return colours
