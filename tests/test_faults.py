"""Faults from outside, each named by its number in `docs/guarantees.md`: what comes of them is a promise."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cnntrain import runs
from cnntrain.cli import main
from cnntrain.commands import fit, resuming
from cnntrain.data.feeds import Feed
from cnntrain.training import checkpoints, loop

Call = Callable[..., dict[str, Any]]


def scripted(scores: list[float], epochs: int, patience: int, cut: int | None = None) -> tuple[list[Any], list[str]]:
    """Run the loop on made-up validations, stopping once after `cut` epochs; return its records and its saves."""

    class Learner:
        accumulate = 1
        evaluated = None

        def update(self, feed: Feed, step: int) -> None:
            pass

        def read(self, step: int) -> dict[str, float]:
            return {"loss": 1.0, "top1": 0.5}

    class Batches:
        batches, batch_size = 2, 4

    at, saves, records = loop.Progress(), list[str](), list[Any]()
    for limit in (cut, None) if cut else (None,):
        records += loop.train(
            Learner(),  # type: ignore[arg-type]
            Batches(),  # type: ignore[arg-type]
            lambda net: {"loss": 1.0, "top1": scores[at.step // 2 - 1]},
            at=at,
            epochs=epochs,
            save=lambda which: saves.append(f"{which} {at.step}"),
            patience=patience,
            stop=lambda limit=limit: limit is not None and at.step >= 2 * limit,
        )
    return [(r["kind"], r["step"], r.get("best")) for r in records], [s for s in saves if s.startswith("best")]


@pytest.mark.parametrize("bad", [None, 0, 1, 2, 3])
def test_f06_early_stopping_and_best_survive_a_cut_whatever_the_scores(bad: int | None) -> None:
    scores = [0.2, 0.5, 0.4, 0.3, 0.6]
    if bad is not None:
        scores[bad] = float("nan")
    whole = scripted(scores, 5, patience=2)
    assert all(scripted(scores, 5, patience=2, cut=cut) == whole for cut in (1, 2, 3, 4))
    assert not any(best and scores[step // 2 - 1] != scores[step // 2 - 1] for kind, step, best in whole[0])


def test_f14_a_log_that_cannot_be_written_does_not_end_the_training(
    folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fit.runs, "append_metrics", full)
    main(["fit", *tiny, "output_dir=run"])
    assert "metrics.jsonl cannot be written" in capfd.readouterr().err
    assert checkpoints.load(folder / "run" / "checkpoints" / "last.pt")["progress"]["step"] == 10


def test_f15_a_folder_that_cannot_be_made_is_refused_before_anything_is_read(
    folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "file").write_text("")
    for place in ("file", "file/below"):
        assert main(["fit", *tiny, f"output_dir={place}"]) == 2
        assert f"output_dir={place}" in capfd.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["file"]


def test_f17_a_second_signal_leaves_at_once_with_the_last_checkpoint_whole(folder: Path, tiny: tuple[str, ...]) -> None:
    code = (
        "import os, signal, sys, time\n"
        "from cnntrain.training import checkpoints\n"
        "written = checkpoints.written\n"
        "def slow(path, state):\n"
        "    partial = written(path, state)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(20)\n"
        "    return partial\n"
        "from cnntrain.training import loop\n"
        "update = loop.Learner.update\n"
        "def interrupted(self, feed, step):\n"
        "    update(self, feed, step)\n"
        "    if step == 7:\n"
        "        checkpoints.written = slow\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "loop.Learner.update = interrupted\n"
        "from cnntrain.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = [*tiny, "trainer.checkpoint_seconds=0", "output_dir=run"]
    done = subprocess.run([sys.executable, "-c", code, "fit", *words], cwd=folder, timeout=60, check=False)
    assert done.returncode == -signal.SIGINT
    state = checkpoints.load(folder / "run" / "checkpoints" / "last.pt")
    assert state["progress"]["step"] == 5


@pytest.mark.parametrize("moment", ["before the first step", "during a save"])
def test_f18_a_signal_at_any_moment_saves_and_ends(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], moment: str
) -> None:
    words = [*tiny, "trainer.checkpoint_seconds=0"]
    cnntrain("fit", *words, "output_dir=whole")
    original, follow, sent = fit.Training.save, fit.Training.follow, []

    def interrupted(self: fit.Training, *args: Any) -> None:
        if not sent:  # a second signal would end this process
            sent.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, *args)

    def interrupted_follow(self: fit.Training, signals: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        follow(self, signals)

    with pytest.MonkeyPatch.context() as patched:
        if moment == "before the first step":
            patched.setattr(fit.Training, "follow", interrupted_follow)
        else:
            patched.setattr(fit.Training, "save", interrupted)
        assert main(["fit", *words, "output_dir=cut"]) == 143
    assert cnntrain("fit", *words, "output_dir=cut")["resumed_from"] == (0 if moment == "before the first step" else 5)
    a, b = (checkpoints.load(folder / run / "checkpoints" / "last.pt") for run in ("whole", "cut"))
    assert all(resuming.same(a[key], b[key]) for key in ("model", "optimizer", "progress"))


def test_f11_swapped_weights_or_an_edited_configuration_are_refused(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    cnntrain("fit", *tiny, "output_dir=one")
    cnntrain("fit", *tiny, "model=softmax", "output_dir=two")
    for name in ("last.pt", "best.pt"):
        shutil.copy(folder / "two" / "checkpoints" / name, folder / "one" / "checkpoints" / name)
    assert main(["eval", "run=one"]) == 4
    assert "belongs to another network" in capfd.readouterr().err
    config = folder / "two" / runs.CONFIG
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"model": settings["model"] | {"name": "lenet6"}}))
    assert main(["eval", "run=two"]) == 2
    assert "unknown model 'lenet6'; did you mean 'lenet5'?" in capfd.readouterr().err


def test_f32_odd_paths_locale_and_optimisation(folder: Path, tiny: tuple[str, ...]) -> None:
    odd = folder / "a b=c#é(1)"
    odd.mkdir()
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "TERM")}
    environment |= {"LC_ALL": "C", "PYTHONOPTIMIZE": "1", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    for words in (["fit", *tiny, f"output_dir={odd}/run x"], ["eval", f"run={odd}/run x", "--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "cnntrain", *words],
            cwd=odd, env=environment, capture_output=True, text=True, check=False, encoding="utf-8", timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout + done.stderr
    assert json.loads(done.stdout)["n"] == 48
