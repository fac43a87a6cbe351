"""Exact resume: stopped at any step and resumed, a training ends with the same bits as one that never stopped."""

import contextlib
import json
import random
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from cuts import FULL, PROVENANCE, Call, agree, cut, last, rows
from made import tree

from cnntrain.cli.main import main
from cnntrain.data.loading.loader import ResidentLoader
from cnntrain.runs import resume, setup
from cnntrain.runs.train import Training
from cnntrain.runtime.errors import InputError
from cnntrain.training import checkpoints, loop

SETTINGS = {
    "plain": (),
    "everything": (
        *("model=resnet20", "model.remove=[block1_2,block1_3,block2_2,block2_3,block3_2,block3_3]", "trainer.ema=0.9"),
        *("augmentation=strong", "augmentation.mixup.alpha=0.2", "trainer.accumulate=2", "trainer.clip=1"),
        *("trainer.patience=5", "trainer.log_every=3", "trainer.resize={16: 0.3, 20: 0.6}"),
    ),
    "heads": ("trainer.ema=0.9", "trainer.clip=1", "trainer.gradients=true"),
    "adamw": (
        *("optimizer=adamw", "optimizer.lr=1e-3", "model=mlp", "dataset.balance=sampling"),
        "trainer.freeze={fc1: 0.5, fc2: 0.3}",
    ),
    "thawed": ("trainer.freeze={backbone: [0, 0.4]}", "optimizer.layer_decay=0.7", "optimizer.factors={conv1: 0.1}"),
    "adadelta": ("optimizer=adadelta", "optimizer.max_norm=1"),
    "muon": ("optimizer=muon", "optimizer.layer_decay=0.7", "trainer.freeze={conv1: [0.2, 0.5]}"),
}


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("settings", list(SETTINGS))
def test_f01_f05_a_stop_at_any_step_and_a_resume_give_the_same_bits(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], settings: str, precision: str, request: pytest.FixtureRequest
) -> None:
    """Every step is a cut in one setting, and in all of them in full. There is no fp16, so no scaler has a state."""
    if settings == "heads":
        request.getfixturevalue("lenet_heads")
    words = [*tiny, *SETTINGS[settings], f"trainer.precision={precision}", "dataset.train_images=120"]
    steps = cnntrain("fit", *words, "output_dir=whole")["steps"]
    every = FULL or (settings == "adamw" and precision == "fp32")
    for step in range(1, steps + 1) if every else (1, steps // 2, steps - 1):
        cut(*words, f"output_dir=cut{step}", nth=step)
        found = cnntrain("fit", *words, f"output_dir=cut{step}", f"dataset.workers={step % 2}")
        assert found["resumed_from"] == step
        agree(folder / "whole", folder / f"cut{step}")


@pytest.mark.parametrize("workers", [(0, 2), (2, 0), (2, 1)])
def test_f02_other_numbers_of_workers_give_the_same_bits(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], workers: tuple[int, int]
) -> None:
    """On files, which workers read. Those of the training persist over epochs, those of a validation never do."""
    tree(folder / "images", each=64 if FULL else 32)
    words = [*tiny, "dataset=folder", "dataset.root=images", "dataset.image_size=28", "augmentation=strong"]
    words = [word for word in words if not word.startswith(("dataset.train_images", "dataset.test_images"))]
    steps = cnntrain("fit", *words, "output_dir=whole")["steps"]
    for step in random.Random(0).sample(range(1, steps), 5 if FULL else 1):  # noqa: S311 - not for secrets
        cut(*words, f"output_dir=cut{step}", f"dataset.workers={workers[0]}", nth=step)
        found = cnntrain("fit", *words, f"output_dir=cut{step}", f"dataset.workers={workers[1]}")
        assert found["resumed_from"] == step
        agree(folder / "whole", folder / f"cut{step}")


def test_f02_two_stops_in_a_row_are_like_none(cnntrain: Call, folder: Path, tiny: tuple[str, ...]) -> None:
    cnntrain("fit", *tiny, "output_dir=whole")
    cut(*tiny, "output_dir=cut", nth=2)
    cut(*tiny, "output_dir=cut", nth=5)
    assert cnntrain("fit", *tiny, "output_dir=cut")["resumed_from"] == 7
    agree(folder / "whole", folder / "cut")


MOMENTS = {  # the function that is interrupted, at which of its calls, and the step that is resumed from
    "before the first step": ((Training, "train"), 1, 0),
    "at an epoch's end": ((loop.TrainStep, "update"), 5, 5),
    "in a validation": ((setup, "until"), 1, 5),
    "in the saving of the best weights": ((checkpoints, "verify"), 1, 5),
    "in the saving of the last state": ((checkpoints, "verify"), 2, 5),
    "at the last step": ((loop.TrainStep, "update"), 10, 10),
    "in the last validation": ((setup, "until"), 2, 10),
}


@pytest.mark.parametrize("moment", list(MOMENTS))
def test_f03_f18_a_signal_at_any_moment_saves_and_ends(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], moment: str
) -> None:
    """A validation that is stopped is repeated whole, and no epoch is run twice: its rows would be there twice."""
    at, nth, step = MOMENTS[moment]
    words = [*tiny, "trainer.checkpoint_seconds=0"]
    cnntrain("fit", *words, "output_dir=whole")
    cut(*words, "output_dir=cut", at=at, nth=nth)
    validations = [row["step"] for row in rows(folder / "cut") if row["kind"] == "val"]
    assert "validation" not in moment or step not in validations
    assert cnntrain("fit", *words, "output_dir=cut")["resumed_from"] == step
    agree(folder / "whole", folder / "cut")


@pytest.mark.parametrize("batch", [6, 7, 8])
def test_f04_a_stop_within_an_accumulation_window_waits_for_its_end(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], batch: int
) -> None:
    words = [*tiny, "trainer.accumulate=4", "trainer.batch_size=4"]
    cnntrain("fit", *words, "output_dir=whole")
    cut(*words, "output_dir=cut", at=(ResidentLoader, "batch"), nth=1 + batch)  # one is taken before the first step
    assert cnntrain("fit", *words, "output_dir=cut")["resumed_from"] == 2
    agree(folder / "whole", folder / "cut")


# What a new run starts with instead of each stored piece; the tensors of a whole dictionary become zeros.
PIECES = {
    **dict.fromkeys(("model", "heads", "ema", "optimizer")),
    **{"sums.loss": torch.zeros((), dtype=torch.float64), "sums.right": torch.zeros((), dtype=torch.int64)},
    "sums.count": 0,
    **{f"progress.{name}": value for name, value in asdict(loop.TrainProgress()).items()},
    "records": 0,
}


def without(state: checkpoints.State, piece: str) -> checkpoints.State:
    """Return a state as if one piece of it had not been stored."""
    name, _, inner = piece.partition(".")
    if PIECES[piece] is None:
        return state | {name: emptied(state[name])}
    return state | {name: state[name] | {inner: PIECES[piece]} if inner else PIECES[piece]}


# Nothing gets better, so that patience counts. The one cut that tells whether a validation has been taken in is right
# after it.
NEEDED = {
    "progress.validated": ((loop.TrainProgress, "note"), 1),
    "the others": ((loop.TrainStep, "update"), 12),
}


@pytest.mark.usefixtures("lenet_heads")
@pytest.mark.parametrize("which", list(NEEDED))
def test_f01_every_stored_piece_is_needed(cnntrain: Call, folder: Path, tiny: tuple[str, ...], which: str) -> None:
    """The negative control: without any one piece of the state the run goes another way."""
    at, nth = NEEDED[which]
    words = [*tiny, "trainer.ema=0.9", "trainer.epochs=4", "trainer.log_every=100", "trainer.patience=2"]
    words += ["trainer.precision=fp32", "optimizer.lr=1e-30"]
    cnntrain("fit", *words, "output_dir=whole")
    cut(*words, "output_dir=cut", at=at, nth=nth)
    state = last(folder / "cut")
    inside = {f"{name}.{inner}" for name in ("sums", "progress") for inner in state[name]}
    assert (state.keys() - {"sums", "progress"}) | inside == PIECES.keys() | PROVENANCE
    for piece in [which] if which in PIECES else PIECES.keys() - NEEDED.keys():
        run = folder / piece
        shutil.copytree(folder / "cut", run)
        checkpoints.save(run / "checkpoints" / checkpoints.LAST, without(state, piece))
        main(["fit", *words, f"output_dir={run}"])
        with pytest.raises(AssertionError):
            agree(folder / "whole", run)
    shutil.copytree(folder / "cut", folder / "with all")
    cnntrain("fit", *words, "output_dir=with all")
    agree(folder / "whole", folder / "with all")


def emptied(value: object) -> object:
    return {key: emptied(item) for key, item in value.items()} if isinstance(value, dict) else torch.zeros_like(value)


def test_a_finished_run_called_again_prints_its_result(cnntrain: Call, folder: Path, tiny: tuple[str, ...]) -> None:
    first = cnntrain("fit", *tiny, "output_dir=run")
    before = (folder / "run" / "checkpoints" / "last.pt").stat().st_mtime_ns
    assert cnntrain("fit", *tiny, "output_dir=run") == first
    assert (folder / "run" / "checkpoints" / "last.pt").stat().st_mtime_ns == before


def test_more_epochs_go_on_under_a_constant_rate_only(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    constant = [*tiny, "schedule=constant"]
    cnntrain("fit", *constant, "output_dir=run", "trainer.epochs=1")
    assert cnntrain("fit", *constant, "output_dir=run")["resumed_from"] > 0
    cnntrain("fit", *constant, "output_dir=whole")
    assert resume.same(last(folder / "run")["model"], last(folder / "whole")["model"])
    cnntrain("fit", *tiny, "output_dir=cycle")
    assert main(["fit", *tiny, "output_dir=cycle", "trainer.epochs=3", "optimizer.lr=0.3"]) == 2
    err = capfd.readouterr().err
    assert "optimizer.lr (0.05 → 0.3), trainer.epochs (2 → 3)" in err
    assert main(["fit", *tiny, "output_dir=cycle", "resume=never"]) == 2
    assert "already holds a run" in capfd.readouterr().err


def test_more_epochs_keep_the_result_of_fewer_until_theirs_is_there(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...]
) -> None:
    words = [*tiny, "schedule=constant", "output_dir=run"]
    fewer = cnntrain("fit", *words, "trainer.epochs=1")
    cut(*words, nth=2)
    assert json.loads((folder / "run" / "results.json").read_text()) == fewer
    assert cnntrain("fit", *words)["epochs"] == 2


def test_fewer_epochs_than_were_done_are_refused_and_change_nothing(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*tiny, "schedule=constant", "output_dir=run"]
    cnntrain("fit", *words)
    cut(*words, "trainer.epochs=9", "output_dir=begun", nth=12)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for run, done in (("run", 2), ("begun", 3)):
        assert main(["fit", *words, "trainer.epochs=1", f"output_dir={run}"]) == 2
        assert re.search(rf"trainer\.epochs=1 .* {done} .* {run} ", capfd.readouterr().err)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({"freeze": {"conv1": 0.5}}, r"trainer\.freeze={'conv1': 0\.5}"),
        ({"resize": {24: 0.5}}, "trainer.resize"),
        ({"freeze": {"conv1": 0.0, "conv2": 1.0}}, None),
    ],
)
def test_other_epochs_with_shares_of_the_whole_run_are_another_run(
    settings: dict[str, Any], refused: str | None
) -> None:
    old, new = (
        {"schedule": {"name": "constant"}, "trainer": {"freeze": {}, "resize": {}, "epochs": epochs} | settings}
        for epochs in (4, 12)
    )
    with pytest.raises(InputError, match=refused) if refused else contextlib.nullcontext():
        resume.refuse_changes(old, new)
    resume.refuse_changes(old, old)


def test_an_option_that_an_older_run_does_not_know_may_only_be_off() -> None:
    old = {"schedule": {"name": "cosine"}, "trainer": {"freeze": {}, "resize": {}, "epochs": 1}}
    resume.refuse_changes(old, old | {"dataset": {"invert": False}})
    with pytest.raises(InputError, match=r"dataset\.invert \(None → True\)"):
        resume.refuse_changes(old, old | {"dataset": {"invert": True}})


def test_the_best_epoch_outlives_the_log(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*tiny, "trainer.epochs=3", "optimizer.lr=1e-30"]  # the first epoch is the best
    whole = cnntrain("fit", *words, "output_dir=whole")
    cut(*words, "output_dir=cut", nth=12)
    (folder / "cut" / "metrics.jsonl").unlink()
    shutil.copytree(folder / "whole", folder / "bare")
    for name in ("results.json", "metrics.jsonl"):
        (folder / "bare" / name).unlink()
    for run, lost in (("cut", "4 of 4 lines"), ("bare", "6 of 6 lines")):
        capfd.readouterr()
        assert main(["fit", *words, f"output_dir={run}", "--json"]) == 0
        out, err = capfd.readouterr()
        assert re.search(rf"warning: {run}/metrics\.jsonl .*{lost}", err)
        found = json.loads(out)
        assert found["best"] == whole["best"] and whole["best"]["epoch"] == 1
        assert (found["epochs"], found["steps"]) == (3, 15)


def test_a_run_that_started_from_another_needs_it_no_more(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    cnntrain("fit", *tiny, "output_dir=first")
    words = [*tiny, "init_from=first", "seed=1"]
    cnntrain("fit", *words, "output_dir=whole")
    cut(*words, "output_dir=cut", nth=4)
    (folder / "first").rename("moved")
    assert cnntrain("fit", *words, "output_dir=cut")["resumed_from"] == 4
    agree(folder / "whole", folder / "cut")
    assert json.loads((folder / "cut" / "run.json").read_text())["init_from"]["run"] == "first"
    assert main(["fit", *words, "output_dir=new"]) == 2


def test_a_precision_may_change_and_is_said(
    cnntrain: Call, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    cut(*tiny, "trainer.precision=bf16", "output_dir=run", nth=5)
    capfd.readouterr()
    assert main(["fit", *tiny, "trainer.precision=fp32", "output_dir=run"]) == 0
    assert re.search("precision .*bf16 .*fp32", capfd.readouterr().err)


def test_a_checkpoint_of_the_first_format_resumes(cnntrain: Call, folder: Path, tiny: tuple[str, ...]) -> None:
    words = [*tiny, "trainer.patience=1"]
    cnntrain("fit", *words, "output_dir=whole")
    cut(*words, "output_dir=cut", nth=7)
    state, path = last(folder / "cut"), folder / "cut" / "checkpoints" / checkpoints.LAST
    best = state["progress"].pop("best")
    state["progress"] |= {"best_top1": best["top1"], "best_loss": best["loss"]}
    checkpoints.save(path, state | {"format": 1})
    cnntrain("fit", *words, "output_dir=cut")
    one, other = (json.loads((folder / run / "results.json").read_text()) for run in ("whole", "cut"))
    assert one["best"] == other["best"] and resume.same(last(folder / "whole")["model"], last(folder / "cut")["model"])


def test_check_resume_proves_it_on_the_users_configuration(
    cnntrain: Call,
    folder: Path,
    tiny: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    found = cnntrain("fit", *tiny, "check_resume=true", "trainer.ema=0.9", "augmentation=strong")
    assert found["check_resume"] == "same" and set(found["compared"]) == {"model", "ema", "optimizer", "sums"}
    assert list(folder.iterdir()) == []
    load = loop.TrainStep.load_state_dict

    def forgetful(self: loop.TrainStep, state: checkpoints.State) -> None:
        load(self, state | {"optimizer": {}})

    monkeypatch.setattr(loop.TrainStep, "load_state_dict", forgetful)
    assert main(["fit", *tiny, "check_resume=true"]) == 1
    assert "differ at step 6" in capfd.readouterr().err
