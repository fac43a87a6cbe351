"""`cnntrain probe`: fits against scikit-learn's own on the features themselves, and what a study leaves."""

import json
import re
import shutil
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made import TINY, Page, tree
from scipy.stats import binomtest, ttest_1samp
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from torch import nn

from cnntrain.cli.main import main
from cnntrain.data.storage.images import DatasetInfo, Pixels, Split
from cnntrain.nn.probe import vector_of
from cnntrain.runtime.errors import InputError
from cnntrain.stats.intervals import wilson
from cnntrain.stats.paired_tests import discordant_pairs, image_interval
from cnntrain.studies.networks import INPUT
from cnntrain.studies.probe import linear
from cnntrain.studies.probe.features import Columns, TappedNetwork, in_blocks, stage_columns, tapped
from cnntrain.studies.probe.linear import (
    ImagePoints,
    LinearFit,
    choose_c,
    fit,
    points_of_gram,
    shares_of_pivots,
)
from cnntrain.studies.probe.probes import (
    LinearProbe,
    ProbeSettings,
    Scaling,
    fit_network,
    points_bytes,
    points_of,
    predictions,
)
from cnntrain.studies.probe.rows import ProbeCurve, control_of, corrected, stage_row, steps
from cnntrain.studies.probe.study import ProbeAnswer

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


def objective(points: np.ndarray, labels: np.ndarray, c: float, fitted: LinearFit) -> float:
    """½‖w‖² + C Σ max(0, 1 - y (w·x + b))² summed over machines; of two classes there is one, the second's."""
    two = 2 if fitted.weights.shape[1] == 2 else 1
    total = 0.0
    for k in range(two - 1, fitted.weights.shape[1]):
        w, b, y = two * fitted.weights[:, k], two * fitted.bias[k], np.where(labels == k, 1, -1)
        total += 0.5 * w @ w + c * (np.maximum(0, 1 - y * (points.astype(np.float64) @ w + b)) ** 2).sum()
    return float(total)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("c", [0.1, 10])
@pytest.mark.parametrize("dimensions", [8, 120])
def test_both_ways_to_an_svm_give_one_machine(c: float, classes: int, dimensions: int) -> None:
    """Features by L-BFGS, inner products with 1/2C on the diagonal, and LinearSVC's intercept that costs little."""
    features, labels = blobs(90, dimensions, classes)
    primal = fit("svm", ImagePoints(features), labels, c, 1e-6)
    points = points_of_gram(features @ features.T)
    dual = fit("svm", points, labels, c, 1e-6)
    known = LinearSVC(C=c, dual=False, tol=1e-8, max_iter=10_000, intercept_scaling=100).fit(features, labels)
    ours = features @ primal.weights + primal.bias
    assert np.abs(ours - (points.values @ dual.weights + dual.bias)).max() < 2e-3
    theirs = known.decision_function(features).reshape(90, -1)
    assert np.abs((2 * ours[:, 1:] if classes == 2 else ours) - theirs).max() < 2e-3
    best = objective(features, labels, c, primal)
    assert primal.converged and dual.converged
    assert objective(points.values, labels, c, dual) == pytest.approx(best, rel=1e-5)
    assert best <= objective(features, labels, c, dual_of_features(features, points, dual)) * (1 + 1e-9)


def dual_of_features(features: np.ndarray, points: ImagePoints, dual: LinearFit) -> LinearFit:
    """A machine of points, as one of features."""
    return LinearFit(features[points.pivots].T @ shares_of_pivots(points, dual.weights), dual.bias, dual.converged)


def test_points_in_float32_have_the_machine_of_float64() -> None:
    features, labels = blobs(600, 40)
    exact = fit("svm", ImagePoints(features), labels, 10, 1e-6)
    single = fit("svm", ImagePoints(features.astype(np.float32)), labels, 10)
    assert exact.converged and single.converged
    assert objective(features, labels, 10, single) == pytest.approx(objective(features, labels, 10, exact), rel=1e-5)
    assert np.array_equal(single.predict(features), exact.predict(features))


def test_a_fit_that_stops_early_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "ITERATIONS", 2)
    assert not fit("svm", ImagePoints(blobs(200, 8)[0]), blobs(200, 8)[1], 100, 1e-8).converged


def test_some_images_get_the_fewest_coordinates_and_inner_products_where_they_pay() -> None:
    features = blobs(600, 20)[0]
    points = ImagePoints(features.astype(np.float32))
    assert points.alone(np.arange(600)) is points
    assert points.alone(np.arange(300)).gram is None
    for n, most in ((60, 20), (10, 10)):
        few = points.alone(np.arange(n))
        assert few.values.shape[1] <= most and few.gram is not None
        assert np.allclose(few.values @ few.values.T, features[:n] @ features[:n].T, atol=1e-6)


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


STAGES = (INPUT, "conv1", "pool1", "fc2")


def tap(net: nn.Sequential, pool: Any = "none", stages: Sequence[str] = STAGES) -> TappedNetwork:
    return tapped(net, INFO, stages, pool, precision="fp32", device=torch.device("cpu"), batch_size=7)


def test_columns_are_the_same_in_one_pass_and_in_many() -> None:
    net, split = network(), images(20)
    whole = {name: np.hstack([*columns.blocks()]) for name, columns in stage_columns(tap(net), split, 10_000, 0)}
    parts = {name: np.hstack([*columns.blocks()]) for name, columns in stage_columns(tap(net), split, 100, 0)}
    assert list(whole) == [INPUT, "conv1", "pool1", "fc2"]
    assert {name: x.shape[1] for name, x in whole.items()} == {INPUT: 144, "conv1": 600, "pool1": 150, "fc2": 3}
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)
    x = (split.source.read(range(20)).permute(0, 3, 1, 2).float() / 255 - 0.25) / 0.2
    assert np.allclose(whole["fc2"], net(x).detach(), atol=1e-5)


@pytest.mark.parametrize(("pool", "expected"), [("none", 600), ("max", 6), ("avg", 6), (2, 24), (10, 600)])
def test_maps_are_reduced_as_asked(pool: Any, expected: int) -> None:
    x = torch.randn(2, 6, 10, 10)
    out = vector_of(pool, (6, 10, 10))(x)
    assert out.shape == (2, expected)
    if pool == "max":
        assert torch.equal(out, x.amax(dim=(2, 3)))


def test_scaled_features_have_mean_0_and_squared_norm_1() -> None:
    block = np.random.default_rng(0).gamma(2, size=(50, 30)).astype(np.float32)
    block[:, 3] = 7.3
    scaled = Scaling.of(block, 30)(block)
    assert np.allclose(scaled.mean(axis=0), 0, atol=1e-12) and not scaled[:, 3].any()
    assert (scaled**2).sum(axis=1).mean() == pytest.approx(29 / 30)


def test_features_that_are_not_finite_are_refused_by_their_stage() -> None:
    net = network()
    with torch.no_grad():
        net.fc2[1].bias.fill_(float("inf"))  # type: ignore[index, operator, union-attr]
    with pytest.raises(InputError, match="fc2"):
        fit_network(tap(net), images(30), SETTINGS, 0, lambda count: None)


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


def test_features_of_more_images_are_scaled_where_they_lie() -> None:
    held = np.random.default_rng(0).gamma(2, size=(200, 30)).astype(np.float32)
    expected = Scaling.of(held, 30)(held)
    points = points_of(Columns(partial(in_blocks, held), held), 30, 200, [])
    assert np.shares_memory(points.values, held) and points.gram is None
    assert np.allclose(points.values, expected, atol=1e-6)


def test_permuted_labels_are_learned_by_heart_and_give_chance() -> None:
    net, split, test = network(), images(60), images(600, seed=1)
    network_ = tap(net, stages=["conv1"])
    probes = fit_network(network_, split, SETTINGS, 0, lambda count: None)
    for probe, answer in zip(probes, predictions(network_, probes, test, 0), strict=True):
        top1 = (answer == test.labels.numpy()).mean()
        assert probe.permuted == (top1 < 0.5)
    assert any(probe.permuted and probe.train_top1 > 0.9 for probe in probes)


# --- rows


def answer(
    correct: np.ndarray, stage: str, *, run: int = 0, group: int = 0, trained: bool = True, permuted: bool = False
) -> ProbeAnswer:
    probe = LinearProbe(stage, "svm", permuted, 5, 1.0, 0.5, 0.6, True, np.zeros((5, 2)), np.zeros(2))
    return ProbeAnswer(f"run{run}", group, run, trained, probe, correct)


def curve(*answers: ProbeAnswer) -> ProbeCurve:
    members: dict[Any, list[ProbeAnswer]] = {}
    for each in answers:
        members.setdefault((each.probe.stage, control_of(each)), []).append(each)
    return ProbeCurve("net", "svm", list(dict.fromkeys(each.probe.stage for each in answers)), members)


def right(n: int, *wrong: int) -> np.ndarray:
    correct = np.ones(n, dtype=bool)
    correct[list(wrong)] = False
    return correct


def test_a_difference_is_that_of_the_accuracies_with_mcnemars_p() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.random(400) < 0.6, rng.random(400) < 0.75
    row = next(steps(curve(answer(before, "conv1"), answer(after, "conv2"))))
    only = int((after & ~before).sum()), int((before & ~after).sum())
    assert (row.stage, row.reference, row.versus) == ("conv2", "conv1", "previous")
    assert row.delta == pytest.approx(after.mean() - before.mean())
    assert row.p == pytest.approx(binomtest(only[0], sum(only)).pvalue)
    assert row.delta_low < row.delta < row.delta_high and row.delta_seed_low is None
    assert np.allclose((row.delta_low, row.delta_high), image_interval(discordant_pairs(before, after)), atol=0.01)


def test_of_several_networks_the_weakest_test_counts() -> None:
    before, clear, faint = right(100, *range(40)), right(100), right(100, *range(3, 40))
    rows = {
        row.versus: row
        for row in steps(
            curve(
                *(answer(before, "a", run=run) for run in range(2)),
                *(answer(after, "b", run=run) for run, after in enumerate((clear, faint))),
                answer(before, "b", trained=False),
            )
        )
    }
    assert rows["previous"].p == rows["random"].p == pytest.approx(binomtest(3, 3).pvalue)
    assert rows["previous"].pairs == rows["random"].pairs == 2
    assert rows["previous"].delta == pytest.approx((0.4 + 0.03) / 2)
    assert (rows["previous"].delta_seed_low, rows["previous"].delta_seed_high) == (-1.0, 1.0)  # two seeds say little


def test_rows_are_corrected_together() -> None:
    wrong = {"a": 40, "b": 33, "c": 0}
    rows = corrected([*steps(curve(*(answer(right(100, *range(k)), stage) for stage, k in wrong.items())))])
    ps = [row.p for row in rows]
    assert [row.p_holm for row in rows] == pytest.approx([ps[0], 2 * ps[1], 3 * ps[2]])
    assert all(row.significant for row in rows)


def test_selectivity_is_what_true_labels_add() -> None:
    made = curve(answer(right(10, 0), "a"), answer(right(10, *range(8)), "a", permuted=True))
    row = stage_row(made, ("a", "none"))
    assert row.selectivity == pytest.approx(0.7) and (row.top1_low, row.top1_high) == wilson(9, 10)
    assert stage_row(made, ("a", "permuted")).selectivity is None


def test_seeds_are_pooled_with_an_interval_over_images_and_one_over_seeds() -> None:
    rng = np.random.default_rng(0)
    correct = [rng.random(500) < 0.8 for _ in range(3)]
    row = stage_row(curve(*(answer(each, "a", run=run) for run, each in enumerate(correct))), ("a", "none"))
    shares = [float(each.mean()) for each in correct]
    assert row.top1 == pytest.approx(np.mean(shares)) and row.seeds == 3
    low, high = ttest_1samp(shares, 0).confidence_interval(0.95)
    assert (row.top1_seed_low, row.top1_seed_high) == pytest.approx((low, high))
    one = wilson(int(correct[0].sum()), 500)
    assert row.top1_high - row.top1_low < one[1] - one[0]  # of means over three


# --- the command


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    assert main(["fit", *TINY, "trainer.epochs=1", f"output_dir={run}"]) == 0
    return run


@pytest.fixture
def run(trained: Path, folder: Path) -> str:
    shutil.copytree(trained, "run")
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
    assert {row["stage"] for row in found["pooled"]} == {"input", "conv1", "fc5"}
    assert {(row["stage"], row["versus"]) for row in found["differences"]} == {
        *((stage, versus) for stage in ("conv1", "fc5") for versus in ("previous", "random")),
        ("fc5", "first"),
    }
    page = Page(folder / "out/report.html")
    assert len(page.all("svg")) == 1 and len(page.all("table")) == 2
    assert (folder / "out/rows.csv").read_text().count("\n") == len(counts) + 1
    assert (folder / "out/figures/depth.png").exists() and (folder / "out/report.md").exists()
    assert all(row["top1_low"] - 1e-9 <= row["top1"] <= row["top1_high"] + 1e-9 for row in found["rows"])


def test_runs_that_differ_in_their_seed_are_pooled(cnntrain: Call, run: str, tiny: tuple[str, ...]) -> None:
    cnntrain("fit", *tiny, "trainer.epochs=1", "output_dir=other/run", "seed=1")
    found = cnntrain(
        "probe", "runs=[run,other/run]", *SMALL, "classifier=softmax", "stages=[input,fc5]", "figures=slide"
    )
    pooled = {(row["stage"], row["control"]): row for row in found["pooled"]}
    assert pooled["fc5", "none"]["seeds"] == 2 and pooled["input", "none"]["seeds"] == 1
    assert pooled["fc5", "none"]["top1_seed_low"] is not None


def test_images_of_another_dataset_have_classes_of_their_own(cnntrain: Call, run: str, folder: Path) -> None:
    tree(folder / "pictures", each=20, size=(28, 28))
    words = ("dataset=folder", "dataset.root=pictures", "dataset.channels=1", "dataset.val_size=0.5")
    found = cnntrain("probe", run, *SMALL, *words, "split=val", "stages=[pool1]", "control=none", "figures=false")
    assert {(row["n_train"], row["n"], row["chance"]) for row in found["rows"]} == {
        (16, 16, 0.5)
    }  # a fifth are test images


def test_an_untrained_network_needs_no_run_and_has_no_twin(cnntrain: Call) -> None:
    words = ("model=lenet5", "dataset=digits", "init=random", "stages=[fc5]", "control=random")
    found = cnntrain("probe", *words, *SMALL)
    assert {row["control"] for row in found["rows"]} == {"none"} and found["run_dir"] is None


def test_a_probe_on_the_chain_predicts_what_it_did_and_other_commands_open_it(
    cnntrain: Call, run: str, folder: Path
) -> None:
    found = cnntrain("probe", run, *SMALL, "stages=[pool2]", "control=none", "save=true", "output_dir=out")
    for row in found["rows"]:
        place = f"out/probes/run/pool2_{row['classifier']}"
        assert cnntrain("eval", f"run={place}")["top1"] == row["top1"]
        assert cnntrain("describe", f"run={place}")["stages"][-1]["name"] == "probe"
    cnntrain("export", f"run={place}", "format=safetensors")
    cnntrain("explain", f"run={place}", "what=gradcam", "stages=[conv2]", "images=1")


def test_a_probe_of_another_dataset_is_a_run_on_it(cnntrain: Call, run: str, folder: Path) -> None:
    tree(folder / "pictures", each=20, size=(28, 28))
    words = ("dataset=folder", "dataset.root=pictures", "dataset.channels=1", "classifier=svm", "pool=2", "save=true")
    found = cnntrain("probe", run, *SMALL, *words, "stages=[conv1]", "control=none", "output_dir=out")
    assert cnntrain("eval", "run=out/probes/run/conv1_svm")["top1"] == found["rows"][0]["top1"]


def test_memory_is_asked_for_what_a_stage_needs(cnntrain: Call, run: str, refused: Callable[..., str]) -> None:
    assert points_bytes(10, 50_000, 1000) == 4 * 10 * 50_000 < points_bytes(50_000, 50_000, 1000) / 1000
    words = ("classifier=svm", "control=none", "folds=2", "c=[1]", "figures=false", "memory=0.00038")
    cnntrain("probe", run, *words, "stages=[fc5]", "train_images=96")  # 10 features need no inner products
    nearest = re.search(r"train_images=(\d+)", refused("probe", run, *words, "stages=[input,fc5]", "train_images=96"))
    assert nearest is not None
    refused("probe", run, *words, "stages=[input,fc5]", f"train_images={int(nearest[1]) + 1}")
    cnntrain("probe", run, *words, "stages=[input,fc5]", f"train_images={nearest[1]}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stages=[conv9]"], "conv"),
        (["c=[]"], "c=[0.1"),
        (["c=[0]"], "c"),
        (["folds=1"], "folds"),
        (["folds=30"], "train_images"),
        (["fold_images=20", "folds=3"], "fold_images"),
        (["memory=0.0001"], "train_images="),
        (["memory=0.002", "train_images=30", "fold_images=30", "folds=2"], "pool=avg"),
        (["classifier=tree"], "classifier"),
        (["pool=median"], "pool"),
        (["output_dir=run"], "output_dir=run"),
        (["model=lenet5", "dataset=digits"], "run="),
        (["model=lenet5", "dataset=digits", "init=random", "run=null", "save=true"], "save=false"),
        (["model=unet", "dataset=shapes", "init=random", "run=null"], "pixel"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    words: list[str], said: str, run: str, refused: Callable[..., str]
) -> None:
    assert said in refused("probe", run, "train_images=96", *words)
