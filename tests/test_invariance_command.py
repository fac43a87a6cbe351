"""`cnntrain invariance` from end to end, on drawn images."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnntrain.cli.main import main

Call = Callable[..., dict[str, Any]]
FIT = (
    *("dataset=synthetic", "dataset.image_size=16", "dataset.train_images=64", "dataset.test_images=20"),
    *("augmentation=none", "trainer.epochs=1", "trainer.batch_size=16", "trainer.tensorboard=false", "device=cpu"),
)
ROW_KEYS = {
    *("run", "warp", "amount", "stage", "n", "distance", "distance_low", "distance_high", "distance_same_class"),
    *("cosine", "euclidean", "p_true", "top1", "consistency", "consistency_corrected", "flip_rate", "equivariance"),
    *("floor", "padding_only", "consistency_low", "p_true_high"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two networks, one of them with two seeds, and others that cannot be compared with them."""
    root = tmp_path_factory.mktemp("runs")
    for name, words in (
        ("conv/0", ("model=lenet5", "seed=0")),
        ("conv/1", ("model=lenet5", "seed=1")),
        ("mlp", ("model=mlp",)),
        ("larger", ("model=mlp", "dataset.image_size=20")),
        ("fewer", ("model=mlp", "dataset.classes=[grating0,grating1,grating2]")),
    ):
        assert main(["fit", *FIT, *words, f"output_dir={root / name}"]) == 0
    return root


@pytest.mark.usefixtures("no_formulas")
def test_a_study_leaves_rows_raw_numbers_figures_and_a_report(cnntrain: Call, folder: Path, runs: Path) -> None:
    words = ("warp.translate_y.amounts=[-2,0,1,2]", "warp.scale=null", "warp.rotate.amounts=[0,90]")
    found = cnntrain("invariance", f"run={runs / 'conv' / '0'}", *words, "output_dir=study", "control_images=5")
    assert found["run_dir"] == str(runs / "conv" / "0") and found["output_dir"] == "study"
    rows = found["rows"]
    assert set(rows[0]) >= ROW_KEYS and len(rows) == (4 + 2) * 8
    assert list(dict.fromkeys(row["warp"] for row in rows)) == ["translate_y", "rotate"]
    stages = ["input", "conv1", "pool1", "conv2", "pool2", "fc3", "fc4", "fc5"]
    assert [row["stage"] for row in rows[:8]] == stages and all(row["n"] == 20 for row in rows)
    for row in rows:
        still = row["amount"] == 0
        assert (row["distance"] == row["cosine"] == row["floor"] == 0) == still or row["floor"] == 0 < row["distance"]
        assert not still or row["consistency"] == 1
        assert 0 <= row["floor_p_true"] <= 1 and (row["floor_p_true"] == row["padding_only_p_true"] or not still)
        assert row["distance_low"] <= row["distance"] <= row["distance_high"]

    study = folder / "study"
    assert {path.name for path in study.iterdir()} == {
        *("rows.csv", "results.json", "report.md", "report.html", "raw", "figures", "tensorboard"),
    }
    assert json.loads((study / "results.json").read_text())["record"]["warps"]["rotate"] == {
        "border": "zero",
        "interpolation": "bilinear",
        "centre": [0.5, 0.5],
    }
    with (study / "rows.csv").open() as source:
        table = list(csv.DictReader(source))
    assert [float(row["distance"]) for row in table] == [row["distance"] for row in rows]
    with np.load(study / "raw" / "conv_0_translate_y.npz") as arrays:
        raw = dict(arrays)
    assert raw["stages"].tolist() == stages and raw["amounts"].ravel().tolist() == [-2, 0, 1, 2]
    again = raw["euclidean"][3, 1].mean(dtype=np.float64) / raw["clean_to_other"][1].mean(dtype=np.float64)
    assert again == pytest.approx(next(r for r in rows[24:] if r["stage"] == "conv1")["distance"], rel=1e-6)
    evaluated = cnntrain("eval", f"run={runs / 'conv' / '0'}", "precision=fp32", f"output_dir={folder / 'eval'}")
    assert (raw["clean_predicted"] == raw["clean_labels"]).mean() == pytest.approx(evaluated["top1"])

    names = {path.name for path in (study / "figures").iterdir()}
    for figure in ("translate_y", "rotate", "translate_y_stages", "rotate_consistency", "translate_y_pixels"):
        assert {f"{figure}.png", f"{figure}.svg"} <= names
    report = (study / "report.md").read_text()
    conv1 = next(row for row in rows if (row["stage"], row["amount"]) == ("conv1", 1))
    assert f"{conv1['distance']:.2f} (" in report
    assert all(f"figures/{name}" in report for name in names if name.endswith(".png"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(study / "tensorboard"))
    events.Reload()
    assert {f"invariance/{name.removesuffix('.png')}" for name in names if name.endswith(".png")} == set(
        events.Tags()["images"]
    )


def test_overlays_are_paired_and_seeds_are_pooled(cnntrain: Call, runs: Path) -> None:
    words = (f"runs=[{runs / 'conv'},{runs / 'mlp'}]", "warp=translate_y", "warp.translate_y.amounts=[0,1,2]")
    found = cnntrain("invariance", *words, "stages=[input,conv1,fc1]", "images=12", "figures=false")
    assert list(dict.fromkeys(row["run"] for row in found["rows"])) == ["conv/0", "conv/1", f"{runs.name}/mlp"]
    assert {row["stage"] for row in found["rows"] if row["run"] == "conv/0"} == {"input", "conv1"}
    assert all(row["n"] == 12 for row in found["rows"])
    inputs = {row["run"]: row["distance"] for row in found["rows"] if (row["stage"], row["amount"]) == ("input", 2)}
    assert len(set(inputs.values())) == 1  # the same images and the same pairs
    assert {row["run"] for row in found["pooled"]} == {"conv"}
    at = lambda row: (row["amount"], row["stage"])  # noqa: E731
    for row in found["pooled"]:
        both = [r["p_true"] for r in found["rows"] if r["run"] in ("conv/0", "conv/1") and at(r) == at(row)]
        assert row["p_true"] == pytest.approx(np.mean(both))
        assert row["p_true_seed_low"] <= row["p_true"] <= row["p_true_seed_high"]
    assert {(row["name"], row["against"]) for row in found["differences"]} == {(f"{runs.name}/mlp", "conv")}


def test_one_seed_gives_the_same_rows_and_untrained_networks_are_a_control(cnntrain: Call, runs: Path) -> None:
    words = ("warp=noise", "warp.noise.amounts=[0,0.2]", "images=10", "figures=false")
    model = ("model=lenet5", "dataset=synthetic", "dataset.image_size=16", "init=random")
    one, two, other = (
        cnntrain("invariance", *model, *words, *more, f"output_dir={name}")
        for name, more in (("a", ()), ("b", ()), ("c", ("seed=1",)))
    )
    assert one["rows"] == two["rows"] and one["run_dir"] is None
    assert one["rows"][-1]["euclidean"] != other["rows"][-1]["euclidean"]
    assert one["rows"][-1]["floor"] is None and one["rows"][-1]["equivariance"] is None
    fresh = cnntrain("invariance", f"run={runs / 'conv' / '0'}", "init=random", *words)
    trained = cnntrain("invariance", f"run={runs / 'conv' / '0'}", *words)
    assert fresh["rows"][-1]["euclidean"] != trained["rows"][-1]["euclidean"]


def test_a_targeted_attack_says_how_often_it_hits(cnntrain: Call, folder: Path, runs: Path) -> None:
    words = ("images=12", "figures=false", "output_dir=hits", "stages=[fc3]")
    transform = ("warp=pgd", "warp.pgd.target=1", "warp.pgd.amounts=[0,1]")
    found = cnntrain("invariance", f"run={runs / 'mlp'}", *transform, *words)
    with np.load(next((folder / "hits" / "raw").glob("*_pgd.npz"))) as raw:
        rates = (raw["predicted"] == raw["clean_goal"]).mean(axis=1)
        assert (raw["clean_goal"] != raw["clean_labels"]).all()
    assert [row["target_rate"] for row in found["rows"]] == pytest.approx(rates)
    assert rates[0] < rates[1]
    assert all(row["target_rate_low"] <= row["target_rate"] <= row["target_rate_high"] for row in found["rows"])
    assert "target class" in (folder / "hits" / "report.md").read_text()


def test_a_grid_has_a_map_and_a_crop_reads_larger_images(cnntrain: Call, folder: Path, runs: Path) -> None:
    words = (f"run={runs / 'conv' / '0'}", "images=6", "figures=false")
    found = cnntrain(
        *(
            "invariance",
            *words,
            "warp=translate",
            "warp.translate.amounts=[-1,0,1]",
            "output_dir=grid",
            "figures=slide",
        ),
    )
    assert len(found["rows"]) == 9 * 8 and found["rows"][0]["dx"] == found["rows"][0]["dy"] == -1
    assert {path.name for path in (folder / "grid" / "figures").glob("*.png")} == {"translate_map.png"}
    with Image.open(folder / "grid" / "figures" / "translate_map.png") as slide:
        assert slide.size == (1920, 1080)
    assert {tuple(row["phase"]) for row in found["phases"]} == {
        (0, 1),
        (0, 3),
        (1, 0),
        (1, 1),
        (1, 3),
        (3, 0),
        (3, 1),
        (3, 3),
    }
    cropped = cnntrain(
        *("invariance", *words, "warp=translate_x", "warp.translate_x.amounts=[0,3]", "warp.translate_x.border=crop"),
        "dataset.root=null",
    )
    assert cropped["rows"][0]["distance"] == 0 < cropped["rows"][-1]["distance"]
    assert cropped["rows"][-1]["padding_only"] >= 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("warp=translate_z",), "'translate_z'"),
        (("stages=[conv9]",), "'conv9'"),
        (("warp.translate_y.amounts=[3,16]",), "warp.translate_y.amounts: 16 "),
        (("warp.translate_y.bordr=zero",), "'warp.translate_y.border'"),
        (("warp.scale.interpolation=lanczos",), "warp.scale.interpolation=lanczos"),
        (("split=val", "dataset.val_size=0"), "split=val"),
        (("runs=[]",), "run=<folder>, runs=[<folder>,…], or model=<name>"),
        (("images=0",), "images=0 "),
    ],
)
def test_bad_input_is_refused_in_a_line(
    refused: Callable[..., str], runs: Path, words: tuple[str, ...], expected: str
) -> None:
    assert expected in refused("invariance", f"run={runs / 'conv' / '0'}", *words)


def test_networks_that_cannot_see_the_same_images_are_named(refused: Callable[..., str], runs: Path) -> None:
    assert re.search("larger .*1×20×20", refused("invariance", f"runs=[{runs / 'mlp'},{runs / 'larger'}]"))
    line = refused("invariance", f"runs=[{runs / 'mlp'},{runs / 'fewer'}]")
    assert "fewer " in line and "grating3" in line
    assert "init=random" in refused("invariance", "model=lenet5", "dataset=synthetic")


def test_a_folder_that_holds_results_is_not_written_to(refused: Callable[..., str], folder: Path, runs: Path) -> None:
    (folder / "done").mkdir()
    (folder / "done" / "results.json").write_text("{}")
    assert "output_dir=done already holds results" in refused("invariance", f"run={runs / 'mlp'}", "output_dir=done")
