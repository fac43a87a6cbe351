"""Folds of the training images: exact partitions, stratified, groups together, test images sealed."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made import TINY, picture, tree

from cnntrain.data.datasets.folds import HeldOut, fold_numbers, held_out
from cnntrain.data.datasets.registry import load
from cnntrain.data.datasets.splits import members
from cnntrain.data.storage.images import Dataset, Files, files_of
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.jsonfile import read_json

Call = Callable[..., dict[str, Any]]
CLASSES = ("a", "b", "c")


@pytest.fixture
def labels() -> np.ndarray:
    """Classes of 31, 12 and 7 images."""
    return np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [31, 12, 7]))


@pytest.mark.parametrize("folds", [2, 5, 7])
def test_folds_partition_exactly_and_are_stratified(labels: np.ndarray, folds: int) -> None:
    sides = [held_out(labels, CLASSES, HeldOut((folds,), (fold,)), 3, "set", None) for fold in range(folds)]
    assert sorted(np.concatenate([out for _, out in sides])) == list(range(len(labels)))
    for rest, out in sides:
        assert sorted(np.concatenate([rest, out])) == list(range(len(labels)))
    counts = np.array([np.bincount(labels[out], minlength=3) for _, out in sides])
    assert (np.ptp(counts, axis=0) <= 1).all() and np.ptp(counts.sum(axis=1)) <= 1


def test_folds_are_drawn_from_the_seed_and_inner_folds_lie_within_the_outer_rest(labels: np.ndarray) -> None:
    draw = [fold_numbers(labels, CLASSES, 5, seed, "set") for seed in (0, 0, 1)]
    assert (draw[0] == draw[1]).all() and (draw[0] != draw[2]).any()
    rest, _ = held_out(labels, CLASSES, HeldOut((5,), (2,)), 0, "set", None)
    inner = [held_out(labels, CLASSES, HeldOut((5, 3), (2, fold)), 0, "set", None) for fold in range(3)]
    assert sorted(np.concatenate([out for _, out in inner])) == rest.tolist()
    assert all(sorted(np.concatenate(sides)) == rest.tolist() for sides in inner)


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_never_split_and_folds_stay_balanced(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.repeat([f"p{number}" for number in range(40)], rng.integers(1, 20, 40))
    labels = rng.integers(0, 3, len(groups))
    numbers = fold_numbers(labels, CLASSES, 4, seed, "set", groups=groups)
    assert all(len({*numbers[groups == name]}) == 1 for name in groups)
    counts = np.array([np.bincount(labels[numbers == fold], minlength=3) for fold in range(4)])
    assert np.ptp(counts.sum(axis=1)) <= 20 and (counts >= 0.6 * counts.mean(axis=0)).all()


@pytest.mark.parametrize(
    ("folds", "groups", "named"),
    [(8, None, "'c' has 7"), (3, ["p", "q"] * 25, "2 groups"), (2, ["p"] * 43 + ["q"] * 7, "fold 1 of 2")],
)
def test_folds_that_would_lack_a_class_are_refused(folds: int, groups: list[str] | None, named: str) -> None:
    labels = np.repeat([0, 1, 2], [31, 12, 7])
    with pytest.raises(InputError, match=named):
        fold_numbers(labels, CLASSES, folds, 0, "set", groups=None if groups is None else np.array(groups))


# --- in datasets


def paths(dataset: Dataset, split: str) -> set[str]:
    files = files_of(getattr(dataset, split).source)
    assert isinstance(files, Files)
    return {str(files.path(place).relative_to(files.root.parent)) for place in range(len(files))}


@pytest.fixture
def photographed(tmp_path: Path) -> Path:
    """Ants and bees by six photographers, with test images of a seventh: root/train/<class>/<photographer>/*."""
    for place, name in enumerate(("ant", "bee")):
        for person in range(7):
            folder = tmp_path / ("test" if person == 6 else "train") / name / f"person{person}"
            folder.mkdir(parents=True)
            for image in range(3):
                picture(100 * place + 10 * person + image).save(folder / f"{image}.png")
    return tmp_path


def test_test_images_stay_sealed_and_groups_together(photographed: Path) -> None:
    seen = set[str]()
    for fold in range(3):
        data = load("folder", photographed, {}, folds=HeldOut((3,), (fold,)), groups=1, val_size=0.2)
        split = {name: paths(data, name) for name in ("train", "val", "test")}
        assert not any("test/" in path for names in split.values() for path in names)
        people = {name: {path.split("/")[2] for path in names} for name, names in split.items()}
        assert len(set.union(*people.values())) == sum(map(len, people.values())) == 6
        seen |= split["test"]
        noted = {(member.split, member.part) for member in members(data)}
        assert noted == {("train", "train"), ("val", "train"), ("test", "train"), ("sealed", "test")}
    assert len(seen) == 36


def test_groups_may_stand_in_a_table_and_must_not_overlap_the_test_images(photographed: Path) -> None:
    rows = [path.relative_to(photographed).as_posix() for path in sorted(photographed.rglob("*.png"))]
    table = photographed / "people.csv"
    table.write_text("file,who\n" + "".join(f"{row},{row.split('/')[2]}\n" for row in rows))
    folds = HeldOut((3,), (0,))
    by_table = load("folder", photographed, {}, groups=f"{table}:who", folds=folds)
    by_folder = load("folder", photographed, {}, groups=1, folds=folds)
    assert paths(by_table, "test") == paths(by_folder, "test")
    table.write_text("file,group\n" + "".join(f"{row},everyone\n" for row in rows))
    with pytest.raises(InputError, match="everyone"):
        load("folder", photographed, {}, groups=str(table), folds=folds)
    table.write_text("file,group\n")
    with pytest.raises(InputError, match="36 images"):
        load("folder", photographed, {}, groups=str(table), folds=folds)
    with pytest.raises(InputError, match="group"):
        load("folder", photographed, {}, groups=f"{table}:person", folds=folds)
    with pytest.raises(InputError, match="1 folders below"):
        load("folder", photographed, {}, groups=2, folds=folds)


def test_images_that_are_no_files_have_no_groups(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="files"):
        load("digits", tmp_path, {}, groups=1)


# --- in runs


def test_a_fold_is_an_ordinary_run_that_evaluates_and_resumes_on_its_own_images(cnntrain: Call, folder: Path) -> None:
    tree(folder / "images", each=12, size=(16, 16))
    words = [*TINY[:1], "dataset=folder", "dataset.root=images", *TINY[4:], "dataset.val_size=0.2"]
    words = [word for word in words if not word.startswith("trainer.batch")] + ["trainer.batch_size=4"]
    jobs = cnntrain("fit", "-m", *words, "dataset.folds=[3,2]", "dataset.fold=[0,1],[1,0]", "output_dir=runs")["jobs"]
    assert len(jobs) == 2
    for number in range(2):
        measured = [cnntrain("eval", f"run=runs/{number}", f"split={split}")["n"] for split in ("train", "val", "test")]
        recorded = read_json(folder / f"runs/{number}/run.json")["data"]["images"]
        assert measured == [recorded["train"], recorded["val"], recorded["test"]] and sum(measured) == 16
    listed = gzip.decompress((folder / "runs/0/splits.csv.gz").read_bytes()).decode()
    assert listed.count("sealed,train") == 8
    again = ["trainer.epochs=1", "schedule=constant", "dataset.folds=3", "dataset.fold=1", "output_dir=short"]
    cnntrain("fit", *words, *again)
    cnntrain("fit", *words, *again, "trainer.epochs=2")
    cnntrain("fit", *words, *again, "trainer.epochs=2", "output_dir=straight")
    states = [torch.load(f"{name}/checkpoints/last.pt", weights_only=True)["model"] for name in ("short", "straight")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["dataset.folds=5"], "dataset.fold="),
        (["dataset.fold=0"], "dataset.folds=5"),
        (["dataset.folds=5", "dataset.fold=5"], "4"),
        (["dataset.folds=[5,3]", "dataset.fold=1"], "dataset.fold="),
        (["dataset.folds=1", "dataset.fold=0"], "at least 2"),
        (["dataset.folds=200", "dataset.fold=0"], "139"),
    ],
)
def test_folds_that_cannot_be_are_refused(refused: Callable[..., str], words: list[str], key: str) -> None:
    assert key in refused("fit", "dataset=digits", *words)
