"""What came before networks, as networks: each layer against plain arithmetic, and every command on each model."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
from made import create_model
from scipy import ndimage
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional as F

from cnntrain.nn import calibration, dictionary
from cnntrain.nn.calibration import calibrate
from cnntrain.nn.descriptors import filters, pixel_patches
from cnntrain.nn.dictionary import ColourBins, Decorrelation, Standardisation, Words
from cnntrain.nn.filters import bank, gabor_waves, wavelength
from cnntrain.nn.pyramid import Pyramid, spatial_pyramid
from cnntrain.nn.stages import materialise
from cnntrain.runtime.errors import InputError

Call = Callable[..., dict[str, Any]]
Refused = Callable[..., str]

# Small forms, for digits of 16×16 pixels.
DIGITS = {
    "colour_histogram": (),
    "filter_bank": (),
    "gabor": ("model.scales=1",),
    "hog": ("model.cell=4",),
    "bow": ("model.cell=1", "model.dictionary=20"),
    "kmeans": ("model.patch=4", "model.dictionary=20"),
}
SHORT = (
    "dataset=digits",
    "dataset.train_size=300",
    "augmentation=none",
    "trainer.epochs=2",
    "trainer.tensorboard=false",
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def drawn(layer: nn.Module) -> Any:
    """Give a layer its initial numbers."""
    materialise(layer, "layer", 0, None)
    return layer


# --- words


def test_the_nearest_word_is_a_1x1_convolution_with_a_bias_and_winner_takes_all() -> None:
    x, layer = noise(4, 8, 5, 6), drawn(Words(8, 20))
    distances = np.linalg.norm(x.permute(0, 2, 3, 1).numpy()[..., None, :] - layer.centres.numpy(), axis=-1)
    maps = layer(x)
    assert np.array_equal(maps.argmax(1).numpy(), distances.argmin(-1))
    assert torch.equal(maps.unique(), torch.tensor([0.0, 1.0])) and torch.equal(maps.sum(1), torch.ones(4, 5, 6))
    without_bias = F.conv2d(x, layer.centres[:, :, None, None]).argmax(1)
    assert not torch.equal(maps.argmax(1), without_bias)


def test_the_triangle_is_how_much_nearer_a_word_is_than_words_are_on_average() -> None:
    x, layer = noise(2, 8, 3, 3), drawn(Words(8, 20, "triangle"))
    for n, i, j in product(range(2), range(3), range(3)):
        distances = np.linalg.norm(x[n, :, i, j].numpy() - layer.centres.numpy(), axis=1)
        expected = np.maximum(0, distances.mean() - distances)
        np.testing.assert_allclose(layer(x)[n, :, i, j].numpy(), expected, atol=1e-5)


def test_gradients_pass_the_winner_as_those_of_a_softmax_and_change_no_value() -> None:
    layer, x = drawn(Words(8, 20)), noise(2, 8, 3, 3).requires_grad_()
    assert torch.equal(layer(x), layer(x.detach()))
    weights = noise(2, 20, 3, 3, seed=1)
    (gradient,) = torch.autograd.grad((layer(x) * weights).sum(), x)
    scores = F.conv2d(x, layer.centres[:, :, None, None], -0.5 * layer.centres.square().sum(1))
    (expected,) = torch.autograd.grad((scores.softmax(1) * weights).sum(), x)
    torch.testing.assert_close(gradient, expected)


def test_words_are_the_means_of_clusters_and_the_same_for_the_same_seed() -> None:
    centres = 10 * noise(5, 3)
    x = (centres[torch.arange(500) % 5] + 0.1 * noise(500, 3, seed=1)).T.reshape(1, 3, 20, 25)
    layer, again = drawn(Words(3, 5)), drawn(Words(3, 5))
    layer.calibrate([x])
    again.calibrate([x[:, :, :10], x[:, :, 10:]])
    assert torch.equal(layer.centres, again.centres)
    exact = KMeans(5, n_init=5, random_state=0).fit(x[0].flatten(1).T.numpy()).cluster_centers_
    ordered = [np.array(sorted(means.tolist())) for means in (layer.centres, exact, centres)]
    np.testing.assert_allclose(ordered[0], ordered[1], atol=0.03)
    np.testing.assert_allclose(ordered[1], ordered[2], atol=0.05)
    with pytest.raises(InputError, match="5 words .* 4 positions"):
        layer.calibrate([x[:, :, :2, :2]])


def test_a_sample_has_every_row_with_the_same_chance() -> None:
    parts = [torch.arange(start, stop).float()[:, None] for start, stop in pairwise((0, 30, 35, 100))]
    hits = np.zeros(100)
    for seed in range(300):
        rows = dictionary.sample(parts, 20, np.random.default_rng(seed))
        assert len(rows) == 20 and np.all(np.diff(rows[:, 0]) > 0)
        hits[rows[:, 0].astype(int)] += 1
    assert abs(hits - 60).max() < 5 * math.sqrt(60 * 0.8)


# --- pyramids and histograms


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5)])
def test_a_pyramid_counts_each_position_once_in_every_grid(height: int, width: int) -> None:
    x, layer = noise(2, 3, height, width).abs(), spatial_pyramid(3)
    levels = layer(x).split([3, 3 * 4, 3 * 16], dim=1)
    share = x.mean((2, 3))
    for found, cells, weight in zip(levels, (1, 4, 16), (0.25, 0.25, 0.5), strict=True):
        torch.testing.assert_close(found.view(2, cells, 3).sum(1), weight * share)
    y, x_ = np.indices((height, width))
    cell = (y >= height // 2) * 2 + (x_ >= width // 2)
    expected = [ndimage.sum_labels(x[1, 2].numpy(), cell, i) / (height * width) for i in range(4)]
    np.testing.assert_allclose(levels[1].view(2, 4, 3)[1, :, 2].numpy(), 0.25 * np.array(expected), rtol=1e-5)


def test_a_pyramid_of_one_level_is_global_average_pooling() -> None:
    x = noise(2, 3, 6, 6)
    torch.testing.assert_close(spatial_pyramid(1)(x), x.mean((2, 3)))
    with pytest.raises(ValueError, match="4×4 .* 3×6"):
        Pyramid([4], [1.0])(noise(1, 1, 3, 6))


@pytest.mark.parametrize("joint", [False, True])
def test_colour_bins_are_those_of_a_histogram(joint: bool) -> None:
    x = noise(3, 2, 9, 9)
    layer = drawn(ColourBins(2, 4, joint=joint, votes="hard"))
    layer.calibrate(x.split(1))
    low, high = x.amin((0, 2, 3)).numpy(), x.amax((0, 2, 3)).numpy()
    edges = [np.linspace(low[c], high[c], 5) for c in range(2)]
    pixels = x[1].flatten(1).numpy()
    if joint:
        expected = np.histogramdd(pixels.T, edges)[0].flatten()
    else:
        expected = np.concatenate([np.histogram(pixels[c], edges[c])[0] for c in range(2)])
    assert layer(x)[1].sum((1, 2)).tolist() == expected.tolist()
    layer.votes = "linear"
    torch.testing.assert_close(layer(x).sum(1), torch.full((3, 9, 9), 1.0 if joint else 2.0))


def test_too_many_combinations_of_colours_are_refused() -> None:
    with pytest.raises(ValueError, match="32,768"):
        ColourBins(3, 32, joint=True)


# --- patches


def test_patches_are_windows_whose_contrast_is_normalised() -> None:
    x, stage = noise(2, 3, 7, 8), pixel_patches(4, 2)((3, 7, 8))
    drawn(stage)
    windows = F.unfold(x, 4, stride=2).numpy()  # channel by channel, row by row
    assert np.array_equal(stage[0](x).flatten(2).numpy(), windows)  # type: ignore[index]
    deviation = np.sqrt(windows.var(axis=1, keepdims=True) + 10 / 63**2)
    np.testing.assert_allclose(
        stage(x).flatten(2).numpy(), (windows - windows.mean(axis=1, keepdims=True)) / deviation, atol=1e-5
    )


def test_decorrelation_is_zca_whitening() -> None:
    x = F.conv2d(noise(40, 6, 5, 5), noise(6, 6, 1, 1, seed=1)) + 3
    layer = drawn(Decorrelation(6))
    torch.testing.assert_close(layer(x), x)
    layer.calibrate(x.split(7))
    rows = x.permute(0, 2, 3, 1).flatten(0, 2).double().numpy()
    variances, directions = np.linalg.eigh(np.cov(rows.T, bias=True))
    matrix = directions @ np.diag((variances + 0.1) ** -0.5) @ directions.T
    expected = (rows - rows.mean(0)) @ matrix
    np.testing.assert_allclose(layer(x).permute(0, 2, 3, 1).flatten(0, 2).numpy(), expected, atol=1e-3)


def test_standardised_numbers_have_one_deviation_and_length_one() -> None:
    x = noise(50, 10) * torch.arange(1, 11) + 5
    x[:, 0] = 2.0  # never varies
    layer = drawn(Standardisation(10))
    layer.calibrate(x.split(8))
    y = layer(x)
    torch.testing.assert_close(y.mean(0), torch.zeros(10), atol=1e-5, rtol=0)
    torch.testing.assert_close(y[:, 1:].std(0, correction=0), torch.full((9,), 10**-0.5))
    assert torch.equal(y[:, 0], torch.zeros(50))


def test_layers_see_a_few_images_at_a_time_and_make_the_same_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    x = noise(60, 3, 12, 12)
    nets = [create_model("kmeans", (3, 12, 12), 10, dictionary=10) for _ in range(2)]
    calibrate(nets[0], lambda: x)
    monkeypatch.setattr(calibration, "IMAGES", 7)
    calibrate(nets[1], lambda: x)
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


# --- filters


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("blur", [partial(ndimage.uniform_filter, size=3)]),
        ("sobel", [partial(ndimage.sobel, axis=axis) for axis in (1, 0)]),
        ("edges", [partial(ndimage.prewitt, axis=axis) for axis in (1, 0)]),
    ],
)
def test_filters_made_by_hand_are_those_of_scipy(name: str, expected: list[Callable[..., np.ndarray]]) -> None:
    image = noise(9, 11)
    layer = drawn(filters(lambda: bank([name]), len(expected), 3)((1, 9, 11)))
    for found, function in zip(layer(image[None, None])[0], expected, strict=True):
        np.testing.assert_allclose(found.numpy(), function(image.numpy(), mode="mirror"), atol=1e-5)


def test_corners_answer_at_corners_only() -> None:
    image = torch.zeros(1, 1, 12, 12)
    image[..., 6:, 6:] = 1
    answers = drawn(filters(lambda: bank(["corners"]), 1, 3)((1, 12, 12)))(image)[0, 0]
    places = answers.nonzero()
    assert len(places) and places.min() >= 5 and places.max() <= 6


def test_gabor_filters_answer_their_own_wave_whatever_its_phase_and_no_constant() -> None:
    scales, turns = 3, 6
    kernels = gabor_waves(scales, turns)
    assert kernels.sum((1, 2))[::2].abs().max() < 1e-6
    y, x = torch.meshgrid(*2 * [torch.arange(41.0)], indexing="ij")
    net = create_model("gabor", (1, 41, 41), 2, scales=scales, orientations=turns)
    for scale, turn, phase in product(range(scales), range(turns), (0.0, 1.0, 2.5)):
        angle = math.pi * turn / turns
        wave = torch.cos((x * math.cos(angle) + y * math.sin(angle)) * 2 * math.pi / wavelength(scale) + phase)
        maps = net.magnitude(net.filters(net.grey(wave[None, None])))[0, :, 20, 20]  # type: ignore[operator]
        assert maps.argmax() == scale * turns + turn
        assert maps.max().item() == pytest.approx(0.5, rel=0.05)


# --- every command on every model


SLOWER = ("filter_bank", "gabor", "hog")  # the same layers and commands again


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOWER else ()) for n in DIGITS])
def test_every_command_takes_it(name: str, cnntrain: Call) -> None:
    model = (f"model={name}", *DIGITS[name])
    stages = [stage["name"] for stage in cnntrain("describe", *model, *SHORT[:2])["stages"]]
    fitted = cnntrain("fit", *model, *SHORT, "optimizer.lr=0.5", "output_dir=run")
    assert fitted["val"]["top1"] > 0.15
    measured = cnntrain("eval", "run=run")
    assert measured["n"] > 100
    study = cnntrain("invariance", "run=run", "warp=translate_x", "images=20", "figures=false")
    assert [row for row in stages if row in str(study)] == stages
    assert cnntrain("export", "run=run", "format=pt2")["max_difference"] < 1e-4


@pytest.mark.parametrize("name", list(DIGITS))
def test_it_is_ablated_and_its_cells_are_compared(name: str, cnntrain: Call) -> None:
    stage = {"hog": "normalise", "bow": "words", "kmeans": "whiten"}.get(name, "standardise")
    words = (f"model={name}", *DIGITS[name], *SHORT, "dataset.train_size=100", "trainer.epochs=1", "optimizer.lr=0.5")
    found = cnntrain(
        "ablate", *words, f"remove=[[{stage}]]", *("seeds=1", "jobs=1", "figures=false"), "output_dir=study"
    )
    assert [row["variant"] for row in found["table"]] == ["full", f"no_{stage}"] and found["complete"]
    runs = [f"study/cells/{variant}/0" for variant in ("full", f"no_{stage}")]
    compared = cnntrain("compare", f"runs=[{','.join(runs)}]", "weights=last")["runs"]
    assert [row["top1"] for row in compared] == [row["top1"] for row in found["rows"]]


def test_a_run_keeps_its_dictionary_and_begins_anew_with_it(cnntrain: Call) -> None:
    from cnntrain.studies.ablation.changes import with_stages_of

    net, fresh = (create_model("bow", (1, 32, 32), 10, dictionary=10, seed=seed) for seed in (0, 1))
    calibrate(net, lambda: noise(30, 1, 32, 32))
    again = with_stages_of(net, fresh, ["words", "fc"])
    assert torch.equal(again.words.centres, net.words.centres)
    assert torch.equal(again.fc.linear.weight, fresh.fc.linear.weight)  # type: ignore[union-attr]


# --- bad input


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("model=hog",), ("blocks", "16×16", "8×8")),
        (("model=bow", "model.cell=1"), ("pyramid", "4×4", "3×3")),
        (("model=bow", "model.cell=4"), ("cells", "16×16", "8×8")),
        (("model=gabor",), ("filters", "21×21", "8×8")),
        (("model=kmeans", "model.patch=9"), ("patches", "9×9", "8×8")),
        (("model=filter_bank", "model.kernels=[sobbel]"), ("model.kernels", "sobel")),
        (("model=colour_histogram", "model.levels=5"), ("pyramid", "16×16", "8×8")),
        (
            ("model=colour_histogram", "model.joint=true", "dataset.image_size=8", "model.bins=5000"),
            ("colours", "5,000"),
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(refused: Refused, words: tuple[str, ...], parts: Any) -> None:
    line = refused("fit", "dataset=digits", "dataset.image_size=8", "augmentation=none", "trainer.epochs=1", *words)
    assert all(part in line for part in parts), line


def test_more_words_than_there_is_to_learn_from_are_refused(refused: Refused) -> None:
    few = ("model.cell=1", "model.dictionary=2000", "dataset.train_size=20", "trainer.batch_size=10")
    line = refused("fit", "model=bow", "dataset=digits", "dataset.image_size=16", "augmentation=none", *few)
    assert "2000 words" in line and "980 positions" in line
