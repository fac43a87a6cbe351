"""`cnntrain explain what=neighbours`: rankings, histograms and precision against scikit-learn and counting by hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from cnntrain.runtime import memory
from cnntrain.runtime.errors import InputError
from cnntrain.studies.explain.embedding import CELLS, placed, principal_components, stochastic_neighbours, thumbnails
from cnntrain.studies.explain.neighbours import (
    OTHER,
    SAME,
    Metric,
    Ranking,
    check_memory,
    copies,
    framed,
    histograms,
    nearest,
    precision,
    precision_rows,
)
from cnntrain.studies.explain.paired import all_pairs

Call = Callable[..., dict[str, Any]]
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_nearest_are_scikit_learns_without_the_image_itself(metric: Metric) -> None:
    searched, looked_at = RNG.normal(5, 1, (30, 7)), RNG.normal(5, 1, (2, 7))
    looked_at[1] = searched[4]  # a copy of one of them
    every = torch.from_numpy(np.concatenate([searched, looked_at])).float()
    places = nearest(every, 30, metric, 5, [np.array([], dtype=int), np.array([4])])
    theirs = NearestNeighbors(n_neighbors=6, metric=metric, algorithm="brute").fit(searched)
    order = theirs.kneighbors(np.concatenate([searched, looked_at]), return_distance=False)
    for row in range(30):
        assert places[row].tolist() == [place for place in order[row] if place != row][:5]
    assert places[30].tolist() == order[30][:5].tolist()
    assert places[31].tolist() == order[31][1:].tolist()  # its copy is no neighbour


def test_copies_have_the_same_pixels_all_of_them() -> None:
    searched = RNG.integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    searched[3] = searched[1]
    almost = searched[0].copy()
    almost[2, 2, 1] ^= 1
    assert [places.tolist() for places in copies(searched, np.stack([searched[1], almost]))] == [[1, 3], []]


@pytest.mark.parametrize(("channels", "bins"), [(3, 8), (1, 64)])
def test_histograms_count_colours_together(channels: int, bins: int) -> None:
    pixels = RNG.integers(0, 256, (2, 6, 5, channels), dtype=np.uint8)
    for image, shares in zip(pixels, histograms(pixels), strict=True):
        edges = [np.arange(0, 257, 256 // bins)] * channels
        counts, _ = np.histogramdd(image.reshape(-1, channels), bins=edges)
        expected = np.transpose(counts, range(channels)[::-1]).reshape(-1) / 30  # the first channel counts ones
        np.testing.assert_allclose(shares, expected, atol=1e-7)


def test_precision_is_the_share_of_the_same_class_and_chance_what_others_give() -> None:
    labels = np.array([0, 0, 0, 1])
    places = np.array([[1, 2], [0, 3], [3, 0], [0, 1], [9, 9]])  # the last row is an image that is looked at
    row = precision_rows([Ranking("pixels", "cosine", 7, places)], labels)[0]
    assert row["precision at 2"] == pytest.approx((1 + 0.5 + 0.5 + 0) / 4) and row["n"] == 4
    assert row["chance"] == pytest.approx((3 * 2 / 3 + 0) / 4)
    assert 0 <= float(str(row["low"])) < 0.5 < float(str(row["high"])) <= 1


def test_descriptors_and_metrics_are_compared_image_by_image() -> None:
    labels = np.arange(30) % 2
    same, other = (np.stack([np.flatnonzero(labels == side)[:3] for side in sides]) for sides in (labels, 1 - labels))
    drawn = np.where(RNG.random((30, 1)) < 0.5, same, other)
    rankings = [
        Ranking("pixels", "euclidean", 7, other),
        Ranking("pixels", "cosine", 7, drawn),
        Ranking("conv1", "euclidean", 7, drawn),
        Ranking("conv1", "cosine", 7, same),
    ]
    rows = precision_rows(rankings, labels)
    assert [row["more than euclidean"] for row in rows[::2]] == [None, None]
    half = float((drawn == same).all(axis=1).mean())
    assert rows[1]["more than euclidean"] == pytest.approx(half)
    assert rows[3]["more than euclidean"] == pytest.approx(1 - half)
    assert all(float(str(row["p"])) < 0.001 for row in rows[1::2])
    pairs = all_pairs([precision(ranking, labels) for ranking in rankings])
    assert list(pairs) == ["precision at 3, euclidean", "precision at 3, cosine"]
    assert [[(test.name, test.reference, test.verdict) for test in tests] for tests in pairs.values()] == [
        [("conv1", "pixels", "better")]
    ] * 2


def test_features_that_would_not_fit_are_refused_with_what_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 8 * 1000 * 100)
    check_memory({"conv1": (10, 10, 10)}, 90, 10)
    with pytest.raises(InputError, match="search=90"):
        check_memory({"conv1": (10, 10, 10)}, 91, 10)


def test_frames_lie_around_the_image() -> None:
    image = RNG.integers(0, 256, (28, 28, 1), dtype=np.uint8)
    sheet = framed(image, SAME)
    assert sheet.shape == (32, 32, 3) and (sheet[2:-2, 2:-2] == image).all()
    assert (sheet[0] == SAME).all() and not np.array_equal(SAME, OTHER)


# --- the plane


def test_components_are_those_of_the_covariance_and_groups_stay_together() -> None:
    groups = np.repeat(np.eye(3) * 20, 20, axis=0) + RNG.normal(size=(60, 3))
    descriptors = np.concatenate([groups, RNG.normal(size=(60, 5))], axis=1)
    components, share = principal_components(descriptors)
    values = np.sort(np.linalg.eigvalsh(np.cov(descriptors.T)))[::-1]
    assert share == pytest.approx(values[:2].sum() / values.sum(), rel=1e-4)
    np.testing.assert_allclose(components.var(axis=0, ddof=1), values, rtol=1e-4)
    points = stochastic_neighbours(components, 0)
    order = NearestNeighbors(n_neighbors=2).fit(points).kneighbors(return_distance=False)
    labels = np.arange(60) // 20
    assert (labels[order] == labels[:, None]).mean() > 0.95


def test_images_stand_at_their_points_or_aside() -> None:
    images = thumbnails(np.arange(1, 5, dtype=np.uint8).repeat(16).reshape(4, 4, 4, 1))
    plane, shown = placed(np.array([[0, 0], [1, 1], [0, 0], [0, 1]]), images)
    assert plane.shape == (CELLS * 4, CELLS * 4, 3) and shown == 4
    assert (plane[:4, :4] == 1).all() and (plane[-4:, -4:] == 2).all() and (plane[-4:, :4] == 4).all()
    assert (plane[:4, 4:8] == 3).all() or (plane[4:8, :4] == 3).all()  # next to the first, which has its place
    many, few = placed(np.zeros((100, 2)), images[:1].repeat(100, axis=0))
    assert few == 25 and int((many == 1).all(axis=2).sum()) == 25 * 16
    assert thumbnails(np.zeros((1, 50, 100, 3), dtype=np.uint8)).shape == (1, 16, 32, 3)


# --- the command


def test_neighbours_are_counted_and_shown(cnntrain: Call, refused: Call, tiny: tuple[str, ...]) -> None:
    cnntrain("fit", *tiny, "trainer.epochs=1", "output_dir=run")
    words = ["explain", "run=run", "what=neighbours", "images=1", "tensorboard=false", "stages=[fc5]"]
    answered = cnntrain(*words, "search=30", "neighbours=4")
    rows = answered["rows"]["neighbours"]
    assert [row["descriptor"] for row in rows[::2]] == ["pixels", "shades", "fc5"]
    assert all(row["low"] <= row["precision at 4"] <= row["high"] and row["n"] == 30 for row in rows)
    assert len(answered["pictures"]) == 3
    pairs = [(row["score"], row["method"], row["other"]) for row in answered["pairs"]]
    descriptors = [("shades", "pixels"), ("fc5", "pixels"), ("fc5", "shades")]
    metrics = ("euclidean", "cosine")
    assert pairs == [(f"precision at 4, {metric}", *pair) for metric in metrics for pair in descriptors]
    assert "search=" in refused(*words, "search=10", "neighbours=10")
