"""Faults of data and its workers, each by its number in `docs/guarantees.md`: named, and never a traceback."""

import contextlib
import csv
import json
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from cuts import Call, at_once
from made import BAD, cifar_archive, mnist_files, picture, tree

from cnntrain.cli.main import main
from cnntrain.data.datasets import downloads
from cnntrain.data.loading import workers
from cnntrain.data.storage.images import Files
from cnntrain.training import loop

Refused = Callable[..., str]
FOLDER = (
    *("model=softmax", "dataset=folder", "dataset.root=images", "augmentation=none", "trainer.epochs=2"),
    *("trainer.batch_size=4", "device=cpu", "trainer.tensorboard=false"),
)

DEATHS: dict[str, Callable[[], object]] = {
    "leaves": lambda: os._exit(1),
    "is killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfaults": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "sleeps for ever": lambda: time.sleep(10_000),
}


@pytest.mark.parametrize("death", list(DEATHS))
def test_f25_a_dead_or_hung_worker_is_named_with_its_last_file(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, death: str
) -> None:
    """In the second epoch of a training of two workers."""
    tree(folder / "images")
    monkeypatch.setattr(workers, "HUNG_SECONDS", 3)
    monkeypatch.setattr(workers.end_workers, "__defaults__", (0.2,))
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    main_process, decode = os.getpid(), Files.decode
    fatal = folder / "fatal"

    def deadly(self: Files, position: int) -> np.ndarray:
        if os.getpid() != main_process and (folder / "second").exists():
            with contextlib.suppress(FileExistsError):  # one worker dies, whichever comes first
                with fatal.open("x") as sink:
                    sink.write(f"worker {os.getpid()} was reading {self.path(position)}")
                DEATHS[death]()
        return decode(self, position)

    read = loop.TrainStep.read

    def begun(self: loop.TrainStep, step: int) -> dict[str, float]:
        (folder / "second").touch()
        return read(self, step)

    monkeypatch.setattr(loop.TrainStep, "read", begun)
    monkeypatch.setattr(Files, "decode", deadly)
    assert main(["fit", *FOLDER, "dataset.val_size=0", "dataset.workers=2", "output_dir=run"]) == 1
    line = capfd.readouterr().err.splitlines()[-1].removeprefix("\0")  # a segmentation fault's report ends with it
    assert line.startswith("cnntrain: DataLoader") and line.endswith(f"; {fatal.read_text()}")
    assert time.time() - fatal.stat().st_mtime < 10 and not multiprocessing.active_children()
    assert "DataLoader" in json.loads((folder / "run" / "run.json").read_text())["exit"]


def test_f26_a_bad_file_ends_the_command_or_is_left_out_and_counted(
    cnntrain: Call, refused: Refused, folder: Path
) -> None:
    """`tests/test_folder.py` has every kind of bad file."""
    tree(folder / "images")
    bad = Path("images/bee/04.png")
    BAD["flipped"](bad)
    for count in (0, 2):
        assert f"{bad}: " in refused("fit", *FOLDER, "dataset.image_size=8", f"dataset.workers={count}")
    found = cnntrain("fit", *FOLDER, "dataset.image_size=8", "dataset.on_error=skip", "output_dir=run")
    assert found["skipped"] == 1
    assert json.loads((folder / "run" / "run.json").read_text())["data"]["skipped"] == [str(bad)]
    words = (*FOLDER, "dataset.image_size=8", "dataset.on_error=skip", "dataset.max_skipped=0")
    assert re.search(f"max_skipped.* {re.escape(str(bad))}: ", refused("fit", *words))


def test_f26_a_file_that_goes_bad_after_the_first_step_ends_the_run_and_is_named(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(folder / "images")
    update = loop.TrainStep.update

    def spoil(self: loop.TrainStep, *args: object) -> None:
        for path in (folder / "images").rglob("*.png"):
            BAD["flipped"](path)
        monkeypatch.setattr(loop.TrainStep, "update", update)
        update(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(loop.TrainStep, "update", spoil)
    assert main(["fit", *FOLDER, "dataset.val_size=0", "dataset.workers=1", "output_dir=run"]) == 1
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("cnntrain: ") and " images/" in line and ".png: " in line
    assert ".png: " in json.loads((folder / "run" / "run.json").read_text())["exit"]


def test_f27_labels_and_folders_that_do_not_fit_are_said_before_anything_starts(refused: Refused, folder: Path) -> None:
    """A label of -1 can only come from a reader of one's own: `tests/test_datasets.py` holds the check to it."""
    mnist_files(folder / "eleven", classes=11)
    assert "the label 10; its 10 classes are numbered 0 to 9" in refused("fit", "dataset=mnist", "data_root=eleven")
    mnist_files(folder / "few", images=40)
    words = ("fit", "dataset=mnist", "data_root=few", "dataset.val_size=10")
    assert re.search("trainer.batch_size=64 .* 30 ", refused(*words))
    cases = {
        "train lacks cat": ("train/ant", "train/bee", "val/ant", "val/bee", "val/cat"),
        "val lacks ant, bee": ("train/ant", "train/bee", "val/"),
        "train ": ("train/", "val/ant", "val/bee"),
    }
    for number, (message, folders) in enumerate(cases.items()):
        for name in folders:
            place = folder / f"images{number}" / name
            place.mkdir(parents=True)
            if not name.endswith("/"):
                picture(0).save(place / "0.png")
        assert message in refused("fit", *FOLDER, f"dataset.root=images{number}")
    (tree(folder / "images") / "cat").mkdir()
    assert "images/cat " in refused("fit", *FOLDER)


def test_what_is_not_utf_8_is_text_in_every_record_and_refused_where_it_is_typed(
    cnntrain: Call, refused: Refused, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder / os.fsdecode(b"\xfc")
    tree(place / "images")
    monkeypatch.chdir(place)
    for old, new in (("images/ant", b"images/caf\xe9"), ("images/bee/00.png", b"images/bee/\xfc.png")):
        Path(old).rename(os.fsdecode(new))
    cnntrain("fit", *FOLDER, "trainer.tensorboard=true", "output_dir=run")
    assert json.loads(Path("run/run.json").read_text())["data"]["classes"] == ["bee", r"caf\xe9"]
    assert {row["class"] for row in cnntrain("eval", "run=latest")["per_class"]} == {"bee", r"caf\xe9"}
    cnntrain("report", "run=run")
    assert cnntrain("predict", "run=run", "images=images", "output_dir=out")["n"] == 20
    with Path("out/predictions.csv").open(encoding="utf-8") as source:
        assert r"images/bee/\xfc.png" in {row["file"] for row in csv.DictReader(source)}
    for key in ("dataset.root", "output_dir", "init_from"):
        assert rf"{key}=caf\xe9 is not UTF-8; rename" in refused("fit", *FOLDER, f"{key}=caf\udce9")


def test_f27_a_last_batch_of_one_and_a_batch_of_one(cnntrain: Call, refused: Refused, tiny: tuple[str, ...]) -> None:
    """An incomplete last batch is left out of an epoch; batch norm normalises one image like many where it rests."""
    words = [*tiny, "model=resnet20", "dataset.image_size=4", "dataset.val_size=17", "dataset.train_images=50"]
    assert cnntrain("fit", *words, "trainer.eval_batch_size=8")["steps"] == 2 * 2
    line = refused("fit", *words, "trainer.batch_size=1")
    assert "trainer.batch_size=1 " in line
    assert cnntrain("fit", *words, "trainer.batch_size=1", "trainer.freeze=backbone", "trainer.epochs=1")["steps"] == 33


# --- F30


def prepare(folder: Path, known: dict[str, object]) -> None:
    """Have CIFAR-10 made ready, slowly; leave notes of what this process did."""
    kind = torchvision.datasets.CIFAR10
    for name, value in known.items():
        setattr(kind, name, value)
    os.chdir(folder)
    me, extract, move = os.getpid(), torchvision.datasets.utils.extract_archive, Path.replace

    def slow_extract(*args: str) -> str:
        note(f"{me} begins")
        time.sleep(0.3)
        found = extract(*args)
        time.sleep(0.3)
        note(f"{me} ends")
        return found

    def slow_move(self: Path, target: Path) -> Path:
        note(f"{me} moves")
        time.sleep(0.1)
        return move(self, target)

    torchvision.datasets.utils.extract_archive = slow_extract
    Path.replace = slow_move  # type: ignore[method-assign,assignment]
    train, test = downloads.parts("cifar10", Path("root"))
    note(f"{me} has {len(train)} and {len(test)}")


def note(line: str) -> None:
    with Path("notes").open("a") as sink:
        sink.write(line + "\n")


@pytest.mark.parametrize("moment", ["begins", "moves"])
def test_f30_of_eight_that_prepare_one_dataset_one_at_a_time_does_and_may_be_killed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    (folder / "root").mkdir()
    _, known = cifar_archive(folder / "root")
    kind = torchvision.datasets.CIFAR10
    for name, value in known.items():
        monkeypatch.setattr(kind, name, value)
    (folder / "notes").touch()
    with at_once(8, prepare, folder, known) as processes:
        while moment not in (notes := (folder / "notes").read_text()):
            time.sleep(0.01)
        victim = next(process for process in processes if f"{process.pid} {moment}" in notes)
        victim.kill()
        assert downloads.present(kind, "cifar10", Path("root")) is None  # absent, as whoever asks now is told
    assert sorted(process.exitcode for process in processes) == [-signal.SIGKILL] + [0] * 7
    lines = [line.split() for line in (folder / "notes").read_text().splitlines()]
    assert sum(line[1] == "has" and line[2:] == ["20", "and", "20"] for line in lines) == 7
    work = [(pid, what) for pid, what, *_ in lines if what in ("begins", "ends")]
    first, second = work[: 1 if moment == "begins" else 2], work[1 if moment == "begins" else 2 :]
    assert {pid for pid, _ in first} == {str(victim.pid)} and [what for _, what in second] == ["begins", "ends"]
    assert len({pid for pid, _ in second}) == 1
    assert downloads.present(kind, "cifar10", Path("root")) is not None
    assert not (folder / "root" / ".cifar10.partial").exists()
