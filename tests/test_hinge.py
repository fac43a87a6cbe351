"""Hinge losses: against scikit-learn's, and as the objective whose minimum its support vector machine finds."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import hinge_loss
from sklearn.svm import LinearSVC
from torch import nn

from cnntrain.tasks.classification import HINGES, Classification, Hinge

CLASSES = ("a", "b", "c")


def scores(images: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Random scores, and classes of which the score is often the largest."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(images, len(CLASSES), generator=generator)
    target = logits.argmax(1)
    target[::3] = torch.randint(len(CLASSES), target[::3].shape, generator=generator)
    return logits, target


def test_crammer_and_singers_hinge_is_that_of_scikit_learn() -> None:
    logits, target = scores()
    expected = hinge_loss(target.numpy(), logits.numpy(), labels=range(len(CLASSES)))
    assert Classification(CLASSES, hinge="crammer_singer").loss(logits, target).item() == pytest.approx(expected)
    safe = torch.eye(3) * 1.5
    assert Classification(CLASSES, hinge="crammer_singer").loss(safe, torch.arange(3)) == 0


def test_the_squared_hinge_sums_one_machine_a_class() -> None:
    logits, target = scores()
    expected = [
        sum(max(0.0, 1 - (1 if c == y else -1) * float(row[c])) ** 2 for c in range(len(CLASSES)))
        for row, y in zip(logits, target.tolist(), strict=True)
    ]
    assert Classification(CLASSES, hinge="squared").loss(logits, target).item() == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("hinge", HINGES)
def test_class_weights_weigh_images_and_equal_ones_change_nothing(hinge: Hinge) -> None:
    logits, target = scores()
    plain = Classification(CLASSES, hinge=hinge)
    same = Classification(CLASSES, torch.ones(3), hinge=hinge)
    torch.testing.assert_close(plain.loss(logits, target), same.loss(logits, target))
    weighted = Classification(CLASSES, torch.tensor([1.0, 2.0, 0.0]), hinge=hinge)
    repeated = torch.cat([torch.nonzero(target == 0), *2 * [torch.nonzero(target == 1)]]).flatten()
    torch.testing.assert_close(weighted.loss(logits, target), plain.loss(logits[repeated], target[repeated]))


def test_a_linear_layer_with_weight_decay_is_the_support_vector_machine() -> None:
    """½·|w|² + C·Σ losses, as scikit-learn has it, is n·C times the mean loss with a weight decay of 1 / (n·C)."""
    rng, c = np.random.default_rng(0), 0.3
    x, y = rng.standard_normal((60, 5)).astype(np.float32), rng.integers(3, size=60)
    x[np.arange(60), y] += 1.5
    machine = LinearSVC(C=c, fit_intercept=False, tol=1e-8, max_iter=100_000).fit(x, y)
    layer, task = nn.Linear(5, 3, bias=False), Classification(CLASSES, hinge="squared")
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        loss = task.loss(layer(torch.from_numpy(x)), torch.from_numpy(y))
        loss = loss + 0.5 / (len(x) * c) * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(objective)  # type: ignore[arg-type]
    np.testing.assert_allclose(layer.weight.detach().numpy(), machine.coef_, atol=2e-3)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("trainer.label_smoothing=0.1",), "trainer.label_smoothing=0.1"),
        (("+augmentation.mixup.alpha=0.2",), "augmentation.mixup"),
    ],
)
def test_a_hinge_refuses_probabilities_as_targets(refused: Callable[..., str], words: Any, part: str) -> None:
    assert part in refused("fit", "trainer.hinge=squared", *words)


def test_an_unknown_hinge_is_told_which_there_are(refused: Callable[..., str]) -> None:
    assert all(hinge in refused("fit", "trainer.hinge=square") for hinge in HINGES)


def test_a_support_vector_machine_learns(cnntrain: Callable[..., dict[str, Any]]) -> None:
    words = ("model=softmax", "dataset=digits", "augmentation=none", "trainer.epochs=3", "trainer.tensorboard=false")
    for hinge in HINGES:
        assert cnntrain("fit", *words, f"trainer.hinge={hinge}", "optimizer.lr=0.01")["val"]["top1"] > 0.85
