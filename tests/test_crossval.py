"""Cross-validation: what its statistics promise, simulated; cells, searches and choices; what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import TINY, picture, tree
from scipy import stats

from cnntrain.cli.main import main
from cnntrain.config.sweeps import drawn_value, listed_values
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.seeding import generator
from cnntrain.stats.intervals import wilson
from cnntrain.stats.resampled import corrected_t
from cnntrain.stats.selection import corrected_best
from cnntrain.studies.cells import CellScores
from cnntrain.studies.crossval.answer import pool
from cnntrain.studies.results import CellResult
from cnntrain.tasks.classification import Classification

Call = Callable[..., dict[str, Any]]
SMALL = (
    *("model=softmax", "dataset=synthetic", "dataset.train_images=80", "dataset.test_images=20", "augmentation=none"),
    *("schedule=constant", "trainer.epochs=1", "trainer.batch_size=16", "device=cpu", "jobs=1", "figures=false"),
    *("dataset.val_size=0", "output_dir=study"),
)


# --- statistics


def test_the_corrected_t_is_the_papers_formula() -> None:
    values = np.array([0.02, 0.05, -0.01, 0.03, 0.04])
    mean, low, high, p = corrected_t(values.tolist(), 0.25)
    error = np.sqrt((1 / 5 + 0.25) * values.var(ddof=1))
    assert mean == pytest.approx(values.mean()) and p == pytest.approx(2 * stats.t.sf(mean / error, 4))
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 4, loc=mean, scale=error))
    naive = corrected_t(values.tolist(), 0.0)
    assert naive[3] == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert corrected_t([0.1, 0.1], 0.5)[3] == 0 and corrected_t([0.0, 0.0], 0.5)[3] == 1
    with pytest.raises(ValueError, match="two"):
        corrected_t([0.1], 0.25)


def test_false_alarms_of_the_corrected_t_stay_below_its_level_where_the_naive_t_does_not() -> None:
    """Two nearest-mean classifiers that use one of two equally good features each, over 2 repetitions of 5 folds."""
    rng, alarms, trials, n = np.random.default_rng(0), np.zeros(2), 400, 60
    for _ in range(trials):
        labels = rng.integers(0, 2, n)
        features = rng.standard_normal((2, n)) + labels - 0.5
        differences = []
        for _ in range(2):
            order = rng.permutation(n)
            for fold in range(5):
                test = order[fold::5]
                train = np.setdiff1d(order, test)
                means = [[x[train][labels[train] == y].mean() for y in (0, 1)] for x in features]
                right = [
                    ((np.abs(x[test] - m[1]) < np.abs(x[test] - m[0])) == labels[test]).mean()
                    for x, m in zip(features, means, strict=True)
                ]
                differences.append(right[0] - right[1])
        alarms += [corrected_t(differences, ratio)[3] <= 0.05 for ratio in (0.25, 0.0)]
    corrected, naive = alarms / trials
    assert corrected <= 0.05 < 0.12 < naive


def results(rights: dict[str, np.ndarray], folds: int, seeds: int = 1) -> dict[tuple[str, int, int], CellResult]:
    """Return cells that have these images right, [seeds, N] or [N], dealt to folds."""
    found = {}
    for name, right in rights.items():
        for seed, row in enumerate(np.broadcast_to(right, (seeds, right.shape[-1]))):
            for fold in range(folds):
                part = row[fold::folds]
                found[name, fold, seed] = CellResult(CellScores(1.0, float(part.mean()), len(part), 1.0), part)
    return found


def test_the_pooled_interval_covers_and_repetitions_do_not_narrow_it() -> None:
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        row = pool(["a"], results({"a": rng.random(120) < 0.8}, 5), 5, [0], 0.25, Classification.headline).table[0]
        assert row.score_low is not None and row.score_high is not None
        covered += row.score_low <= 0.8 <= row.score_high
    assert 0.92 <= covered / 400 <= 0.98
    rights = {"a": rng.random((3, 120)) < 0.8}
    row = pool(["a"], results(rights, 5, 3), 5, [0, 1, 2], 0.25, Classification.headline).table[0]
    assert row.score == pytest.approx(rights["a"].mean()) and row.n == 120 and row.seeds == 3
    assert (row.score_low, row.score_high) == wilson(round(rights["a"].mean() * 120), 120)
    assert row.sd_seeds == pytest.approx(rights["a"].mean(axis=1).std(ddof=1))


def test_pooled_images_and_folds_are_compared_with_the_first_and_missing_cells_give_no_verdict() -> None:
    rng = np.random.default_rng(1)
    rights = {"a": rng.random(100) < 0.6, "b": rng.random(100) < 0.9}
    found = results(rights, 5)
    answer = pool(["a", "b"], found, 5, [0], 0.25, Classification.headline)
    second = answer.table[1]
    scores = [[rights[name][fold::5].mean() for fold in range(5)] for name in "ab"]
    assert second.test.p == corrected_t(np.subtract(scores[1], scores[0]).tolist(), 0.25)[3]
    assert second.mcnemar[0].only_this == (rights["b"] & ~rights["a"]).sum()
    assert answer.complete and answer.choice is not None and answer.choice.best == "b"
    del found["b", 3, 0]
    answer = pool(["a", "b"], found, 5, [0], 0.25, Classification.headline)
    assert not answer.complete and answer.table[1].test.p is None and answer.table[1].score is None
    assert answer.table[0].n == 100 and len(answer.rows) == 9 and answer.choice is None


def test_the_best_of_equals_is_too_good_and_the_bootstrap_says_by_how_much() -> None:
    rng, scores, corrected = np.random.default_rng(0), [], []
    for _ in range(30):
        _, score, better = corrected_best(rng.random((8, 150)) < 0.7)
        scores.append(score)
        corrected.append(better)
    assert np.mean(scores) > 0.74 and abs(np.mean(corrected) - 0.7) < 0.01
    best, score, better = corrected_best(np.stack([np.arange(200) % 4 > 0, np.zeros(200, dtype=bool)]))
    assert best == 0 and score == 0.75 == pytest.approx(better, abs=0.01)


# --- values


def test_values_are_listed_and_drawn_in_hydras_syntax() -> None:
    assert listed_values("optimizer.lr=0.1,1e-3") == ("optimizer.lr=0.1", "optimizer.lr=0.001")
    assert listed_values("seed=range(1,4)") == ("seed=1", "seed=2", "seed=3")
    drawn = [
        float(drawn_value("lr=tag(log,interval(1e-4,1e-1))", generator(0, trial)).removeprefix("lr="))
        for trial in range(400)
    ]
    assert min(drawn) >= 1e-4 and max(drawn) <= 0.1 and 0.4 < np.mean(np.array(drawn) < 10**-2.5) < 0.6
    assert {drawn_value("a=x,y", generator(1, trial)) for trial in range(20)} == {"a=x", "a=y"}
    assert drawn_value("n=int(interval(3,3))", generator(0)) == "n=3"
    for word in ("a=1", "a=glob(*)", "a=interval(0,1)"):
        with pytest.raises(InputError):
            listed_values(word)


# --- cells


def test_every_image_is_predicted_once_by_ordinary_runs_that_are_never_made_again(cnntrain: Call, folder: Path) -> None:
    words = ["crossval", *SMALL, "optimizer.lr=0.01,0.1", "folds=3", "seeds=2"]
    found = cnntrain(*words)
    assert found["complete"] and len(found["rows"]) == 12
    assert {"study_dir", "rows", "table", "choice", "complete"} == found.keys()
    keys = {"variant", "folds", "seeds", "n", "top1", "top1_low", "top1_high", "sd_folds", "delta_mean", "delta_low"}
    assert keys | {"delta_high", "p_corrected"} <= found["table"][0].keys()
    for seed in (0, 1):
        assert sum(row["n"] for row in found["rows"] if (row["variant"], row["seed"]) == ("lr_0.1", seed)) == 80
    cell = "study/cells/lr_0.1-fold_2/1"
    scores = {(row["variant"], row["fold"], row["seed"]): row["top1"] for row in found["rows"]}
    assert cnntrain("eval", f"run={cell}", "weights=last")["top1"] == scores["lr_0.1", 2, 1]
    made = {path: path.stat().st_mtime_ns for path in (folder / "study").rglob("*.pt")}
    assert cnntrain(*words) == found
    assert made == {path: path.stat().st_mtime_ns for path in made}
    for name in ("results.json", "report.md", "report.html", "study.json"):
        assert (folder / "study" / name).is_file(), name
    alone = [word for word in SMALL if word.partition("=")[0] not in ("jobs", "figures", "output_dir")]
    again = ["optimizer.lr=0.1", "seed=1", "dataset.folds=3", "dataset.fold=2", "output_dir=alone"]
    cnntrain("fit", *alone, *again)
    assert cnntrain("eval", "run=alone", "weights=last")["top1"] == scores["lr_0.1", 2, 1]


def test_inner_folds_choose_and_outer_folds_measure_the_choice(cnntrain: Call, folder: Path) -> None:
    words = ["model=softmax,mlp", "search=random", "trials=3", "nested=true", "folds=2", "inner_folds=2"]
    found = cnntrain("crossval", *SMALL[1:], "optimizer.lr=interval(0.01,0.1)", *words)
    assert found["complete"] and [row["variant"] for row in found["rows"]] == ["chosen"] * 2
    assert found["table"][0]["n"] == 80 and found["choice"]["nested"]
    assert found["choice"]["corrected"] == pytest.approx(found["table"][0]["top1"])
    outer = [path.name for path in (folder / "study/cells").iterdir() if path.name.count("_") == 4]
    assert outer  # the inner cells
    for path in (folder / "study/cells").glob("*-fold_0_1/0/config.json"):
        assert '"folds": [' in path.read_text().replace("\n", " ")


def test_a_study_file_names_variants(cnntrain: Call, folder: Path) -> None:
    (folder / "mine/study").mkdir(parents=True)
    (folder / "mine/study/own.yaml").write_text("name: own\nvariants: {fast: [optimizer.lr=0.2]}\n")
    planned = cnntrain("crossval", "--config-dir", "mine", "study=own", *SMALL, "folds=2", "plan=true")
    assert [row["variant"] for row in planned["table"]] == ["full", "fast"] and not planned["complete"]


def test_images_that_change_between_folds_are_noticed(
    cnntrain: Call, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tree(folder / "d", each=6, size=(16, 16))
    words = [
        "crossval",
        *SMALL[5:],
        "model=softmax",
        "dataset=folder",
        "dataset.root=d",
        "augmentation=none",
        "folds=2",
    ]
    words = [word for word in words if not word.startswith("trainer.batch")] + ["trainer.batch_size=4"]
    cnntrain(*words)
    picture(7, 16, 16).save(folder / "d/ant/new.png")
    for path in (folder / "study/cells/network-fold_1").rglob("*"):
        if path.is_file():
            path.unlink()
    capfd.readouterr()
    assert main(words) == 2
    assert "partition" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["folds=1"], "at least 2"),
        (["folds=200"], "139"),
        (["search=random"], "trials=20"),
        (["trials=3"], "search=random"),
        (["nested=true"], "optimizer.lr="),
        (["dataset.folds=3", "dataset.fold=1"], "folds=5"),
        (["model=lenet5,lenet6"], "lenet5"),
        (["optimizer.lr=interval(0,1)"], "search=random"),
        (["optimizer.lr=tag(log,interval(0,1))", "search=random", "trials=2"], "above 0"),
        (["study=each_stage"], "ablate"),
        (["optimizer.lr=-1,0.1"], "lr_-1"),
        (["seeds=[1,1]"], "seeds"),
        (["dataset=shapes", "model=unet", "model.depth=2"], "fit -m"),
    ],
)
def test_what_cannot_be_cross_validated_is_refused(refused: Callable[..., str], words: list[str], key: str) -> None:
    assert key in refused("crossval", "dataset=digits", *TINY[4:5], *words)
