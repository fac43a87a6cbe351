"""What a classifier's outputs say: accuracies with intervals, per class, confusion, calibration."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cnntrain.stats.intervals import wilson


def confusion_matrix(predicted: Tensor, labels: Tensor, num_classes: int) -> np.ndarray:
    """Return counts [classes, classes]: rows are the labels, columns the predictions."""
    cells = torch.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return cells.view(num_classes, num_classes).numpy()


def top_k(logits: Tensor, labels: Tensor, k: int) -> float:
    """Return the share of images whose label is among the `k` largest logits; all of them where there are fewer."""
    k = min(k, logits.shape[1])
    return float((logits.topk(k, dim=1).indices == labels[:, None]).any(dim=1).double().mean())


def precision_recall_f1(confusion: np.ndarray) -> list[dict[str, float]]:
    """Return precision, recall and F1 of each class; a ratio without cases counts as 0."""
    right, labelled, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)

    def share(part: float, total: float) -> float:
        return float(part / total) if total else 0.0

    rows = []
    for r, n, m in zip(right, labelled, predicted, strict=True):
        rows.append({"precision": share(r, m), "recall": share(r, n), "f1": share(2 * r, n + m)})
    return rows


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Return the mean gap between confidence and accuracy over equal bins of confidence (Guo et al. 2017, eq. 3)."""
    confidence, predicted = probabilities.double().max(dim=1)
    right = (predicted == labels).double()
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.float64).index_add(0, place, right - confidence)
    return float(gaps.abs().sum() / len(labels))


def classification(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Return every number of an evaluation from logits [N, classes] and labels [N].

    Keys: n, loss, top1 and its Wilson interval, top5, macro precision, recall (balanced_accuracy too) and F1 (classes
    without images left out), per_class, confusion, ece.
    """
    predicted, n = logits.argmax(dim=1), len(labels)
    confusion = confusion_matrix(predicted, labels, len(classes))
    low, high = wilson(int(np.trace(confusion)), n)
    rows = precision_recall_f1(confusion)
    present = [row for row, count in zip(rows, confusion.sum(axis=1), strict=True) if count]
    macro = {f"macro_{key}": float(np.mean([row[key] for row in present])) for key in ("precision", "recall", "f1")}
    per_class = [
        {"class": name, "n": int(confusion[i].sum()), "top1": row["recall"] if confusion[i].sum() else None, **row}
        for i, (name, row) in enumerate(zip(classes, rows, strict=True))
    ]
    return {
        "n": n,
        "loss": float(F.cross_entropy(logits, labels)),
        "top1": float(np.trace(confusion) / n),
        "top1_low": low,
        "top1_high": high,
        "top5": top_k(logits, labels, 5),
        **macro,
        "balanced_accuracy": macro["macro_recall"],
        "per_class": per_class,
        "confusion": confusion.tolist(),
        "ece": expected_calibration_error(logits.softmax(dim=1), labels),
    }


TOP5_FROM = 6  # classes: of five or fewer every image is among the top five


def confusions(confusion: list[list[int]], classes: list[str], most: int = 3) -> list[str]:
    """Return the commonest mistakes in words."""
    cells = [(count, i, j) for i, row in enumerate(confusion) for j, count in enumerate(row) if i != j and count]
    cells.sort(key=lambda entry: (-entry[0], entry[1], entry[2]))
    return [f"{classes[i]} taken for {classes[j]} ({count})" for count, i, j in cells[:most]]
