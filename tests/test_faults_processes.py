"""Faults from outside the process, each by its number in `docs/guarantees.md`: kills, signals, rivals, surroundings."""

import contextlib
import errno
import fcntl
import json
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
from cuts import FULL, Call, agree, at_once, cut, interrupt, last, rows, start, wait_for_steps

from cnntrain.cli.main import main
from cnntrain.runs.folder import RECORD, lock_folder
from cnntrain.runtime.jsonfile import read_json
from cnntrain.runtime.signals import Signals
from cnntrain.runtime.streams import forgiving
from cnntrain.studies import cells
from cnntrain.training import checkpoints, loop
from scripts import chaos


@pytest.mark.parametrize("seed", range(4 if FULL else 1))
def test_f07_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
    folder: Path, tiny: tuple[str, ...], seed: int, capfd: pytest.CaptureFixture[str]
) -> None:
    kills, epochs = (5, 60) if FULL else (2, 20)
    words = [
        *tiny,
        f"trainer.epochs={epochs}",
        "trainer.checkpoint_seconds=0",
        "trainer.log_every=1",
        "trainer.ema=0.9",
    ]
    how = ["--kills", str(kills), "--longest", "0.1", "--seed", str(seed), "--", *words]
    assert not chaos.main(how)
    assert capfd.readouterr().out == f"{kills} kills in {5 * epochs} steps: the same bits\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_f16_a_signal_to_the_whole_group_saves_and_ends_and_the_run_goes_on(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], number: signal.Signals
) -> None:
    words = [*tiny, "schedule=constant", "trainer.log_every=1"]
    with start(folder, *words, "trainer.epochs=9999", "dataset.workers=2", "output_dir=cut") as process:
        assert process.stderr
        wait_for_steps(folder / "cut", process)
        os.killpg(process.pid, signal.SIGUSR1)
        assert any("saved at step" in line for line in process.stderr)
        step = last(folder / "cut")["progress"]["step"]
        began = time.monotonic()
        os.killpg(process.pid, number)
        assert any("resumes it" in line for line in process.stderr)
        assert time.monotonic() - began < 5
        process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "stopped by" in json.loads((folder / "cut" / "run.json").read_text())["exit"]
    later = last(folder / "cut")["progress"]["step"]
    assert later >= step > 0 and rows(folder / "cut")[-1]["step"] == later  # nothing that was done is lost
    words.append(f"trainer.epochs={later // 5 + 2}")
    cnntrain("fit", *words, "output_dir=whole")
    assert cnntrain("fit", *words, "output_dir=cut")["resumed_from"] == later
    agree(folder / "whole", folder / "cut")


def test_f17_a_second_signal_leaves_at_once_with_the_last_checkpoint_whole(folder: Path, tiny: tuple[str, ...]) -> None:
    code = (
        "import os, signal, sys, time\n"
        "from cnntrain.training import checkpoints, loop\n"
        "def slow(path):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
        "update = loop.TrainStep.update\n"
        "def interrupted(self, loader, step):\n"
        "    update(self, loader, step)\n"
        "    if step == 7:\n"
        "        checkpoints.verify = slow\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "loop.TrainStep.update = interrupted\n"
        "from cnntrain.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = [*tiny, "trainer.checkpoint_seconds=0", "output_dir=run"]
    done = subprocess.run([sys.executable, "-c", code, "fit", *words], cwd=folder, timeout=60, check=False)
    assert done.returncode == -signal.SIGINT
    assert last(folder / "run")["progress"]["step"] == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_f22_a_handler_that_was_there_before_is_called_after_the_save(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], number: signal.Signals
) -> None:
    """As those of a launcher of cluster jobs, which puts the job back into the queue and leaves."""
    seen: list[int] = []

    def requeue(caught: int, frame: FrameType | None) -> None:
        seen.append(last(folder / "cut")["progress"]["step"])
        sys.exit(128 + caught)

    earlier = signal.signal(number, requeue)
    try:
        cut(*tiny, "output_dir=cut", nth=3, number=number)
        assert signal.getsignal(number) is requeue
    finally:
        signal.signal(number, earlier)
    assert seen == [3]
    cnntrain("fit", *tiny, "output_dir=whole")
    assert cnntrain("fit", *tiny, "output_dir=cut")["resumed_from"] == 3
    agree(folder / "whole", folder / "cut")


@pytest.fixture
def hangup() -> Iterator[None]:
    """Let SIGHUP be as it was after the test."""
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


def test_f16_a_terminal_that_closes_twice_saves_and_stops(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], hangup: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system tells it, and while it saves the shell does."""
    with monkeypatch.context() as patched:
        interrupt(patched, checkpoints, "save_last", 1, signal.SIGHUP)
        cut(*tiny, "output_dir=cut", nth=3, number=signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert read_json(folder / "cut" / RECORD)["exit"] == "stopped by SIGHUP"
    cnntrain("fit", *tiny, "output_dir=whole")
    assert cnntrain("fit", *tiny, "output_dir=cut")["resumed_from"] == 3
    agree(folder / "whole", folder / "cut")


def test_f16_a_logout_that_adds_sigterm_ends_nothing_at_once(hangup: None) -> None:
    with Signals() as signals:
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
        assert signals.stop() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_f16_under_nohup_a_closing_terminal_is_nothing(hangup: None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not signals.stop()


# --- F29


def fit_here(folder: Path, pair: int, *words: str) -> None:
    """Train in a process of this name's own, and leave with the command's exit code."""
    os.chdir(folder)
    log = os.open(f"{pair}.{os.getpid()}", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    update = loop.TrainStep.update

    def slow(self: loop.TrainStep, *args: object) -> None:
        time.sleep(0.1)  # the winner is still there when the other asks
        update(self, *args)  # type: ignore[arg-type]

    loop.TrainStep.update = slow  # type: ignore[method-assign,assignment]
    sys.exit(main(["fit", *words, f"output_dir=run{pair}"]))


def test_f29_of_two_trainings_in_one_folder_one_wins_and_the_other_names_it(
    folder: Path, tiny: tuple[str, ...]
) -> None:
    for pair in range(20 if FULL else 3):
        with at_once(2, fit_here, folder, pair, *tiny, "model=softmax", "trainer.epochs=1") as processes:
            pass
        codes = {process.exitcode: process.pid for process in processes}
        assert codes.keys() == {0, 2}, [path.read_text() for path in folder.glob(f"{pair}.*")]
        lost = (folder / f"{pair}.{codes[2]}").read_text().splitlines()
        assert re.fullmatch(f"cnntrain: output_dir=run{pair} .*process {codes[0]} on {os.uname().nodename}", lost[-1])
        assert last(folder / f"run{pair}")["progress"]["step"] == 5


def test_f29_a_folder_in_use_is_refused_and_a_dead_holders_lock_taken_over(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "run").mkdir()
    with lock_folder(folder / "run"):
        assert main(["fit", *tiny, "output_dir=run"]) == 2
        assert f"process {os.getpid()} on" in capfd.readouterr().err
        assert sorted(path.name for path in (folder / "run").iterdir()) == [".holder", ".lock"]
    with start(folder, *tiny, "trainer.epochs=9999", "trainer.log_every=1", "output_dir=dead") as process:
        wait_for_steps(folder / "dead", process)
        process.kill()
        process.communicate()
    assert (folder / "dead" / ".holder").read_text().startswith(f"process {process.pid} ")
    (folder / "dead" / "config.json").unlink()  # of another length
    assert cnntrain("fit", *tiny, "output_dir=dead")["epochs"] == 2


def test_a_run_that_is_refused_after_its_workers_started_ends_all_the_same(folder: Path, tiny: tuple[str, ...]) -> None:
    (folder / "run").mkdir()
    with lock_folder(folder / "run"), start(folder, *tiny, "dataset.workers=1", "output_dir=run") as process:
        try:
            _, err = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 2 and re.search(r"output_dir=.* process \d+ on ", err)


# --- F32


@pytest.fixture
def odd(folder: Path) -> Path:
    """A working folder with everything in its name that a shell or Hydra might take for its own."""
    place = folder / "a b=c#é(1)~"
    place.mkdir()
    return place


def test_f32_odd_paths_locale_and_optimisation(
    odd: Path, tiny: tuple[str, ...], cnntrain: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "TERM")}
    environment |= {"LC_ALL": "C", "PYTHONOPTIMIZE": "1", "NO_COLOR": "1", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "cnntrain", "fit", *tiny, f"output_dir={odd}/run x"],
        cwd=odd, env=environment, capture_output=True, check=False, encoding="ascii", timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stderr and "\r" not in done.stderr
    assert (
        "interval" in done.stdout
        and "... " in done.stdout
        and f"run               {odd}/run x".replace("é", "?") in done.stdout
    )
    monkeypatch.chdir(odd)
    assert cnntrain("eval", "run=run x")["n"] == 48


def terminal(columns: int) -> tuple[int, int]:
    """Return both ends of a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    return ours, theirs


def written(end: int) -> Iterator[bytes]:
    """Yield what is written to a terminal until nobody has it open."""
    while True:
        try:
            yield os.read(end, 4096)
        except OSError:
            return


def test_f32_a_narrow_terminal_and_a_home(odd: Path, tiny: tuple[str, ...]) -> None:
    ours, theirs = terminal(40)
    words = [*tiny, "trainer.epochs=20", "trainer.log_every=1", "output_dir=~/run"]
    with subprocess.Popen(
        [sys.executable, "-m", "cnntrain", "fit", *words],
        cwd=odd, env=os.environ | {"HOME": str(odd)}, stdin=theirs, stderr=theirs, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = b"".join(written(ours)).decode()
        out, _ = process.communicate()
    os.close(ours)
    assert process.returncode == 0, shown
    bars = [part for part in re.split("[\r\n]", shown) if "|" in part]
    assert len(bars) > 2 and all(len(bar) <= 40 for bar in bars), bars
    assert out.startswith("validation top-1") and "\x1b" not in out
    assert last(odd / "run")["progress"]["step"] == 100


def test_f32_importing_warns_of_nothing() -> None:
    """Every module, with each warning an error."""
    code = (
        "import importlib, pkgutil, cnntrain\n"
        "for module in pkgutil.walk_packages(cnntrain.__path__, 'cnntrain.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        importlib.import_module(module.name)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- F33


@pytest.fixture
def full() -> Iterator[int]:
    """A descriptor that takes nothing, as on a full disk."""
    handle = os.open("/dev/full", os.O_WRONLY)
    yield handle
    os.close(handle)


def test_f33_a_stream_that_cannot_be_written_ends_nothing(full: int) -> None:
    lost: list[OSError] = []
    with forgiving(full, lost.append) as stream:
        for line in range(3):
            print(f"line {line}", "x" * 10_000, file=stream)
    assert [error.errno for error in lost] == [errno.ENOSPC] * len(lost) and len(lost) >= 3


def test_f33_a_stream_that_can_be_written_loses_nothing(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as sink, forgiving(sink.fileno()) as stream:
        print("é" * 100_000, file=stream)
    assert (tmp_path / "log").read_text() == "é" * 100_000 + "\n"


@pytest.mark.parametrize("streams", ["0<&- 1>&- 2>&-", pytest.param("2>/dev/full 1>&2", marks=pytest.mark.slow)])
def test_f33_a_training_without_listeners_ends_as_any_other(folder: Path, tiny: tuple[str, ...], streams: str) -> None:
    """Nothing opened takes the number of a closed stream, so that what C++ says cannot land in a checkpoint."""
    words = shlex.join([sys.executable, "-m", "cnntrain", "fit", *tiny, "output_dir=run"])
    done = subprocess.run(["sh", "-c", f"{words} {streams}"], cwd=folder, stdout=subprocess.PIPE, check=False)
    assert done.returncode == ("1>&2" in streams)  # results that nobody got are said in the exit code
    assert json.loads((folder / "run" / "run.json").read_text())["exit"] == "done"
    assert last(folder / "run")["progress"]["step"] == 10


def test_f33_results_that_standard_output_does_not_take_are_said() -> None:
    words = shlex.join([sys.executable, "-m", "cnntrain", "--version"])
    done = subprocess.run(["sh", "-c", f"{words} >/dev/full"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and re.fullmatch("cnntrain: standard output .*No space left on device\n", done.stderr)


def test_f33_a_cell_whose_log_cannot_be_written_is_made(
    folder: Path, full: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells.disk, "appending", lambda path: contextlib.nullcontext(full))
    with cells.output_to(folder / cells.LOG):
        print("epoch 1")
        print("a warning", file=sys.stderr, flush=True)
