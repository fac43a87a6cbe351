"""`cnntrain probe`: fits against scikit-learn's own on the features themselves, and what a study leaves."""

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from torch import nn

from cnntrain.data.storage.images import DatasetInfo, Pixels, Split
from cnntrain.studies.networks import INPUT
from cnntrain.studies.probe.features import pooling, stage_columns, tapped
from cnntrain.studies.probe.linear import choose_c, fit, points_of_features, points_of_gram, shares_of_pivots
from cnntrain.studies.probe.probes import ProbeSettings, Scaling, fit_network, predictions

Call = Callable[..., dict[str, Any]]


def blobs(n: int, dimensions: int, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, dimensions] of classes that overlap, with a squared norm of about 1, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    features = rng.normal(size=(n, dimensions)) + 1.5 * rng.normal(size=(classes, dimensions))[labels] / dimensions**0.5
    features -= features.mean(axis=0)
    return features / features.std(axis=0) / dimensions**0.5, labels


# --- fits


def test_coordinates_of_the_gram_matrix_give_the_decisions_of_linear_svc() -> None:
    features, labels = blobs(60, 700)
    points = points_of_gram(features @ features.T)
    assert points.values.shape[1] <= 60
    options: dict[str, Any] = {"dual": True, "tol": 1e-10, "max_iter": 100_000, "random_state": 0}
    known = LinearSVC(C=1, **options).fit(features, labels).decision_function(features)
    ours = LinearSVC(C=1, **options).fit(points.values, labels).decision_function(points.values)
    assert np.abs(known - ours).max() < 1e-6


def test_weights_of_coordinates_are_weights_of_features() -> None:
    features, labels = blobs(60, 700)
    points = points_of_gram(features @ features.T)
    fitted = fit("softmax", points, labels, 10, 1e-9)
    weights = features[points.pivots].T @ shares_of_pivots(points, fitted.weights)
    assert np.allclose(features @ weights, points.values @ fitted.weights, atol=1e-8)
    known = LogisticRegression(C=10, tol=1e-9, max_iter=10_000).fit(features, labels)
    assert np.allclose(weights.T, known.coef_, atol=1e-3 * np.abs(known.coef_).max())


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("c", [0.1, 10])
def test_both_ways_to_an_svm_give_one_machine(c: float, classes: int) -> None:
    """Inner products with 1/2C on the diagonal, and LinearSVC with an intercept that costs nothing."""
    features, labels = blobs(90, 120, classes)
    dual = fit("svm", points_of_gram(features @ features.T), labels, c, 1e-6)
    known = LinearSVC(C=c, dual=False, tol=1e-8, max_iter=10_000, intercept_scaling=100).fit(features, labels)
    points = points_of_gram(features @ features.T).values
    decisions = (points @ dual.weights + dual.bias)[:, 1:] * (2 if classes == 2 else 1)
    theirs = known.decision_function(features).reshape(90, -1)[:, 0 if classes == 2 else 1 :]
    assert np.abs(decisions - theirs).max() < 2e-3


def test_few_dimensions_need_no_inner_products() -> None:
    features, labels = blobs(200, 8)
    points = points_of_features(features)
    assert points.gram is None and points_of_features(blobs(200, 100)[0]).gram is not None
    known = LinearSVC(C=1, dual=False, tol=1e-8, max_iter=10_000, intercept_scaling=100).fit(features, labels)
    fitted = fit("svm", points, labels, 1, 1e-8)
    assert np.abs(features @ fitted.weights + fitted.bias - known.decision_function(features)).max() < 0.02


def test_the_c_that_generalises_is_chosen() -> None:
    features, labels = blobs(150, 400)
    points = points_of_gram(features @ features.T)
    strict = choose_c("softmax", points, labels, [1e-9, 1.0], folds=3, seed=0)
    assert strict.c == 1.0 and strict.fold_top1 > 0.5
    assert choose_c("softmax", points, labels, [1.0, 1.0 + 1e-9], folds=3, seed=0).c == 1.0  # the smallest of equals


# --- features


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU()),
            pool1=nn.MaxPool2d(2),
            fc2=nn.Sequential(nn.Flatten(), nn.Linear(150, 3)),
        )
    ).eval()


def images(n: int, seed: int = 0, classes: int = 3) -> Split:
    """Images of 12 pixels a side whose classes differ in the place of a bright square."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 100, (n, 12, 12, 1), dtype=np.uint8)
    labels = np.arange(n) % classes
    for image, label in zip(pixels, labels, strict=True):
        image[3 * label : 3 * label + 4, 2:6] += 60
    return Split(Pixels(torch.from_numpy(pixels)), torch.from_numpy(labels))


INFO = DatasetInfo("made", ("a", "b", "c"), (1, 12, 12), (0.25,), (0.2,))


def tap(net: nn.Sequential, pool: Any = "none", stages: list[str] | None = None) -> Any:
    return tapped(net, INFO, stages, pool, precision="fp32", device=torch.device("cpu"), batch_size=7)


def test_columns_are_the_same_in_one_pass_and_in_many() -> None:
    net, split = network(), images(20)
    whole = {name: np.hstack([*columns()]) for name, columns in stage_columns(tap(net), split, 10_000, 0)}
    parts = {name: np.hstack([*columns()]) for name, columns in stage_columns(tap(net), split, 100, 0)}
    assert list(whole) == [INPUT, "conv1", "pool1", "fc2"]
    assert {name: x.shape[1] for name, x in whole.items()} == {INPUT: 144, "conv1": 600, "pool1": 150, "fc2": 3}
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)
    x = (split.source.read(range(20)).permute(0, 3, 1, 2).float() / 255 - 0.25) / 0.2
    assert np.allclose(whole["fc2"], net(x).detach(), atol=1e-5)


@pytest.mark.parametrize(("pool", "expected"), [("none", 600), ("max", 6), ("avg", 6), (2, 24), (10, 600)])
def test_maps_are_reduced_as_asked(pool: Any, expected: int) -> None:
    x = torch.randn(2, 6, 10, 10)
    out = pooling(pool, (6, 10, 10))(x)
    assert out.shape == (2, expected)
    if pool == "max":
        assert torch.equal(out, x.amax(dim=(2, 3)))


def test_scaled_features_have_mean_0_and_squared_norm_1() -> None:
    block = np.random.default_rng(0).gamma(2, size=(50, 30)).astype(np.float32)
    block[:, 3] = 7.3
    scaled = Scaling.of(block, 30)(block)
    assert np.allclose(scaled.mean(axis=0), 0, atol=1e-12) and not scaled[:, 3].any()
    assert (scaled**2).sum(axis=1).mean() == pytest.approx(29 / 30)


SETTINGS = ProbeSettings(["svm", "softmax"], 0, [0.1, 1, 10], 3, 1000, 0, 10_000_000)


@pytest.mark.parametrize("n", [60, 240])  # fewer and more images than dimensions
def test_weights_of_features_predict_what_scikit_learn_does(n: int) -> None:
    net, split, test = network(), images(n), images(90, seed=1)
    network_ = tap(net, stages=["pool1"])
    probes = fit_network(network_, split, SETTINGS, 0, lambda count: None)
    answers = predictions(network_, probes, test, 0)
    train, asked = (network_.columns(each, {"pool1": slice(0, 150)}, 0)["pool1"] for each in (split, test))
    scale = Scaling.of(train, 150)
    probe, answer = next((p, a) for p, a in zip(probes, answers, strict=True) if p.classifier == "softmax")
    known = LogisticRegression(C=probe.c, tol=1e-6, max_iter=5000).fit(scale(train), split.labels)
    assert (known.predict(scale(asked)) == answer).mean() > 0.97
    assert np.allclose(
        asked @ probe.weights + probe.bias,
        scale(asked) @ (probe.weights / np.where(scale.factor > 0, scale.factor, 1)[:, None])
        + (probe.bias + scale.mean @ probe.weights),
        atol=1e-8,
    )
    assert (answer == test.labels.numpy()).mean() > 0.8


def test_permuted_labels_are_learned_by_heart_and_give_chance() -> None:
    net, split, test = network(), images(60), images(600, seed=1)
    network_ = tap(net, stages=["conv1"])
    probes = fit_network(network_, split, SETTINGS, 0, lambda count: None)
    for probe, answer in zip(probes, predictions(network_, probes, test, 0), strict=True):
        top1 = (answer == test.labels.numpy()).mean()
        assert probe.permuted == (top1 < 0.5)
    assert any(probe.permuted and probe.train_top1 > 0.9 for probe in probes)


# --- the command


@pytest.fixture
def run(cnntrain: Call, tiny: tuple[str, ...]) -> str:
    cnntrain("fit", *tiny, "trainer.epochs=1", "output_dir=run")
    return "run=run"


SMALL = ("train_images=60", "fold_images=60", "c=[0.1,10]", "twins=1")


def test_a_study_leaves_rows_and_results(cnntrain: Call, run: str, folder: Path) -> None:
    found = cnntrain("probe", run, *SMALL, "stages=[input,conv1,fc5]", "output_dir=out")
    keys = "run stage control classifier dimensions n_train n c top1 top1_low top1_high chance"
    assert {"run_dir", "output_dir", "rows"} <= set(found)
    assert all(set(keys.split()) <= set(row) for row in found["rows"])
    counts = [(row["stage"], row["control"], row["classifier"]) for row in found["rows"]]
    assert len(counts) == len(set(counts)) == 2 * (2 * 3 + 2)  # no pixels of an untrained network
    assert json.loads((folder / "out/results.json").read_text())["rows"] == found["rows"]
    assert all(row["top1_low"] - 1e-9 <= row["top1"] <= row["top1_high"] + 1e-9 for row in found["rows"])
