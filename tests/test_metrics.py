"""Evaluation against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn import metrics as oracle

from cnntrain.stats.metrics import classification, expected_calibration_error, top_k
from cnntrain.tasks.classification import by_class

CLASSES = [f"class {i}" for i in range(7)]


@pytest.fixture
def sample() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(6, (400,), generator=generator)  # the last class has no images
    logits = torch.randn(400, 7, generator=generator)
    logits[torch.arange(400), labels] += 1.5
    return logits, labels


def test_everything_agrees_with_scikit_learn(sample: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = sample
    found, predicted = classification(logits, labels, CLASSES), logits.argmax(1)
    assert found["n"] == 400
    assert found["top1"] == pytest.approx(oracle.accuracy_score(labels, predicted))
    assert found["top5"] == pytest.approx(oracle.top_k_accuracy_score(labels, logits, k=5, labels=range(7)))
    assert found["loss"] == pytest.approx(
        oracle.log_loss(labels, logits.double().softmax(1), labels=range(7)), rel=1e-5
    )
    np.testing.assert_array_equal(found["confusion"], oracle.confusion_matrix(labels, predicted, labels=range(7)))
    expected = oracle.precision_recall_fscore_support(labels, predicted, labels=range(6), zero_division=0)
    for key, values in zip(("precision", "recall", "f1", "n"), expected, strict=True):
        np.testing.assert_allclose([row[key] for row in found["per_class"][:6]], values)
    assert found["macro_f1"] == pytest.approx(expected[2].mean())
    assert found["per_class"][6]["top1"] is None and found["per_class"][6]["n"] == 0
    balanced = oracle.recall_score(labels, predicted, labels=range(6), average="macro")
    assert found["balanced_accuracy"] == found["macro_recall"] == pytest.approx(balanced)
    validated = by_class(logits, labels, CLASSES)
    assert validated == {"balanced_accuracy": pytest.approx(balanced), "never_predicted": []}


def test_classes_that_are_never_predicted_are_those_with_images() -> None:
    found = by_class(torch.eye(5)[[0, 0, 1, 0]], torch.tensor([0, 1, 1, 3]), "abcde")
    assert found == {"balanced_accuracy": pytest.approx((1 + 0.5 + 0) / 3), "never_predicted": ["d"]}


def test_calibration_error_is_the_binned_gap() -> None:
    generator = np.random.default_rng(0)
    raw = torch.from_numpy(generator.dirichlet([0.5] * 4, size=500))
    labels = torch.from_numpy(generator.integers(4, size=500))
    confidence, right = raw.max(1).values.numpy(), (raw.argmax(1) == labels).numpy()
    total = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(raw, labels) == pytest.approx(total, abs=1e-9)


def test_a_perfectly_sure_and_right_classifier_is_calibrated() -> None:
    assert expected_calibration_error(torch.eye(3), torch.arange(3)) == 0


def test_top_5_of_three_classes_is_everything() -> None:
    assert top_k(torch.randn(9, 3), torch.zeros(9, dtype=torch.int64), 5) == 1
