"""Classification: one class an image. Answers are logits [B, classes], targets class numbers [B].

Mixed targets are probabilities [B, classes].
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NotRequired, TypedDict, get_type_hints

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cnntrain.data.datasets.splits import class_weights
from cnntrain.data.storage.images import DatasetInfo, Split, TargetKind
from cnntrain.runtime import distributed
from cnntrain.runtime.errors import listed
from cnntrain.runtime.ranges import Count, Natural
from cnntrain.runtime.tables import percent, render, terminal_width
from cnntrain.stats.intervals import wilson
from cnntrain.stats.metrics import TOP5_FROM, classification, confusions
from cnntrain.stats.paired_tests import Pairs, discordant_pairs
from cnntrain.tasks.task import Headline, Number, Numbers, Way

UNEQUAL = 1.25  # times its even share has the commonest class from which on top-1 alone can mislead
MOST_CLASSES = 20  # in the table of an evaluation
Hinge = Literal["crammer_singer", "squared"]


# What records hold, by key.


class TrainNumbers(TypedDict):
    """Of the last steps of a training."""

    loss: Number
    top1: float


class ValNumbers(TypedDict):
    """Of a validation; older versions did not record those that may be absent."""

    n: Natural
    loss: Number
    top1: float
    top1_low: float
    top1_high: float
    balanced_accuracy: NotRequired[Number]
    never_predicted: NotRequired[list[str] | None]


ClassNumbers = TypedDict(
    "ClassNumbers",
    {"class": str, "n": Natural, "top1": NotRequired[Number], "precision": float, "recall": float, "f1": float},
)


class EvalNumbers(TypedDict):
    """Of an evaluation."""

    n: Count
    loss: Number
    top1: float
    top1_low: float
    top1_high: float
    top5: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    balanced_accuracy: NotRequired[float]
    ece: float
    per_class: list[ClassNumbers]
    confusion: list[list[Natural]]


Majority = TypedDict("Majority", {"class": str, "share": float, "even_share": float})


class CellNumbers(TypedDict):
    """Of a study's cell."""

    train_top1: float
    test_top1: float
    test_n: Count


@dataclass(frozen=True, eq=False)
class Classification:
    """Classification with cross-entropy, or a hinge loss; `class_weights` [classes] multiply each class's loss.

    A hinge loss takes class numbers only, and no label smoothing. Validations report cross-entropy all the same, so
    that networks can be compared.
    """

    classes: tuple[str, ...]
    class_weights: Tensor | None = None
    label_smoothing: float = 0.0
    hinge: Hinge | None = None

    name: ClassVar[str] = "classification"
    targets: ClassVar[TargetKind] = "classes"
    gives: ClassVar[str] = "a class for every image"
    takes: ClassVar[frozenset[Way]] = frozenset(("weights", "sampling", "label_smoothing", "hinge", "mixing", "resize"))
    headline: ClassVar[Headline] = Headline("top1", "top-1")
    train_numbers: ClassVar[type] = TrainNumbers
    val_numbers: ClassVar[type] = ValNumbers
    eval_numbers: ClassVar[type] = EvalNumbers
    cell_numbers: ClassVar[type] = CellNumbers
    decisive: ClassVar[str] = "probabilities"
    train_keys: ClassVar[tuple[str, ...]] = tuple(get_type_hints(TrainNumbers))
    val_keys: ClassVar[tuple[str, ...]] = tuple(get_type_hints(ValNumbers))

    @classmethod
    def of(cls, info: DatasetInfo) -> "Classification":
        """Return the task of a dataset."""
        return cls(info.classes)

    def reads(self, answer: Sequence[int]) -> bool:
        """Say whether an answer is a logit for each class."""
        return tuple(answer) == (len(self.classes),)

    def class_weights_of(self, train: Split) -> Tensor:
        """Return weights by the number of images."""
        return class_weights(train.labels, len(self.classes))

    @property
    def weighted(self) -> bool:
        """Whether classes have weights."""
        return self.class_weights is not None

    def loss(self, answer: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss; with class weights it is divided by their sum over the images.

        torch divides by that sum for class numbers only, and by the number of images for probabilities.
        """
        logits, weights, smoothing = answer.float(), self.class_weights, self.label_smoothing
        if self.hinge:
            losses = HINGES[self.hinge](logits, target)
            return losses.mean() if weights is None else losses @ weights[target] / self.weight(target)
        if weights is not None and smoothing and not target.is_floating_point():
            return smoothed(logits, target, weights, smoothing)
        loss = F.cross_entropy(logits, target, weights, label_smoothing=smoothing)
        if weights is None or not target.is_floating_point():
            return loss
        return loss * (len(target) / self.weight(target))

    def weight(self, target: Tensor) -> Tensor:
        """Return the sum of the class weights of a batch."""
        assert self.class_weights is not None
        return (target @ self.class_weights if target.is_floating_point() else self.class_weights[target]).sum()

    @property
    def no_counts(self) -> dict[str, Tensor]:
        """No images right."""
        return {"right": torch.zeros((), dtype=torch.int64)}

    def counts(self, answer: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the number of images whose class has the largest logit."""
        return {"right": (answer.argmax(dim=1) == target).sum()}

    def score(self, sums: Mapping[str, Tensor], n: int) -> Numbers:
        """Return the top-1 accuracy."""
        return {"top1": int(sums["right"]) / n}

    def validate(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> Numbers:
        """Return n, mean cross-entropy, top-1 with its Wilson interval at 95 %, and `by_class`."""
        batches = list(pairs)
        logits = torch.cat([answer for answer, _ in batches]).cpu() if batches else torch.empty(0, len(self.classes))
        labels = torch.cat([target for _, target in batches]).cpu() if batches else torch.empty(0, dtype=torch.int64)
        return score(logits, labels) | by_class(logits, labels, self.classes)

    def kept(self, answer: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return logits, float32 [B, classes], and labels, int64 [B]."""
        return {"logits": answer, "labels": target}

    def measure(self, kept: Mapping[str, Tensor]) -> Numbers:
        """Return the numbers of `stats.metrics.classification`."""
        return classification(kept["logits"], kept["labels"], self.classes)

    @staticmethod
    def per_image(kept: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return which images are classified correctly, truth values [N]."""
        return np.asarray(kept["probabilities"].argmax(axis=1) == kept["labels"])

    @staticmethod
    def paired(first: np.ndarray, second: np.ndarray, groups: np.ndarray | None = None) -> Pairs:
        """Count the images that only one of two networks has right."""
        return discordant_pairs(first, second)

    def image_columns(self, kept: Mapping[str, Tensor]) -> list[dict[str, object]]:
        """Return the label of each image and the likeliest classes."""
        return [
            {"label": self.classes[label], **answer_columns(shares, self.classes, "predicted")}
            for label, shares in zip(kept["labels"].tolist(), kept["logits"].softmax(dim=1), strict=True)
        ]

    def baseline(self, targets: Tensor | None) -> Numbers:
        """Return the commonest class with its share, and the share of each if all had as many images."""
        if targets is None:
            return {"majority": None}
        counts = np.bincount(targets.numpy())
        name, share = self.classes[counts.argmax()], counts.max() / counts.sum()
        return {"majority": {"class": name, "share": float(share), "even_share": 1 / np.count_nonzero(counts)}}

    @staticmethod
    def remarks(result: Mapping[str, Any]) -> Iterator[str]:
        """Yield the balanced accuracy where classes are unequal, and that a network is no better than one answer."""
        best, common = result["best"], result.get("majority")
        balanced = best.get("balanced_accuracy")
        if common and balanced is not None and common["share"] > UNEQUAL * common["even_share"]:
            yield f"balanced accuracy {percent(balanced)}, the mean over the classes, which differ in size"
        if common and best["top1_low"] <= common["share"]:
            yield f"                  no better than always predicting {common['class']} ({percent(common['share'])})"

    @staticmethod
    def details(results: Mapping[str, Any]) -> Iterator[str]:
        """Yield top-5, loss, calibration, precision and recall, a table of the classes and the frequent confusions."""
        classes = results["per_class"]
        if len(classes) >= TOP5_FROM:
            yield f"top-5         {percent(results['top5'])}"
        yield f"loss          {results['loss']:.4f}"
        yield f"calibration   expected error {percent(results['ece'])}"
        precision, recall, f1 = (results[f"macro_{key}"] for key in ("precision", "recall", "f1"))
        yield f"macro         precision {precision:.4f}, recall {recall:.4f} (balanced accuracy), F1 {f1:.4f}\n"
        rows = [{key: row[key] for key in ("class", "n", "precision", "recall", "f1")} for row in classes]
        if len(rows) > MOST_CLASSES:
            yield f"the {MOST_CLASSES} of {len(rows)} classes with the lowest F1:"
            rows = sorted(rows, key=lambda row: row["f1"])[:MOST_CLASSES]
        yield render(rows, width=terminal_width())
        if mistakes := confusions(results["confusion"], [row["class"] for row in classes]):
            yield f"\nmost often confused: {'; '.join(mistakes)}"

    @staticmethod
    def warnings(result: Mapping[str, Any]) -> Iterator[str]:
        """Yield the classes that a network never predicts."""
        if absent := result["best"].get("never_predicted"):
            yield f"never predicted in validation: {listed(absent)}"


def score(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return n, mean cross-entropy, top-1 and its Wilson interval at 95 %, of what all processes have together."""
    mine = len(labels)
    right = int((logits.argmax(dim=1) == labels).sum())
    n, right = map(int, distributed.total(mine, right))
    low, high = wilson(right, n)
    part = float(F.cross_entropy(logits, labels)) * (mine / n) if mine else 0.0
    (loss,) = distributed.total(part)
    return {"n": n, "loss": loss, "top1": right / n, "top1_low": low, "top1_high": high}


def by_class(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> Numbers:
    """Return the balanced accuracy (the mean recall of the classes that have images) and those of them that are never
    predicted, of what all processes have together.
    """
    predicted = logits.argmax(dim=1)
    counts = [x.bincount(minlength=len(classes)) for x in (labels, predicted, labels[predicted == labels])]
    n, named, right = np.reshape(distributed.total(*torch.cat(counts).tolist()), (3, -1))
    there = n > 0
    absent = [name for name, lacking in zip(classes, there & (named == 0), strict=True) if lacking]
    return {"balanced_accuracy": float((right[there] / n[there]).mean()), "never_predicted": absent}


def crammer_singer(logits: Tensor, target: Tensor) -> Tensor:
    """Return by how much each image's own class fails to lead every other by one (Crammer and Singer 2001)."""
    behind = 1 + logits - logits.gather(1, target[:, None])
    return behind.scatter(1, target[:, None], 0.0).amax(1)  # its own class is never behind


def squared_hinge(logits: Tensor, target: Tensor) -> Tensor:
    """Return each image's squared hinge losses, of one support vector machine a class against all others, summed."""
    signs = torch.full_like(logits, -1.0).scatter(1, target[:, None], 1.0)
    return (1 - signs * logits).clamp(min=0).square().sum(1)


HINGES: dict[Hinge, Callable[[Tensor, Tensor], Tensor]] = {
    "crammer_singer": crammer_singer,
    "squared": squared_hinge,
}


def smoothed(logits: Tensor, target: Tensor, weights: Tensor, smoothing: float) -> Tensor:
    """Return torch's cross-entropy with class weights and label smoothing, to the bit.

    torch's own synchronises with the device.
    """
    logs = logits.log_softmax(dim=1)
    even = -(logs * weights).sum(dim=1).sum() / weights[target].sum()
    return (1 - smoothing) * F.nll_loss(logs, target, weights) + even * (smoothing / logits.shape[1])


def answer_columns(probabilities: Tensor, classes: Sequence[str], key: str) -> dict[str, str]:
    """Return a table's columns for an answer, probabilities [classes]: the class by its `key`, and the five likeliest.

    Each stands with its probability.
    """
    likeliest = probabilities.topk(min(5, len(classes)))
    ranked = [(classes[int(index)], f"{value:.6f}") for value, index in zip(*likeliest, strict=True)]
    columns = {key: ranked[0][0], "probability": ranked[0][1]}
    for rank, (name, probability) in enumerate(ranked, 1):
        columns |= {f"top{rank}": name, f"top{rank}_probability": probability}
    return columns
