"""Studies of transfer: what each regime takes, freezes and learns, sizes and budgets, and what is refused."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cuts import agree, cut

from cnntrain.cli.main import main
from cnntrain.runs.load import load_run
from cnntrain.studies import duration
from cnntrain.studies.transfer.regimes import Regime, reference_of
from cnntrain.training import checkpoints

Call = Callable[..., dict[str, Any]]
Refused = Callable[..., str]
HERE = ("output_dir=study", "jobs=1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny: tuple[str, ...]) -> Path:
    """A trained LeNet-5, for all tests."""
    run = tmp_path_factory.mktemp("trained") / "source"
    assert main(["fit", *tiny, "trainer.epochs=1", "seed=9", f"output_dir={run}"]) == 0
    return run


@pytest.fixture
def source(folder: Path, trained: Path) -> str:
    """The same in the working folder."""
    shutil.copytree(trained, folder / "source")
    return "run=source"


def smaller(tiny: Sequence[str]) -> list[str]:
    """Return the words of a tiny training without its network: a run brings that."""
    return [word for word in tiny if not word.startswith("model")]


def weights(run: str) -> dict[str, torch.Tensor]:
    """Return the last weights of a run."""
    state = checkpoints.load(checkpoints.path_of(Path(run), "last"))["model"]
    assert isinstance(state, dict)
    return state


def test_each_regime_takes_freezes_and_trains_what_it_says(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], source: str
) -> None:
    regimes = "regimes=[scratch,extract,finetune,layerwise=0.5,upto=conv2,upto=conv2+]"
    rates = "rates={finetune: 0.01, upto: 0.02}"
    found = cnntrain("transfer", *smaller(tiny), source, regimes, rates, "budgets=[steps]", "seeds=2", *HERE)
    assert found["complete"] and {row["seed"] for row in found["rows"]} == {0, 1}
    expected = ["scratch", "extract", "finetune", "layerwise=0.5", "upto=conv2", "upto=conv2+"]
    assert [row["regime"] for row in found["table"]] == expected
    assert not {"removed", "interactions"} & (found.keys() | found["rows"][0].keys() | found["table"][0].keys())
    own = {row["regime"]: row["lr"] for row in found["table"]}
    assert own["finetune"] == 0.01 and own["upto=conv2"] == own["upto=conv2+"] == 0.02
    assert own["scratch"] == own["extract"] == own["layerwise=0.5"] not in (0.01, 0.02)
    assert json.loads((folder / "study/cells/upto_conv2/1/config.json").read_text())["optimizer"]["lr"] == 0.02
    given = weights("source")
    for seed in (0, 1):
        cells = {
            name: weights(f"study/cells/{name}/{seed}")
            for name in ("scratch", "extract", "finetune", "upto_conv2", "upto_conv2+")
        }
        same = {
            name: {key.partition(".")[0] for key in given if torch.equal(given[key], cell[key])}
            for name, cell in cells.items()
        }
        assert not same["scratch"] and not same["finetune"] and not same["upto_conv2+"]
        assert same["extract"] == {key.partition(".")[0] for key in given} - {"fc5"}
        assert same["upto_conv2"] == {"conv1", "conv2"}
    settings = json.loads((folder / "study/cells/layerwise_0.5/0/config.json").read_text())
    assert settings["optimizer"]["layer_decay"] == 0.5 and settings["model"]["head"] == "new"
    begun = json.loads((folder / "study/cells/upto_conv2+/0/run.json").read_text())["init_from"]
    assert begun["kept"] == ["conv1", "conv2"]
    first, *others = found["table"]
    assert first["delta_mean"] is None
    scores = {(row["variant"], row["seed"]): row["top1"] for row in found["rows"]}
    for row in others:
        deltas = [scores[row["variant"], seed] - scores["scratch", seed] for seed in (0, 1)]
        assert row["delta_mean"] == pytest.approx(np.mean(deltas)) and row["p"] is not None
    for name in ("results.json", "report.md", "report.html", "rows.csv", "table.csv", "study.json"):
        assert (folder / "study" / name).is_file(), name


def test_a_cell_is_the_run_that_its_command_makes(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], source: str
) -> None:
    """The recorded line makes the same weights alone."""
    cnntrain("transfer", *smaller(tiny), source, "regimes=[scratch,upto=conv1]", "budgets=[steps]", "seeds=1", *HERE)
    line = json.loads((folder / "study/cells/upto_conv1/0/run.json").read_text())["argv"]
    assert line[:2] == ["cnntrain", "fit"]
    cnntrain("fit", *line[2:-1], "output_dir=alone")
    one, other = weights("study/cells/upto_conv1/0"), weights("alone")
    assert all(torch.equal(one[key], other[key]) for key in one)


NORMED = "model.append={extra: {conv: {out: 8}, after: conv2}}"  # a convolution with batch norm
STARTS = {
    "extract": ("model.head=new", "trainer.freeze=backbone"),
    "finetune": ("model.head=new",),
    "layerwise": ("model.head=new", "optimizer.layer_decay=0.5", "optimizer=adamw"),
    "upto": ("model.head=pool2", "trainer.freeze=[conv1,pool1,conv2,extra]"),
    "first the classifier": ("model.head=new", "trainer.freeze={backbone: [0, 0.5]}", "trainer.ema=0.9"),
}


@pytest.mark.parametrize("regime", list(STARTS))
def test_each_regime_resumes_with_the_same_bits(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], regime: str
) -> None:
    words = [*tiny, NORMED, "trainer.epochs=1"]
    cnntrain("fit", *words, "output_dir=source")
    words += [*STARTS[regime], "init_from=source"]
    steps = cnntrain("fit", *words, "output_dir=whole")["steps"]
    cut(*words, "output_dir=cut", nth=steps // 2)
    shutil.rmtree("source")  # a run that has begun holds its weights
    assert cnntrain("fit", *words, "output_dir=cut")["resumed_from"] == steps // 2
    agree(folder / "whole", folder / "cut")


def test_equal_seconds_give_frozen_regimes_more_epochs_and_are_kept(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter([[3.0, 1.0], [3.0, 2.9]])
    monkeypatch.setattr(duration, "in_turns", lambda *_: next(measured))
    words = [*smaller(tiny), "trainer.epochs=1", source, "regimes=[finetune,extract]", *HERE]
    found = cnntrain("transfer", *words, "seeds=1")
    longer = [row for row in found["table"] if row["variant"] == "extract_longer"]
    assert [(row["epochs"], row["budget"]) for row in longer] == [(3, "seconds")]
    assert len(json.loads((folder / "study/budget.json").read_text())) == 2
    again = cnntrain("transfer", *words, "seeds=2")
    assert {row["epochs"] for row in again["rows"] if row["variant"] == "extract_longer"} == {3}
    assert "Equal seconds" in (folder / "study/report.md").read_text()


def test_sizes_are_images_a_class_and_each_has_its_reference(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], source: str
) -> None:
    words = [*smaller(tiny), "trainer.batch_size=8", source, "regimes=[extract,scratch]", "budgets=[steps]"]
    found = cnntrain("transfer", *words, "sizes=[1,2]", "seeds=2", *HERE)
    images = {row["variant"]: row["n_train"] for row in found["table"]}
    classes = len(load_run(folder / "source", "last")[1].classes)
    assert images == {f"{name}_{size}": size * classes for name in ("extract", "scratch") for size in (1, 2)}
    references = {row["variant"]: row["delta_mean"] is None for row in found["table"]}
    assert [name for name, is_reference in references.items() if is_reference] == ["scratch_1", "scratch_2"]
    assert (folder / "study/figures/sizes.png").is_file()


def test_up_to_each_stage_is_a_regime_for_every_stage_with_weights_but_the_classifier(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], source: str
) -> None:
    words = [*smaller(tiny), source, "regimes=[scratch,upto=*,upto=conv2+]", "budgets=[steps]", "plan=true", *HERE]
    found = cnntrain("transfer", *words)
    net = load_run(folder / "source", "last")[0]
    learnt = [name for name, stage in net.named_children() if [*stage.parameters()]]
    upto = [f"upto={name}" for name in learnt[:-1]]
    assert [row["regime"] for row in found["table"]] == ["scratch", *upto, "upto=conv2+"]
    assert not {"removed", "interactions", "replumbed"} & (found.keys() | found["table"][0].keys())
    assert not (folder / "study").exists()


def test_more_than_the_classifier_may_be_new(cnntrain: Call, folder: Path, tiny: tuple[str, ...], source: str) -> None:
    words = [*smaller(tiny), source, "regimes=[scratch,finetune]", "model.head=fc3", "budgets=[steps]", "seeds=1"]
    cnntrain("transfer", *words, "trainer.epochs=1", *HERE)
    heads = {
        name: json.loads((folder / f"study/cells/{name}/0/config.json").read_text())["model"]["head"]
        for name in ("scratch", "finetune")
    }
    assert heads == {"scratch": None, "finetune": "fc3"}
    kept = json.loads((folder / "study/cells/finetune/0/run.json").read_text())["init_from"]["kept"]
    assert kept == ["conv1", "conv2"]


def test_the_reference_is_scratch_or_the_first() -> None:
    regimes = [Regime(f"{name}_{size}", {}, regime=name, size=size) for size in (1, 2) for name in ("extract", "tune")]
    assert [reference_of(regime, regimes).name for regime in regimes] == ["extract_1"] * 2 + ["extract_2"] * 2
    regimes.append(Regime("scratch_2", {}, size=2))
    assert reference_of(regimes[-2], regimes).name == "scratch_2"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["regimes=[scratch,extrac]"], "'extract'"),
        (["regimes=[scratch]"], "at least two"),
        (["regimes=[scratch,extract,extract]"], "twice"),
        (["regimes=[scratch,upto=conv9]"], "unknown stage 'conv9'"),
        (["regimes=[scratch,upto]"], "upto=conv3"),
        (["regimes=[scratch,upto=pool1]"], "no stage with weights"),
        (["regimes=[scratch,layerwise=2]"], "out of range"),
        (["regimes=[scratch,finetune=2]"], "takes no value"),
        (["regimes=[scratch,extract]", "rates={finetune: 0.1}"], "'finetune'"),
        (["rates={finetune: -1}"], "rates.finetune"),
        (["model=mlp"], "leave out model="),
        (["sizes=[100000]"], "there are"),
        (["sizes=[1]", "trainer.batch_size=64"], "fewer than a batch"),
        (["trainer.freeze=backbone"], "trainer.freeze"),
        (["dataset.image_size=40"], "fc3"),
        (["run=nowhere"], "run=nowhere"),
    ],
)
def test_what_cannot_be_transferred_is_refused_with_the_reason(
    refused: Refused, tiny: tuple[str, ...], source: str, words: list[str], message: str
) -> None:
    assert message in refused("transfer", *smaller(tiny), source, *words, *HERE)


def test_without_trained_weights_there_is_nothing_to_transfer(refused: Refused, tiny: tuple[str, ...]) -> None:
    assert "run=<folder>" in refused("transfer", *tiny, *HERE)
