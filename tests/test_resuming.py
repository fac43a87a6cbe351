"""Exact resume: stopped at any step and resumed, a training ends with the same bits as one that never stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cnntrain import runs
from cnntrain.cli import main
from cnntrain.commands import resuming
from cnntrain.training import checkpoints, loop

Call = Callable[..., dict[str, Any]]
SETTINGS = {
    "plain": (),
    "everything": (
        *("model=resnet20", "model.remove=[block1_2,block1_3,block2_2,block2_3,block3_2,block3_3]", "trainer.ema=0.9"),
        *("augmentation=strong", "augmentation.mixup.alpha=0.2", "trainer.accumulate=2", "trainer.clip=1"),
        *("trainer.patience=5", "trainer.log_every=3"),
    ),
    "heads": ("trainer.ema=0.9", "trainer.clip=1"),
    "adamw": ("optimizer=adamw", "optimizer.lr=1e-3", "model=mlp", "dataset.balance=sampling"),
}
TIMES = ("seconds", "samples_per_second")


def rows(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send this process a SIGTERM while step number `step` is being taken."""
    update = loop.Learner.update

    def interrupted(self: Any, feed: Any, number: int) -> None:
        update(self, feed, number)
        if number + 1 == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.Learner, "update", interrupted)


def stop_after_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process a SIGTERM when a validation has been taken in."""
    note = loop.Progress.note

    def interrupted(self: loop.Progress, scores: dict[str, float]) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return note(self, scores)

    monkeypatch.setattr(loop.Progress, "note", interrupted)


def agree(one: Path, other: Path) -> None:
    a, b = (checkpoints.load(run / "checkpoints" / "last.pt") for run in (one, other))
    for key in ("model", "optimizer", "sums", "progress", "records", *({"ema", "heads"} & a.keys())):
        assert resuming.same(a[key], b[key]), key
    best = [checkpoints.load(run / "checkpoints" / "best.pt")["model"] for run in (one, other)]
    assert resuming.same(*best)
    assert rows(one) == rows(other)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("settings", list(SETTINGS))
def test_f01_f05_a_stop_at_any_step_and_a_resume_give_the_same_bits(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], settings: str, precision: str, request: pytest.FixtureRequest
) -> None:
    if settings == "heads":
        request.getfixturevalue("lenet_heads")
    words = [*tiny, *SETTINGS[settings], f"trainer.precision={precision}", "dataset.train_images=120"]
    whole = cnntrain("fit", *words, "output_dir=whole")
    last = whole["steps"]
    cuts = range(1, last + 1) if settings == "adamw" and precision == "fp32" else (1, last // 2, last - 1)
    for cut in cuts:
        with pytest.MonkeyPatch.context() as patched:
            stop_at(patched, cut)
            code = main(["fit", *words, f"output_dir=cut{cut}"])
        assert code == 143
        found = cnntrain("fit", *words, f"output_dir=cut{cut}", f"dataset.workers={cut % 2}")
        assert found["resumed_from"] == cut
        agree(folder / "whole", folder / f"cut{cut}")


def test_f02_two_stops_in_a_row_are_like_none(cnntrain: Call, folder: Path, tiny: tuple[str, ...]) -> None:
    cnntrain("fit", *tiny, "output_dir=whole")
    for cut in (2, 7):
        with pytest.MonkeyPatch.context() as patched:
            stop_at(patched, cut)
            assert main(["fit", *tiny, "output_dir=cut"]) == 143
    cnntrain("fit", *tiny, "output_dir=cut")
    agree(folder / "whole", folder / "cut")


def test_f03_a_stop_during_validation_repeats_it_whole(cnntrain: Call, folder: Path, tiny: tuple[str, ...]) -> None:
    cnntrain("fit", *tiny, "output_dir=whole")
    from cnntrain.commands import session

    until = session.until

    def interrupted(stop: Any, batches: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return until(stop, batches)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(session, "until", interrupted)
        assert main(["fit", *tiny, "output_dir=cut"]) == 130
    assert not any(row["kind"] == "val" for row in rows(folder / "cut"))
    cnntrain("fit", *tiny, "output_dir=cut")
    agree(folder / "whole", folder / "cut")


STATE = [
    "model",
    "heads",
    "ema",
    "optimizer",
    "sums",
    "progress.step",
    "progress.validated",
    "progress.best_top1",
    "progress.waited",
]


@pytest.mark.usefixtures("lenet_heads")
@pytest.mark.parametrize("piece", STATE)
def test_f01_every_stored_piece_is_needed(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], piece: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: without any one piece of the state the run goes another way."""
    words = [*tiny, "trainer.ema=0.9", "trainer.epochs=4", "trainer.log_every=100", "trainer.patience=2"]
    words += ["optimizer.lr=1e-30"]  # nothing gets better, so that patience counts
    cnntrain("fit", *words, "output_dir=whole")
    with pytest.MonkeyPatch.context() as patched:
        if piece == "progress.validated":
            stop_after_validation(patched)
        else:
            stop_at(patched, 12)
        assert main(["fit", *words, "output_dir=cut"]) == 143
    path = folder / "cut" / "checkpoints" / "last.pt"
    state = checkpoints.load(path)
    fresh = {"step": 0, "validated": 0, "best_top1": -1.0, "waited": 0}
    name, _, inner = piece.partition(".")
    if inner:
        state[name][inner] = fresh[inner]
    elif name == "sums":
        state["sums"] = {"loss": torch.zeros(()), "right": torch.zeros((), dtype=torch.int64), "count": 0}
    elif name == "optimizer":
        state["optimizer"]["state"] = {}
    else:
        state[name] = {key: value.new_zeros(value.shape) for key, value in state[name].items()}
    checkpoints.save(path, state)
    try:
        main(["fit", *words, "output_dir=cut"])
        agree(folder / "whole", folder / "cut")
    except (AssertionError, ZeroDivisionError):
        return
    pytest.fail(f"{piece} need not be stored")


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
    a, b = (checkpoints.load(folder / name / "checkpoints" / "last.pt")["model"] for name in ("run", "whole"))
    assert resuming.same(a, b)
    cnntrain("fit", *tiny, "output_dir=cycle")
    assert main(["fit", *tiny, "output_dir=cycle", "trainer.epochs=3", "optimizer.lr=0.3"]) == 2
    err = capfd.readouterr().err
    assert "optimizer.lr (0.05 → 0.3), trainer.epochs (2 → 3)" in err
    assert main(["fit", *tiny, "output_dir=cycle", "resume=never"]) == 2
    assert "already holds a run" in capfd.readouterr().err


def test_f09_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*tiny, "trainer.checkpoint_seconds=0"]
    cnntrain("fit", *words, "output_dir=whole")
    with pytest.MonkeyPatch.context() as patched:
        stop_at(patched, 8)
        assert main(["fit", *words, "output_dir=cut"]) == 143
    last = folder / "cut" / "checkpoints" / "last.pt"
    data = last.read_bytes()
    for size in (0, 1, 10, len(data) // 4, len(data) // 2, len(data) - 1):
        last.write_bytes(data[:size])
        with pytest.raises(checkpoints.CheckpointError):
            checkpoints.load(last)
    capfd.readouterr()
    assert main(["fit", *words, "output_dir=cut", "--json"]) == 0
    out, err = capfd.readouterr()
    assert err.count("warning") == 1 and "last.pt is damaged" in err
    assert json.loads(out)["resumed_from"] in (5, 6)
    agree(folder / "whole", folder / "cut")


def test_f09_without_a_whole_checkpoint_nothing_starts_over(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        stop_at(patched, 4)
        assert main(["fit", *tiny, "output_dir=cut"]) == 143
    for path in (folder / "cut" / "checkpoints").glob("*.pt"):
        path.write_bytes(path.read_bytes()[:100])
    assert main(["fit", *tiny, "output_dir=cut"]) == 4
    assert "no checkpoint is whole" in capfd.readouterr().err


def test_f23_a_loss_that_is_no_number_stops_before_the_update(
    folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnntrain.training import learner

    calls, entropy = [0], learner.F.cross_entropy

    def broken(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        return entropy(*args, **kwargs) * (float("nan") if calls[0] == 4 else 1.0)

    monkeypatch.setattr(learner.F, "cross_entropy", broken)
    words = [*tiny, "trainer.checkpoint_seconds=0", "dataset.val_size=0", "trainer.log_every=2"]
    assert main(["fit", *words, "output_dir=run"]) == 3
    assert "no number at step 4" in capfd.readouterr().err
    record = json.loads((folder / "run" / "run.json").read_text())
    assert record["bad_batch"]["step"] == 4 and len(record["bad_batch"]["images"]) == 16
    for path in (folder / "run" / "checkpoints").glob("*.pt"):
        weights = checkpoints.load(path)["model"]
        assert all(tensor.isfinite().all() for tensor in weights.values())


def test_f24_out_of_memory_names_batch_precision_and_remedies(
    folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loop.Learner, "update", full)
    assert main(["fit", *tiny, "trainer.precision=fp32"]) == 1
    line = capfd.readouterr().err.splitlines()[-1]
    for word in ("trainer.batch_size=16", "fp32", "trainer.accumulate", "trainer.precision=bf16", "dataset.image_size"):
        assert word in line


def test_f13_a_full_disk_is_reported_and_the_old_checkpoint_stays(
    cnntrain: Call,
    folder: Path,
    tiny: tuple[str, ...],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import shutil

    usage = shutil.disk_usage("/")
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    words = [*tiny, "trainer.checkpoint_seconds=0", "dataset.val_size=0"]
    assert main(["fit", *words, "trainer.epochs=5", "output_dir=run"]) == 1
    err = capfd.readouterr().err
    assert err.count("warning: not saved: the disk is full") == 2 and "3 saves in a row have failed" in err
    assert not list((folder / "run" / "checkpoints").iterdir())


def breaking(call: Callable[..., Any], nth: int) -> Callable[..., Any]:
    """The same call, but that it fails once, after so many times."""
    left = [nth]

    def broken(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == -1:
            raise OSError("the power went out")
        return call(*args, **kwargs)

    return broken


def test_f08_a_save_that_breaks_anywhere_leaves_a_whole_checkpoint(folder: Path) -> None:
    calls = ["open", "link", "fsync", "replace"]
    old, new = ({"model": {"w": torch.full((50,), value)}} for value in (1.0, 2.0))
    broken = 0
    for name in calls:
        for nth in range(4):
            run = folder / f"{name}{nth}"
            checkpoints.save_last(run, old)
            checkpoints.save_last(run, old)

            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(os, name, breaking(getattr(os, name), nth))
                try:
                    checkpoints.save_last(run, new)
                except OSError:
                    broken += 1
            state, problems = checkpoints.load_newest(run)
            assert state is not None and not problems
            assert float(state["model"]["w"][0]) in (1.0, 2.0)
            checkpoints.clean(run)
            assert {path.name for path in run.iterdir()} <= {"last.pt", "previous.pt"}
    assert broken >= 4


def test_f10_no_flipped_bit_loads_silently(folder: Path) -> None:
    state = {"model": {"w": torch.randn(400), "b": torch.randn(7)}, "progress": {"step": 3}}
    path = folder / "last.pt"
    checkpoints.save(path, state)
    data, silent = path.read_bytes(), 0
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        place = int(torch.randint(len(data) * 8, (1,), generator=generator))
        byte, bit = divmod(place, 8)
        path.write_bytes(data[:byte] + bytes([data[byte] ^ (1 << bit)]) + data[byte + 1 :])
        try:
            found = checkpoints.load(path)
        except checkpoints.CheckpointError:
            continue
        silent += not resuming.same(found, state)
    assert silent == 0


def test_f12_a_pickle_that_runs_code_is_not_run(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(folder / "pwned"),)

    cnntrain("fit", *tiny, "output_dir=run")
    for name in ("last", "best"):
        torch.save({"model": {"w": Payload()}}, folder / "run" / "checkpoints" / f"{name}.pt")
        assert main(["eval", "run=run", f"weights={name}"]) == 4
        assert "was not loaded" in capfd.readouterr().err
    assert not (folder / "pwned").exists()


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
    load = loop.Learner.load_state

    def forgetful(self: Any, state: Any) -> None:
        state["optimizer"]["state"] = {}
        load(self, state)

    monkeypatch.setattr(loop.Learner, "load_state", forgetful)
    assert main(["fit", *tiny, "check_resume=true"]) == 1
    assert "differ at step 6" in capfd.readouterr().err


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cnntrain", "fit", *words],
        cwd=folder, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def wait_for_steps(run: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_f16_a_signal_to_the_whole_group_saves_and_ends(folder: Path, tiny: tuple[str, ...], number: int) -> None:
    words = [*tiny, "trainer.epochs=2000", "dataset.workers=2", "output_dir=run", "trainer.log_every=1"]
    with start(folder, *words) as process:
        wait_for_steps(folder / "run", process)
        os.killpg(process.pid, signal.SIGUSR1)
        time.sleep(0.5)
        assert process.poll() is None
        began = time.monotonic()
        os.killpg(process.pid, number)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 128 + number and time.monotonic() - began < 5
    assert "saved at step" in err and "goes on" in err.splitlines()[-1]
    state = checkpoints.load(folder / "run" / "checkpoints" / "last.pt")
    assert state["progress"]["step"] > 0
    assert "stopped by" in json.loads((folder / "run" / "run.json").read_text())["exit"]


def test_f07_a_killed_run_goes_on_by_the_same_command(cnntrain: Call, folder: Path, tiny: tuple[str, ...]) -> None:
    words = [*tiny, "trainer.epochs=40", "trainer.checkpoint_seconds=0", "trainer.log_every=1"]
    cnntrain("fit", *words, "output_dir=whole")
    with start(folder, *words, "output_dir=run") as process:
        wait_for_steps(folder / "run", process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert cnntrain("fit", *words, "output_dir=run")["steps"] == 40 * 5
    a, b = (checkpoints.load(folder / name / "checkpoints" / "last.pt") for name in ("run", "whole"))
    assert all(resuming.same(a[key], b[key]) for key in ("model", "optimizer", "progress"))
    assert rows(folder / "run") == rows(folder / "whole")


def test_f29_a_folder_in_use_is_refused_naming_the_holder(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "run").mkdir()
    with runs.lock(folder / "run"):
        assert main(["fit", *tiny, "output_dir=run"]) == 2
        assert f"in use by process {os.getpid()} on" in capfd.readouterr().err
        assert sorted(path.name for path in (folder / "run").iterdir()) == [".holder", ".lock"]
    (folder / "run" / ".holder").write_text("process 1 on a machine that died")
    assert cnntrain("fit", *tiny, "output_dir=run")["epochs"] == 2


def test_a_run_that_is_refused_after_its_workers_started_ends_all_the_same(folder: Path, tiny: tuple[str, ...]) -> None:
    (folder / "run").mkdir()
    with runs.lock(folder / "run"), start(folder, *tiny, "dataset.workers=1", "output_dir=run") as process:
        try:
            _, err = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 2 and "in use by process" in err


def test_f22_a_handler_that_was_there_before_is_called_after_the_save(folder: Path, tiny: tuple[str, ...]) -> None:
    seen: list[bool] = []
    earlier = signal.signal(
        signal.SIGTERM, lambda *_: seen.append((folder / "run" / "checkpoints" / "last.pt").exists())
    )
    try:
        with pytest.MonkeyPatch.context() as patched:
            stop_at(patched, 3)
            assert main(["fit", *tiny, "output_dir=run"]) == 143
    finally:
        signal.signal(signal.SIGTERM, earlier)
    assert seen == [True]
