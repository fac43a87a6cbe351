"""The images of a run: its own files whatever becomes of their folder, and others in a place of their own."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cuts import agree, cut
from made import picture, tree
from PIL import Image

from cnntrain.cli.main import main
from cnntrain.data.datasets.fingerprint import checksums
from cnntrain.data.datasets.registry import load
from cnntrain.data.datasets.splits import Member, members, read_members, write_members
from cnntrain.runs.images import noted

Call = Callable[..., dict[str, Any]]
Said = Callable[..., tuple[int, str]]
WORDS = (
    *("model=softmax", "augmentation=none", "dataset=folder", "dataset.root=d", "trainer.batch_size=4"),
    *("trainer.epochs=1", "trainer.tensorboard=false", "device=cpu"),
)


@pytest.fixture
def said(folder: Path, capfd: pytest.CaptureFixture[str]) -> Said:
    """Run a command, and return its exit code and what it tells the person."""

    def call(*words: str) -> tuple[int, str]:
        capfd.readouterr()
        code = main(list(words))
        return code, capfd.readouterr().err

    return call


@pytest.fixture
def run(cnntrain: Call, folder: Path) -> Path:
    """A run `r` on the folder `d`."""
    tree(folder / "d", each=12)
    cnntrain("fit", *WORDS, "output_dir=r")
    return folder


def predictions(root: Path, place: str = "test_best", run: str = "r") -> dict[str, np.ndarray]:
    with np.load(root / run / "eval" / place / "predictions.npz") as saved:
        return dict(saved)


def add(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        picture(1000 + number).save(root / name)


def test_a_list_of_files_divides_a_dataset_as_it_was(folder: Path) -> None:
    tree(folder / "d", ("ant", "bee", 'odd, "name"'), each=15)
    first = load("folder", folder / "d", {}, train_size=9, seed=3, val_size=0.2)
    listed = members(first)
    assert read_members(write_members(listed)) == listed and len(listed) == 45
    assert {split: sum(row.split == split for row in listed) for split in ("train", "unused", "val", "test")} == {
        **{"train": 9, "unused": 20, "val": 7, "test": 9}
    }
    add(folder / "d", "ant/000.png", "bee/zzz.png")
    (folder / "d" / "cat").mkdir()
    add(folder / "d", "cat/0.png")
    again = load(
        "folder",
        folder / "d",
        {},
        train_size=9,
        seed=3,
        val_size=0.2,
        listed=listed,
        classes=["ant", "bee", 'odd, "name"'],
    )
    for one, other in zip((first.train, first.val, first.test), (again.train, again.val, again.test), strict=True):
        assert one is not None and other is not None
        index = np.arange(len(one))
        assert (one.labels == other.labels).all() and (one.source.read(index) == other.source.read(index)).all()
    assert again.info.mean == first.info.mean and members(again) == listed


def test_names_that_are_no_text_keep_their_bytes() -> None:
    rows = [Member("test", "train", "bee/\udcff\r\n,\"'.png", 3)]
    assert read_members(write_members(rows)) == rows
    for damaged in (b"", write_members(rows)[:-9], b"text"):
        with pytest.raises(ValueError, match="."):
            read_members(damaged)


@pytest.mark.parametrize("cache", ["auto", "none", "pack"])
def test_files_that_are_added_change_no_evaluation(cnntrain: Call, folder: Path, said: Said, cache: str) -> None:
    tree(folder / "d", each=12)
    cnntrain("fit", *WORDS, f"dataset.cache={cache}", "output_dir=r")
    first = cnntrain("eval", "run=r")
    before = predictions(folder)
    add(folder / "d", "ant/000.png", "bee/99.png")
    (folder / "d" / "cat").mkdir()
    add(folder / "d", "cat/0.png")
    code, err = said("eval", "run=r")
    assert code == 0 and "2 images were added" in err and "packing" not in err
    after = predictions(folder)
    assert all((before[key] == after[key]).all() for key in before)
    assert json.loads((folder / "r/eval/test_best/results.json").read_text())["top1"] == first["top1"]
    if cache == "auto":
        assert cnntrain("report", "run=r")["top1"] == first["top1"]


def test_files_that_are_missing_or_have_changed_are_named(run: Path, cnntrain: Call, said: Said) -> None:
    rows = noted(run / "r") or []
    test, train = (next(row.file for row in rows if row.split == split) for split in ("test", "train"))
    cnntrain("eval", "run=r")
    (run / "d" / train).unlink()
    assert said("eval", "run=r")[0] == 0  # of the test images nothing is lost
    Image.new("RGB", (8, 8)).save(run / "d" / test)
    for command in ("eval", "report", "invariance"):
        code, err = said(command, "run=r", *(["warp=translate_y"] if command == "invariance" else []))
        assert code == 2 and f"test images have changed: d/{test} " in err and "dataset.root=" in err, err
    (run / "d" / test).rename(run / "d" / Path(test).with_name("other.png"))
    code, err = said("eval", "run=r")
    assert code == 2 and f"{test} is missing" in err
    code, err = said("eval", "run=r", "split=train")
    assert code == 2 and f"{train} is missing" in err


@pytest.mark.parametrize("cache", ["auto", "none"])
def test_a_run_that_has_noted_no_files_is_held_against_its_fingerprint(
    cnntrain: Call, folder: Path, said: Said, cache: str
) -> None:
    tree(folder / "d", each=12)
    cnntrain("fit", *WORDS, f"dataset.cache={cache}", "trainer.epochs=2", "schedule=constant", "output_dir=r")
    cnntrain("eval", "run=r")
    before = predictions(folder)
    (folder / "r" / "splits.csv.gz").unlink()
    shutil.rmtree(folder / "r" / "eval")
    cnntrain("eval", "run=r")
    assert (before["logits"] == predictions(folder)["logits"]).all()
    add(folder / "d", "ant/000.png")
    more = [*WORDS, f"dataset.cache={cache}", "trainer.epochs=3", "schedule=constant", "output_dir=r"]
    for words in (["eval", "run=r"], ["eval", "run=r", "split=val"], ["fit", *more]):
        code, err = said(*words)
        assert code == 2 and re.search("images .* r ", err), err
        assert ("dataset.root=" if words[0] == "eval" else "start a new run") in err


def test_a_run_goes_on_with_its_own_files_or_not_at_all(cnntrain: Call, folder: Path, said: Said) -> None:
    tree(folder / "d", each=16)
    words = [*WORDS, "trainer.epochs=2"]
    cnntrain("fit", *words, "output_dir=whole")
    cut(*words, "output_dir=r", nth=5)
    add(folder / "d", "ant/000.png", "bee/000.png")
    shutil.copytree(folder / "r", folder / "s")
    code, err = said("fit", *words, "output_dir=r")
    assert code == 0 and "2 images were added" in err
    agree(folder / "whole", folder / "r")
    assert noted(folder / "r") == noted(folder / "whole")
    (folder / "d" / "bee" / "03.png").unlink()
    code, err = said("fit", *words, "output_dir=s")
    assert code == 2 and "bee/03.png is missing" in err and "start a new run" in err


def test_another_folder_is_measured_whole_and_apart(run: Path, cnntrain: Call, said: Said) -> None:
    cnntrain("eval", "run=r")
    own = {path: path.read_bytes() for path in (run / "r/eval/test_best").iterdir()}
    tree(run / "other", each=7)
    tree(run / "only" / "test", each=6)
    for part, each in (("train", 8), ("val", 5), ("test", 4)):
        tree(run / "parts" / part, each=each)
    found = cnntrain("eval", "run=r", "dataset.root=other")
    assert (found["split"], found["n"]) == ("all", 14)
    assert len(list((run / "r" / "eval").glob("all_best_other_*/predictions.npz"))) == 1
    for words, split, n in (
        (["dataset.root=only"], "test", 12),
        (["dataset.root=only", "split=test"], "test", 12),
        (["dataset.root=parts"], "test", 8),
        (["dataset.root=parts", "split=val"], "val", 10),
        (["dataset.root=other", "split=test"], "test", 3),
        (["dataset=folder", "dataset.root=other"], "all", 14),
    ):
        found = cnntrain("eval", "run=r", *words)
        assert (found["split"], found["n"]) == (split, n), words
    assert own == {path: path.read_bytes() for path in (run / "r/eval/test_best").iterdir()}
    code, err = said("eval", "run=r", "dataset.root=only", "split=val")
    assert code == 2 and "test images only" in err
    tree(run / "third", ("ant", "bee", "cat"))
    code, err = said("eval", "run=r", "dataset.root=third")
    assert code == 2 and ": cat " in err


def test_a_copy_of_its_images_is_divided_as_they_are(run: Path, cnntrain: Call, said: Said) -> None:
    own = cnntrain("eval", "run=r")
    shutil.copytree(run / "d", run / "copy")
    add(run / "copy", "bee/000.png")
    code, err = said("eval", "run=r", "dataset.root=copy")
    assert code == 0 and "the run's own images" in err and "1 image was added" in err
    (place,) = (run / "r" / "eval").glob("test_best_copy_*")
    assert (predictions(run)["logits"] == predictions(run, place.name)["logits"]).all()
    shutil.move(run / "d", run / "away")
    assert cnntrain("eval", "run=r", "dataset.root=away")["top1"] == own["top1"]


def test_training_images_among_others_are_told(run: Path, said: Said) -> None:
    trained = {row.file for row in noted(run / "r") or [] if row.split == "train"}
    carved = load("folder", run / "d", {}, val_size=0.5)
    seen = sum(row.split == "val" and row.file in trained for row in members(carved))
    code, err = said("eval", "run=r", "dataset.val_size=0.5", "split=val")
    assert code == 0 and seen > 0 and f"warning: {seen} of these" in err and err.endswith("images of r\n"), err
    shutil.copytree(run / "d", run / "part", ignore=shutil.ignore_patterns("0[0-4].png"))
    copied = sum(Path(file).name > "05" for file in trained)
    code, err = said("eval", "run=r", "dataset.root=part")
    assert code == 0 and f"warning: {copied} of these 14 images" in err and "names and sizes" in err
    code, err = said("fit", *WORDS, "dataset.val_size=0.5", "init_from=r", "output_dir=s")
    assert code == 0 and f"warning: {seen} of the validation set" in err and "the test set" not in err


def test_an_evaluation_names_every_image(run: Path, cnntrain: Call, tiny: tuple[str, ...]) -> None:
    found = cnntrain("eval", "run=r")
    arrays = predictions(run)
    rows = list(csv.DictReader((run / "r/eval/test_best/predictions.csv").read_text().splitlines()))
    assert list(rows[0]) == [
        *("file", "label", "predicted", "probability", "top1", "top1_probability", "top2", "top2_probability"),
    ]
    files = [f"d/{row.file}" for row in noted(run / "r") or [] if row.split == "test"]
    assert [row["file"] for row in rows] == list(arrays["files"]) == files
    assert [row["label"] for row in rows] == [Path(file).parent.name for file in files]
    assert np.mean([row["label"] == row["predicted"] for row in rows]) == pytest.approx(found["top1"])
    shares = arrays["probabilities"].max(axis=1)
    assert [float(row["probability"]) for row in rows] == pytest.approx(list(shares), abs=1e-6)
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    assert (checksums(torch.from_numpy(pixels)) == arrays["checksums"]).all()
    cnntrain("fit", *tiny, "model=softmax", "output_dir=drawn")
    cnntrain("eval", "run=drawn")
    rows = list(csv.DictReader((run / "drawn/eval/test_best/predictions.csv").read_text().splitlines()))
    assert [row["file"] for row in rows] == [str(number) for number in range(48)] and "top5" in rows[0]
    assert "files" not in predictions(run, run="drawn")


def test_no_picture_stands_beside_the_prediction_of_another_image(cnntrain: Call, folder: Path, said: Said) -> None:
    """A file may change in place and keep its size."""
    for number, name in enumerate(("ant", "bee")):
        (folder / "d" / name).mkdir(parents=True)
        for i in range(20):
            picture(number * 100 + i).save(folder / "d" / name / f"{i}.bmp")
    cnntrain("fit", *WORDS, "output_dir=r")
    cnntrain("report", "run=r")
    page = (folder / "r" / "report.html").read_text()
    arrays = predictions(folder)
    wrong = np.flatnonzero(arrays["predicted"] != arrays["labels"])
    file = arrays["files"][wrong[0]]
    assert len(wrong) and file.rpartition("/")[2] in page and f'alt="{file}"' in page
    Image.new("RGB", (8, 8)).save(folder / file)
    code, err = said("report", "run=r")
    assert code == 2 and f"{file} " in err and "cnntrain eval run=r split=test weights=best" in err
    assert (folder / "r" / "report.html").read_text() == page
    shutil.copytree("r", "s")
    cnntrain("eval", "run=r")
    assert said("report", "run=r")[0] == 0
    (row,) = cnntrain("compare", "runs=[r,s]")["over_images"]
    assert row["p"] is None and "other images" in row["verdict"]


def test_an_evaluation_without_checksums_still_opens(run: Path, cnntrain: Call, said: Said) -> None:
    cnntrain("eval", "run=r")
    shutil.copytree("r", "s")
    for name in "rs":
        place = Path(name, "eval", "test_best", "predictions.npz")
        arrays = {key: value for key, value in predictions(run, run=name).items() if key not in ("checksums", "files")}
        np.savez(place, **arrays)
    code, err = said("compare", "runs=[r,s]")
    assert code == 0 and "evaluating" not in err
    assert "evaluating r" in said("report", "run=r")[1]
    code, err = said("compare", "runs=[r,s]")
    assert code == 0 and "evaluating s" in err and "evaluating r" not in err
