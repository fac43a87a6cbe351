"""The linear probes of one network: fitted stage by stage, then asked about other images in one pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from cnntrain.data.storage.images import Split, spread
from cnntrain.runtime.seeding import generator
from cnntrain.studies.probe.features import Columns, TappedNetwork, stage_columns
from cnntrain.studies.probe.linear import (
    Classifier,
    ImagePoints,
    LinearFit,
    choose_c,
    fit,
    needs_products,
    points_of_features,
    points_of_gram,
    shares_of_pivots,
)

Control = Literal["none", "random", "permuted"]
ARRAYS = 4  # of the Gram matrix's size that a stage needs at most: itself, its factor twice, the points


@dataclass(frozen=True)
class ProbeSettings:
    """How probes are fitted.

    `fold_images` of the training images, at most, choose C among `cs`; `most_values` numbers of features are held.
    """

    classifiers: Sequence[Classifier]
    permutation: int | None  # seed of the permuted labels; None: labels stay as they are
    cs: Sequence[float]
    folds: int
    fold_images: int
    seed: int
    most_values: int


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """A linear classifier on what leaves a stage: logits are features @ weights + bias, float64 [D, K] and [K]."""

    stage: str
    classifier: Classifier
    permuted: bool
    dimensions: int
    c: float
    fold_top1: float
    train_top1: float  # on the images and labels that it was fitted on
    converged: bool
    weights: np.ndarray
    bias: np.ndarray

    def without_weights(self) -> "LinearProbe":
        """Return the probe without its weights, which may be large."""
        return replace(self, weights=self.weights[:0])


@dataclass(frozen=True, eq=False)
class Scaling:
    """What makes each dimension of features [D] have mean 0 and, over all dimensions, an image the squared norm 1."""

    mean: np.ndarray
    factor: np.ndarray  # 0 where the training images do not differ

    @classmethod
    def of(cls, block: np.ndarray, dimensions: int) -> "Scaling":
        """Return the scaling of a block of columns [N, …]."""
        mean, deviation = block.mean(axis=0, dtype=np.float64), block.std(axis=0, dtype=np.float64)
        varies = deviation > 1e-6 * np.abs(mean)  # what differs less is rounding
        factor = np.where(varies, 1 / np.where(varies, deviation, 1) / np.sqrt(dimensions), 0)
        return cls(mean, factor)

    def __call__(self, block: np.ndarray) -> np.ndarray:
        scaled: np.ndarray = (block - self.mean) * self.factor
        return scaled


def fit_network(
    network: TappedNetwork, images: Split, settings: ProbeSettings, workers: int, done: Callable[[int], None]
) -> list[LinearProbe]:
    """Fit every probe of a network to labelled images; `done` is told of each."""
    labels = images.labels.numpy()
    most = max(1, settings.most_values // len(images))
    probes = []
    for stage, columns in stage_columns(network, images, most, workers):
        probes += fit_stage(stage, network.dimensions[stage], columns, labels, settings, done)
    return probes


def fit_stage(
    stage: str,
    dimensions: int,
    columns: Columns,
    labels: np.ndarray,
    settings: ProbeSettings,
    done: Callable[[int], None],
) -> list[LinearProbe]:
    """Fit the probes of one stage."""
    scalings = list[Scaling]()
    points = points_of(columns, dimensions, len(labels), scalings)
    some = spread(len(labels), settings.fold_images)
    few = points.alone(some)
    known_labels = [(False, labels)]
    if settings.permutation is not None:
        order = generator(settings.permutation, "permuted labels", stage).permutation(len(labels))
        known_labels.append((True, labels[order]))
    fits = list[tuple[Classifier, bool, float, float, float, LinearFit]]()
    for kind in settings.classifiers:
        chosen = choose_c(kind, few, labels[some], settings.cs, settings.folds, settings.seed)
        for is_permuted, known in known_labels:
            fitted = fit(kind, points, known, chosen.c)
            train_top1 = float((fitted.predict(points.values) == known).mean())
            fits.append((kind, is_permuted, chosen.c, chosen.fold_top1, train_top1, fitted))
            done(1)
    weights = feature_weights(columns, points, scalings, np.hstack([each[-1].weights for each in fits]))
    mean = np.concatenate([scaling.mean for scaling in scalings])
    probes, classes = [], labels.max() + 1
    for place, (kind, is_permuted, c, fold_top1, train_top1, fitted) in enumerate(fits):
        own = weights[:, place * classes : (place + 1) * classes]
        probes.append(
            LinearProbe(
                stage,
                kind,
                is_permuted,
                dimensions,
                c,
                fold_top1,
                train_top1,
                fitted.converged,
                own,
                fitted.bias - mean @ own,
            )
        )
    return probes


def points_of(columns: Columns, dimensions: int, n: int, scalings: list[Scaling]) -> ImagePoints:
    """Return images by their features, which are scaled where they lie, or by coordinates where the features are no
    fewer than images or not all in memory; add how they were scaled.
    """

    def scaled(block: np.ndarray) -> np.ndarray:
        scalings.append(Scaling.of(block, dimensions))
        part: np.ndarray = scalings[-1](block)
        return part

    if columns.held is not None and dimensions < n:
        for block in columns.blocks():
            block[:] = scaled(block)
        return points_of_features(columns.held)
    gram = np.zeros((n, n))
    for block in columns.blocks():
        part = scaled(block)
        gram += part @ part.T
    return points_of_gram(gram)


def points_bytes(dimensions: int, n: int, fold_images: int) -> int:
    """Return how many bytes the points of n images take, or those of the images that choose C, beside them."""
    whole = ARRAYS * 8 * n * n if needs_products(dimensions, n) else 4 * dimensions * n
    if fold_images >= n:
        return whole
    few = ARRAYS * 8 * fold_images**2 if needs_products(dimensions, fold_images) else 2 * 4 * dimensions * fold_images
    return max(whole, few)


def feature_weights(
    columns: Columns, points: ImagePoints, scalings: Sequence[Scaling], weights: np.ndarray
) -> np.ndarray:
    """Return weights of points [R, …] as weights of the features before they are scaled [D, …]."""
    if points.pivots is None:
        return np.asarray(np.concatenate([scaling.factor for scaling in scalings])[:, None] * weights)
    shares = shares_of_pivots(points, weights)
    parts = [
        scaling.factor[:, None] * (scaling(block[points.pivots]).T @ shares)
        for scaling, block in zip(scalings, columns.blocks(), strict=True)
    ]
    return np.concatenate(parts)


def predictions(network: TappedNetwork, probes: Sequence[LinearProbe], images: Split, workers: int) -> list[np.ndarray]:
    """Return what each probe says of each image, class numbers [N], in one pass over the images."""
    stages = {stage: [i for i, probe in enumerate(probes) if probe.stage == stage] for stage in network.dimensions}
    weights = {stage: np.hstack([probes[i].weights for i in places]) for stage, places in stages.items()}
    answers: list[list[np.ndarray]] = [[] for _ in probes]
    for features in network.batches(images, list(stages), workers):
        for stage, x in features.items():
            logits = np.split(x.numpy().astype(np.float64) @ weights[stage], len(stages[stage]), axis=1)
            for i, each in zip(stages[stage], logits, strict=True):
                answers[i].append((each + probes[i].bias).argmax(axis=1))
    return [np.concatenate(each) for each in answers]
