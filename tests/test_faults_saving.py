"""Faults of checkpoints and disks, each by its number in `docs/guarantees.md`: nothing is lost, nothing loads wrong."""

import io
import itertools
import json
import os
import re
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from cuts import FULL, Call, agree, cut, fill, interrupt, last
from made import TINY
from PIL import Image

from cnntrain.cli.main import main
from cnntrain.runs import log, resume, setup
from cnntrain.runs.folder import CONFIG, METRICS, RECORD, RESULTS, append_metrics
from cnntrain.runs.saves import Saves
from cnntrain.runtime import disk
from cnntrain.runtime.errors import DiskError
from cnntrain.runtime.jsonfile import read_json, read_lines, write_json
from cnntrain.studies.invariance import study
from cnntrain.training import checkpoints, loop
from cnntrain.training.async_checkpoints import AsyncSaver

LEFT = f"{disk.PARTIAL}*"  # half-written files

# --- F08


class Sink:
    """A file whose writing passes through `reached` first."""

    def __init__(self, file: Any, reached: Callable[[], None]) -> None:
        self.file, self.reached = file, reached

    def write(self, data: bytes) -> int:
        self.reached()
        return int(self.file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "Sink":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()


def breaking(patched: pytest.MonkeyPatch, name: str, nth: int, fault: Callable[[], None]) -> None:
    """Let the `nth` call of one of the system's functions meet a fault, whoever calls it."""
    count = itertools.count()

    def reached() -> None:
        if next(count) == nth:
            fault()

    def before(call: Callable[..., Any]) -> Callable[..., Any]:
        def broken(*args: Any, **kwargs: Any) -> Any:
            reached()
            return call(*args, **kwargs)

        return broken

    opened = io.open
    if name == "write":
        patched.setattr(io, "open", lambda *args, **kwargs: Sink(opened(*args, **kwargs), reached))
        return
    patched.setattr(os, name, before(getattr(os, name)))
    if name == "open":
        patched.setattr(io, "open", before(opened))


def lost_power() -> None:
    raise OSError("the disk went away")


def broken_save(folder: Path, name: str, nth: int, fault: Callable[[], None]) -> bool:
    """Save with a fault at a call; return whether the save failed."""
    with pytest.MonkeyPatch.context() as patched:
        breaking(patched, name, nth, fault)
        try:
            checkpoints.save_last(folder, torch.load(folder / "new", weights_only=True))
        except OSError:
            return True
    return False


def killed_save(folder: Path, name: str, nth: int) -> bool:
    """Save in a process that ends at a call, which leaves no time to clean up; return whether it came to that."""
    child = os.fork()
    if not child:
        try:
            broken_save(folder, name, nth, lambda: os._exit(9))
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


@pytest.mark.parametrize("name", ["open", "write", "fsync", "replace", "link", "unlink"])
@pytest.mark.parametrize("dies", [False, True], ids=["fails", "dies"])
def test_f08_a_save_that_breaks_anywhere_leaves_a_whole_checkpoint(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], name: str, dies: bool
) -> None:
    """At every call of one function in one whole save of a real run, until a save comes through without meeting it."""
    words = [*tiny, "model=softmax", "trainer.checkpoint_seconds=0", "output_dir=run"]
    cut(*words, nth=8)
    kept, run = folder / "kept", folder / "run" / "checkpoints"
    shutil.copytree(run.parent, kept)
    steps = [checkpoints.load(run / name)["progress"]["step"] for name in (checkpoints.PREVIOUS, checkpoints.LAST)]
    assert steps == [5, 8]
    torch.save(checkpoints.load(run / checkpoints.LAST) | {"new": True}, kept / "checkpoints" / "new")
    for nth in itertools.count():
        shutil.rmtree(run.parent)
        shutil.copytree(kept, run.parent)
        broken = killed_save(run, name, nth) if dies else broken_save(run, name, nth, lost_power)
        assert dies or not list(run.glob(LEFT))
        found = checkpoints.load_newest(run)
        assert found is not None and not found.problems and found.state["progress"]["step"] == 8
        if FULL or not broken:  # the next start of the run itself
            assert cnntrain("fit", *words)["resumed_from"] == 8
        else:
            disk.clean(run)
        assert not list(run.glob(LEFT))
        if not broken:
            break
    assert nth or name == "unlink"  # what cannot be removed breaks no save


# --- F09, F10


def test_f09_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*tiny, "trainer.checkpoint_seconds=0"]
    cnntrain("fit", *words, "output_dir=whole")
    cut(*words, "output_dir=cut", nth=8)
    size = (folder / "cut" / "checkpoints" / checkpoints.LAST).stat().st_size
    for left in (0, 1, 10, size // 4, size // 2, size - 1):
        run = folder / f"cut{left}"
        shutil.copytree(folder / "cut", run)
        os.truncate(run / "checkpoints" / checkpoints.LAST, left)
        capfd.readouterr()
        assert main(["fit", *words, f"output_dir={run}", "--json"]) == 0
        out, err = capfd.readouterr()
        assert err.count("is damaged") == 1 and f"warning: {run}/checkpoints/last.pt is damaged" in err
        assert json.loads(out)["resumed_from"] == 5
        agree(folder / "whole", run)


def test_f09_without_a_whole_checkpoint_nothing_starts_over(
    folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    cut(*tiny, "output_dir=cut", nth=4)
    for path in (folder / "cut" / "checkpoints").glob("*.pt"):
        os.truncate(path, 100)
    before = (folder / "cut" / "metrics.jsonl").read_bytes()
    assert main(["fit", *tiny, "output_dir=cut"]) == 4
    assert "cut/checkpoints/last.pt" in capfd.readouterr().err
    assert (folder / "cut" / "metrics.jsonl").read_bytes() == before


def test_f10_no_flipped_bit_loads_silently(cnntrain: Call, folder: Path, tiny: tuple[str, ...]) -> None:
    """200 times in the last checkpoint of a run: half of them anywhere, half where the fewest and gravest bytes are."""
    cnntrain("fit", *tiny, "model=mlp", "model.hidden=[8]", "trainer.ema=0.9", "output_dir=run")
    path = folder / "run" / "checkpoints" / checkpoints.LAST
    state, data = checkpoints.load(path), path.read_bytes()
    draw, flips, refusals = torch.Generator().manual_seed(0), 200, 0
    for flip in range(flips):
        within = len(data) if flip % 2 else 4096
        place, bit = divmod(int(torch.randint(within * 8, (1,), generator=draw)), 8)
        place = place if flip % 4 else len(data) - 1 - place  # the names of the records stand at the end
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :])
        try:
            found = checkpoints.load(path)
        except checkpoints.CheckpointError:
            refusals += 1
        else:
            assert resume.same(found, state), (place, bit)
    assert refusals > flips / 2  # the others lie in padding, or in names that nobody reads


# --- F11, F12


def test_f11_another_network_or_other_classes_are_refused_naming_what_differs(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    cut(*tiny, "output_dir=one", nth=4)
    cnntrain("fit", *tiny, "model=softmax", "output_dir=two")

    def refused(*words: str) -> str:
        assert main([*words]) == 4
        return capfd.readouterr().err

    shutil.copy(folder / "one" / "checkpoints" / "last.pt", folder / "kept.pt")
    shutil.copy(folder / "two" / "checkpoints" / "last.pt", folder / "one" / "checkpoints")
    for words in (("fit", *tiny, "output_dir=one"), ("eval", "run=one", "weights=last")):
        assert re.search(r"one(/checkpoints/last\.pt)? .*conv1\.conv\.bias", refused(*words))
    shutil.copy(folder / "kept.pt", folder / "two" / "checkpoints" / "best.pt")
    assert "conv1.conv.bias" in refused("eval", "run=two")
    renamed = last(folder / "two") | {"classes": [f"other{number}" for number in range(10)]}
    checkpoints.save(folder / "two" / "checkpoints" / "last.pt", renamed)
    (folder / "two" / RESULTS).unlink()
    words = ("fit", *tiny, "model=softmax", "output_dir=two")
    assert "grating0, grating1" in refused(*words)

    shutil.copy(folder / "two" / "checkpoints" / "last.pt", folder / "two" / "checkpoints" / "best.pt")
    config = folder / "two" / CONFIG
    settings = json.loads(config.read_text())
    for name, code, line in (
        ("mlp", 4, "network: fc"),
        ("lenet6", 2, "'lenet5'"),
    ):
        model = {"name": name} | ({"remove": []} if code == 2 else {})
        config.write_text(json.dumps(settings | {"model": model}))
        assert main(["eval", "run=two"]) == code
        assert line in capfd.readouterr().err


BENT: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "short momentum": (
        lambda s: {"optimizer": {k: {n: t.flatten()[:1] for n, t in v.items()} for k, v in s["optimizer"].items()}},
        "optimizer.0.momentum_buffer, optimizer.1",
    ),
    "no momentum": (lambda s: {"optimizer": {}}, "optimizer.0, optimizer.1"),
    "momentum of a resting stage": (lambda s: {"optimizer": s["optimizer"] | {1: s["optimizer"][0]}}, "optimizer.1"),
    "no sums": (lambda s: {"sums": None}, "sums"),
    "a sum of many": (lambda s: {"sums": s["sums"] | {"loss": torch.zeros(3)}}, "sums.loss"),
    "no average": (lambda s: {"ema": {k: t for k, t in s["ema"].items() if "conv2" not in k}}, "ema.conv2.conv.bias"),
    "no head": (lambda s: {"heads": {}}, "heads.head.conv.conv.weight, heads.head.conv.norm.bias"),
    "another format": (lambda s: {"format": 99}, "format 99"),
    "no progress": (lambda s: {"progress": None}, "progress.best, progress.step"),
    "progress in words": (lambda s: {"progress": s["progress"] | {"waited": "long"}}, "progress.waited"),
    "a best without a loss": (lambda s: {"progress": s["progress"] | {"best": {"top1": 0.5}}}, "progress.best.loss"),
    "a step beyond the end": (lambda s: {"progress": s["progress"] | {"step": 10**6}}, "stands at step 1,000,000"),
    "progress of another kind": (lambda s: {"progress": "far"}, "progress.best, progress.step"),
    "made in words": (lambda s: {"made": "here"}, "made"),
    "records in words": (lambda s: {"records": "3"}, "records"),
}


@pytest.mark.usefixtures("lenet_heads")
def test_f11_a_checkpoint_of_another_structure_is_refused_before_anything_is_loaded(
    folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    """The state of a fused optimizer above all: it reads as many numbers as its parameter has."""
    words = ["fit", *tiny, "trainer.ema=0.9", "trainer.freeze={conv2: 0}", "output_dir=run"]
    cut(*words[1:], nth=7)
    path = folder / "run" / "checkpoints" / checkpoints.LAST
    whole = checkpoints.load(path)
    for name, (bend, says) in BENT.items():
        checkpoints.save(path, whole | bend(whole))
        assert main(words) == 4, name
        line = capfd.readouterr().err.splitlines()[-1]
        assert "run/checkpoints/last.pt" in line and says in line, line


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder / "pwned"),)


class Nested(Payload):
    """Hides a payload in the bytes of a storage, which torch would unpickle by themselves."""

    def __reduce__(self) -> tuple[Any, ...]:
        inner = io.BytesIO()
        torch.save(Payload(self.folder), inner)
        return torch.storage._load_from_bytes, (inner.getvalue(),)


def test_f12_a_pickle_that_runs_code_is_not_run(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    """As the whole file, among good weights, in a storage's bytes, and as a pickle that is no archive; by every way."""
    cut(*tiny, "output_dir=run", nth=7)
    good = last(folder / "run")
    payloads: dict[str, Any] = {
        "whole": Payload(folder),
        "among weights": good | {"model": good["model"] | {"w": Payload(folder)}},
        "storage": good | {"model": good["model"] | {"w": Nested(folder)}},
        "no archive": Payload(folder),
    }
    ways = [
        ("eval", "run=run", "weights=last"),
        ("eval", "run=run"),
        ("fit", *tiny, "output_dir=run"),
        ("fit", *tiny, "init_from=run", "output_dir=other"),
        ("export", "run=run", "format=safetensors"),
        ("predict", "run=run", "images=[image.png]"),
    ]
    for kind, payload in payloads.items():
        for path in (folder / "run" / "checkpoints").glob("*.pt"):
            torch.save(payload, path, _use_new_zipfile_serialization=kind != "no archive")
        for words in ways:
            assert main([*words]) == 4, words
            err = capfd.readouterr().err
            assert ("is damaged" if kind == "no archive" else "was not loaded") in err, (kind, words)
            assert not (folder / "pwned").exists() and not (folder / "other").exists()
    torch.load(folder / "run" / "checkpoints" / "last.pt", weights_only=False)
    assert (folder / "pwned").exists()  # it would have


# --- F13, F14, F15


def test_f13_a_full_disk_is_reported_with_what_is_needed_and_free(
    folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(monkeypatch)
    words = [*tiny, "trainer.checkpoint_seconds=0", "dataset.val_size=0"]
    assert main(["fit", *words, "trainer.epochs=5", "output_dir=run"]) == 1
    err = capfd.readouterr().err
    assert len(re.findall(r"\.pt .*disk is full", err)) == 3 and "3 saves" in err
    assert "MiB are needed, 1.0 KiB are free" in err
    assert not list((folder / "run" / "checkpoints").iterdir())


def test_f13_a_disk_that_fills_while_a_checkpoint_is_written_keeps_the_one_before(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    """The system itself refuses: no file may grow beyond a limit, as on a full disk, from the second epoch's end on."""
    words = [*tiny, "trainer.checkpoint_seconds=0", "dataset.val_size=0", "trainer.epochs=6"]
    cnntrain("fit", *words, "output_dir=whole")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    save, saves = Saves.save_last, itertools.count(1)

    def filling(self: Saves) -> None:
        if next(saves) == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        save(self)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Saves, "save_last", filling)
        try:
            assert main(["fit", *words, "output_dir=run"]) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    err = capfd.readouterr().err
    assert err.count("warning: not saved: ") == 2 and "3 saves" in err and "File too large" in err
    assert [path.name for path in (folder / "run" / "checkpoints").iterdir()] == ["last.pt"]
    assert cnntrain("fit", *words, "output_dir=run")["resumed_from"] == 6
    agree(folder / "whole", folder / "run")


def test_f14_a_log_that_cannot_be_written_does_not_end_the_training(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    """For TensorBoard's files `tests/test_tensorboard.py` shows the same."""
    whole = cnntrain("fit", *tiny, "output_dir=whole")

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(log, "append_metrics", full)
        assert main(["fit", *tiny, "output_dir=run", "--json"]) == 0
    out, err = capfd.readouterr()
    assert len(re.findall("metrics.jsonl .*No space left on device", err)) == 1
    assert json.loads(out)["best"] == whole["best"]
    assert resume.same(last(folder / "run")["model"], last(folder / "whole")["model"])


def test_f15_a_folder_that_cannot_be_made_is_refused_before_anything_is_read(
    refused: Callable[..., str], folder: Path, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing parent is no fault: it is made, as `runs/` itself is."""
    (folder / "file").write_text("")
    (folder / "sealed").mkdir(mode=0o555)
    if os.geteuid() == 0:  # who may write everywhere is asked to keep to the folder's mode
        ours = lambda path, mode: mode == os.F_OK or bool(Path(path).stat().st_mode & 0o200)  # noqa: E731
        access = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: access(path, os.F_OK) and ours(path, mode))
    monkeypatch.setattr(setup, "load_data", lambda cfg: pytest.fail("images were read"))
    for place, reason in {
        "file": "file is a file",
        "file/below": "file is a file",
        "sealed": "sealed cannot be written to",
        "sealed/below/that": "sealed cannot be written to",
        **({"/proc/run": "/proc "} if Path("/proc").is_dir() else {}),
    }.items():
        assert f"output_dir={place} cannot be made: {reason}" in refused("fit", *tiny, f"output_dir={place}")


# --- files of every kind


@pytest.mark.parametrize("before", [None, b"before"])
def test_a_file_is_whole_or_as_it_was_and_nothing_lies_beside_it(tmp_path: Path, before: bytes | None) -> None:
    """Whatever ends the writing; the error names the file and what is free."""
    path = tmp_path / "folder" / "results.json"
    if before:
        disk.write(path, before)
    for error, known in ((OSError(28, "No space left on device"), True), (KeyboardInterrupt(), False)):
        with pytest.raises(DiskError if known else KeyboardInterrupt) as caught, disk.replacing(path) as partial:
            partial.write_bytes(b"half")
            raise error
        if known:
            assert re.search(rf"{re.escape(str(path))} .*No space left on device \(", str(caught.value))
            assert str(caught.value).endswith("B are free)")
        assert [*path.parent.iterdir()] == ([path] if before else [])
    disk.write(path, "é\n")
    assert path.read_bytes() == b"\xc3\xa9\n" and [*path.parent.iterdir()] == [path]


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    nobody = 2**30  # above every process number
    names = {
        "killed": f".tmp.{nobody}.results.json",
        "running": f".tmp.{os.getppid()}.results.json",
        "other": f".tmp.{nobody}.report.md",
        "odd": ".tmp.x.results.json",
    }
    for name in names.values():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    disk.write(tmp_path / "results.json", "{}")
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", *names.values()} - {names["killed"]}
    (tmp_path / names["killed"]).touch()  # a moment ago: its writer may run on another machine
    disk.write(tmp_path / "results.json", "{}")
    assert (tmp_path / names["killed"]).exists()


def test_a_file_without_room_is_not_begun(tmp_path: Path) -> None:
    full = pytest.raises(DiskError, match=r"full \(1048576\.0 TiB .*needed, \d+\.\d [GT]iB .*free\)")
    with full, disk.replacing(tmp_path / "file", need=2**60):
        pytest.fail("it was begun")


def test_a_link_is_replaced_and_never_written_through(tmp_path: Path) -> None:
    elsewhere, path = tmp_path / "elsewhere", tmp_path / "run.json"
    elsewhere.write_text("precious")
    path.symlink_to(elsewhere)
    write_json(path, {"exit": "done"})
    assert elsewhere.read_text() == "precious" and not path.is_symlink() and read_json(path) == {"exit": "done"}


def test_the_disk_has_a_file_before_its_place_does_and_the_names_of_new_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the calls: the content, the move, the folder."""
    done: list[tuple[str, str]] = []
    sync, replace = disk.sync, Path.replace
    monkeypatch.setattr(disk, "sync", lambda path: (done.append(("sync", path.name)), sync(path)))
    monkeypatch.setattr(Path, "replace", lambda self, to: (done.append(("move", to.name)), replace(self, to))[1])
    disk.write(tmp_path / "new" / "run" / "run.json", "{}")
    partial = f"{disk.PARTIAL}{os.getpid()}.run.json"
    assert done == [
        *(("sync", "new"), ("sync", tmp_path.name)),
        *(("sync", partial), ("move", "run.json"), ("sync", "run")),
    ]


def test_a_record_that_a_full_disk_takes_a_part_of_is_left_out_whole(tmp_path: Path) -> None:
    append_metrics(tmp_path, {"step": 1})
    size = (tmp_path / METRICS).stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, limits[1]))
        with pytest.raises(OSError, match="space"):
            append_metrics(tmp_path, {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    append_metrics(tmp_path, {"step": 3})
    assert read_lines(tmp_path / METRICS) == [{"step": 1}, {"step": 3}]


# --- states that are owed


def test_a_best_state_that_could_not_be_written_is_written_before_the_next() -> None:
    """So that no last state claims a best that is nowhere: the newest of one name is owed, as it was when made."""
    room, written = False, []

    def write(name: str, state: dict[str, Any]) -> None:
        if not room:
            raise DiskError("full")
        written.append((name, float(state["w"])))

    saver, weight = AsyncSaver(beside=False), torch.zeros(())
    for step in (1, 2):
        weight.fill_(step)
        saver.save(partial(write, "best"), {"w": weight}, "best")
    weight.fill_(3)
    with pytest.raises(DiskError):
        saver.finish(partial(write, "last"), {"w": weight})
    assert not saver.settle()
    room = True
    saver.save(partial(write, "last"), {"w": weight})
    assert written == [("best", 2.0), ("last", 3.0)] and saver.settle()


def test_f13_a_disk_that_fills_before_the_last_save_is_no_end(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    """The training ends as a failure, which names the weights that are there; the same command ends it."""
    cnntrain("fit", *tiny, "output_dir=whole")
    with pytest.MonkeyPatch.context() as patched:
        fill(patched)
        assert main(["fit", *tiny, "output_dir=run"]) == 1
    err = capfd.readouterr().err
    assert re.search(r"cnntrain: .*step 10\W.*run/checkpoints/best\.pt .*disk is full", err)
    assert "run/checkpoints holds no weights" in err and "the same command with output_dir=run" in err
    run = folder / "run"
    assert not (run / RESULTS).exists() and "not saved" in read_json(run / RECORD)["exit"]
    assert cnntrain("fit", *tiny, "output_dir=run")["resumed_from"] == 0
    agree(folder / "whole", run)


def test_f13_results_that_the_disk_does_not_take_are_written_by_the_same_command(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    whole = cnntrain("fit", *tiny, "output_dir=whole")
    write = disk.write

    def full(path: Path, data: str) -> None:
        if path.name == RESULTS:
            raise DiskError(f"{path} cannot be written")
        write(path, data)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(disk, "write", full)
        assert main(["fit", *tiny, "output_dir=run"]) == 1
    assert "cnntrain: run/results.json " in capfd.readouterr().err
    again = cnntrain("fit", *tiny, "output_dir=run")
    assert again["resumed_from"] == again["steps"] == 10 and again["best"] == whole["best"]


def test_f13_a_signal_on_a_full_disk_is_no_stop_that_was_saved(
    folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(monkeypatch)
    interrupt(monkeypatch, loop.TrainStep, "update", 3, signal.SIGTERM)
    assert main(["fit", *tiny, "output_dir=run"]) == 1
    line = capfd.readouterr().err.splitlines()[-1]
    assert re.match(r"cnntrain: .*SIGTERM .*not saved at step 3\W.*run/checkpoints/last\.pt ", line)
    assert not list((folder / "run" / "checkpoints").iterdir())


def test_f13_a_save_that_was_asked_for_and_failed_is_not_said_to_be_done(
    folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        fill(patched)
        interrupt(patched, loop.TrainStep, "update", 3, signal.SIGUSR1)
        main(["fit", *tiny, "output_dir=run"])
    err = capfd.readouterr().err
    assert "warning: not saved: run/checkpoints/last.pt" in err and "saved at step 3" not in err


def test_f13_a_disk_without_room_for_checkpoints_is_refused_before_the_training(
    refused: Callable[..., str], tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    line = refused("fit", *tiny, "output_dir=run")
    assert re.search(r"output_dir=run .*full disk \(.* 97\.7 KiB .*free\)", line)


def test_a_last_state_that_lies_behind_the_run_is_said(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    cut(*tiny, "output_dir=run", nth=3)
    shutil.copy(folder / "run" / "checkpoints" / "last.pt", folder / "early.pt")
    cnntrain("fit", *tiny, "output_dir=run")
    for stale in (False, True):
        if stale:
            shutil.copy(folder / "early.pt", folder / "run" / "checkpoints" / "last.pt")
        assert main(["eval", "run=run", "weights=last"]) == 0
        said = "last.pt is of step 3"
        assert (said in capfd.readouterr().err) == stale


# --- F38


class Platter:
    """What a disk holds after a power cut: of each file what it was when it was last forced there, of each folder the
    names that it then had.
    """

    def __init__(self) -> None:
        self.contents: dict[int, bytes] = {}
        self.names: dict[Path, dict[str, int]] = {}

    def fsync(self, handle: int) -> None:
        place, number = Path(f"/proc/self/fd/{handle}").readlink(), os.fstat(handle).st_ino
        if place.is_dir():
            self.names[place] = {entry.name: entry.stat().st_ino for entry in place.iterdir()}
        else:
            self.contents[number] = place.read_bytes()

    def restore(self, folder: Path, target: Path) -> None:
        """Write what is left of a folder to another place."""
        target.mkdir()
        for name, number in self.names.get(folder, {}).items():
            if folder / name in self.names:
                self.restore(folder / name, target / name)
            else:
                (target / name).write_bytes(self.contents.get(number, b""))


@pytest.mark.parametrize("step", range(12) if FULL else (0, 7))
def test_f38_after_a_power_cut_the_same_command_resumes_what_was_saved(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """At any step of a run, with nothing on the disk but what was forced there."""
    words, platter = [*tiny, "trainer.checkpoint_seconds=0", "trainer.epochs=3"], Platter()
    update = loop.TrainStep.update

    def cutting(self: loop.TrainStep, loader: Any, at: int) -> None:
        if at == step:
            platter.restore(folder, folder / "after")
        update(self, loader, at)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", platter.fsync)
        patched.setattr(loop.TrainStep, "update", cutting)
        cnntrain("fit", *words, "output_dir=whole")
    after = folder / "after" / "whole"
    assert read_json(after / CONFIG) == read_json(folder / "whole" / CONFIG)
    assert cnntrain("fit", *words, f"output_dir={after}")["resumed_from"] == step // 5 * 5
    agree(folder / "whole", after)
    platter.restore(folder, folder / "end")
    assert read_json(folder / "end" / "whole" / RECORD)["exit"] == "done"
    assert read_json(folder / "end" / "whole" / RESULTS)


# --- F35


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, not to be changed."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["fit", *TINY, "trainer.epochs=1", f"output_dir={folder}"]) == 0
    return folder


@pytest.fixture
def run(trained: Path, folder: Path) -> Path:
    """A copy of it in the working folder, beside an image."""
    shutil.copytree(trained, folder / "run")
    Image.new("L", (28, 28)).save(folder / "image.png")
    return folder / "run"


WRITING = {
    "eval": ("run=run",),
    "predict": ("run=run", "images=image.png", "report=true", "output_dir=predicted"),
    "export": ("run=run", "format=safetensors"),
    "report": ("run=run",),
    "invariance": ("run=run", "warp=translate_y", "warp.translate_y.amounts=[0,1]", "images=8", "output_dir=study"),
}


def full_at(patched: pytest.MonkeyPatch, nth: int) -> None:
    """Have the disk be full when the file number `nth` (from 0) is forced there."""
    count, sync = itertools.count(), disk.sync

    def full(path: Path) -> None:
        if path.name.startswith(disk.PARTIAL) and next(count) == nth:
            raise OSError(28, "No space left on device")
        sync(path)

    patched.setattr(disk, "sync", full)


@pytest.mark.parametrize("command", WRITING)
def test_f35_a_command_that_meets_a_full_disk_names_the_file_and_works_when_repeated(
    run: Path, folder: Path, command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """One after another at each file that it writes, until it comes through; nothing half-written lies anywhere."""
    words = [command, *WRITING[command], *(("figures=false", "tensorboard=false") if command == "invariance" else ())]
    for nth in itertools.count():
        with pytest.MonkeyPatch.context() as patched:
            full_at(patched, nth)
            code = main(words)
        line = capfd.readouterr().err.splitlines()[-1:]
        assert not list(folder.rglob(LEFT))
        if code == 0:
            break
        assert code == 1
        assert re.fullmatch(r"cnntrain: \S+ .*No space left on device \(.* free\)", *line)
    assert nth > 0


@pytest.mark.parametrize("command", WRITING)
@pytest.mark.parametrize("why", ["sealed", "full"])
def test_f35_a_command_that_cannot_write_is_refused_before_its_work(
    run: Path, folder: Path, command: str, why: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "full":
        usage = shutil.disk_usage("/")
        monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    else:
        access = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and mode == os.F_OK)
    line = refused(command, *WRITING[command])
    assert ("full disk (" if why == "full" else "cannot be written to") in line and "cannot be made: " in line


def test_f35_an_export_under_a_limit_of_files_ends_in_one_line(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Where C++ writes the file itself, the process is aborted."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        assert main(["export", "run=run", "format=pt2"]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    err = capfd.readouterr().err
    assert re.search(r"cnntrain: run/export/lenet5\.pt2 .*File too large \(", err)
    assert not list((run / "export").iterdir())


def test_f35_a_study_of_invariance_that_was_killed_works_when_repeated(
    cnntrain: Call, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("invariance", *WRITING["invariance"], "figures=false")
    with monkeypatch.context() as patched:
        patched.setattr(study, "curves", lambda *args: sys.exit(137))
        assert main([*words]) == 137
    assert [*Path("study/raw").iterdir()] and not Path("study/results.json").exists()
    assert cnntrain(*words)["rows"]
    assert main([*words]) == 2  # finished: its results stay


# --- F36


def test_f36_no_file_of_a_run_that_is_a_link_is_written_through(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...]
) -> None:
    """Every file of a run leads elsewhere, and the run itself does: it is resumed, evaluated and shown in place."""
    words = [*tiny, "trainer.checkpoint_seconds=0"]
    cnntrain("fit", *words, "output_dir=whole")
    cut(*words, "output_dir=big/run", nth=8)
    cnntrain("eval", "run=big/run")
    (folder / "run").symlink_to(folder / "big" / "run")
    files = [path for path in (folder / "big").rglob("*") if path.is_file() and path.name != ".lock"]
    (folder / "elsewhere").mkdir()
    before = {}
    for number, path in enumerate([*files, folder / "big/run/report.html"]):
        place = folder / "elsewhere" / str(number)
        place.write_bytes(path.read_bytes() if path.exists() else b"precious")
        path.unlink(missing_ok=True)
        path.symlink_to(place)
        before[place] = place.read_bytes()
    assert cnntrain("fit", *words, "output_dir=run")["resumed_from"] == 8
    cnntrain("eval", "run=run")
    cnntrain("report", "run=run")
    assert {place: place.read_bytes() for place in before} == before
    agree(folder / "whole", folder / "run")


def test_f36_a_lock_that_is_a_link_is_refused(folder: Path, refused: Callable[..., str], tiny: tuple[str, ...]) -> None:
    (folder / "run").mkdir()
    (folder / "run" / ".lock").symlink_to(folder / "elsewhere")
    assert "run/.lock cannot be locked: " in refused("fit", *tiny, "output_dir=run")


def test_f36_a_log_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("before")
    for name in (METRICS, "log.txt"):
        (tmp_path / name).symlink_to(tmp_path / "precious")
        with pytest.raises(OSError, match="symbolic links"), disk.appending(tmp_path / name):
            pytest.fail("it was opened")
    assert (tmp_path / "precious").read_text() == "before"
