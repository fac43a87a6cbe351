"""Variants × seeds as ordinary runs, for a study of any question: here two learning rates."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cnntrain.runs import records
from cnntrain.runs.folder import create_folder, lock_folder
from cnntrain.runtime.errors import CnntrainError, InputError
from cnntrain.studies import grid, pool
from cnntrain.studies.cells import Cell, Message, Variant, finished_scores

Call = Callable[..., dict[str, Any]]


@pytest.fixture
def cells(cnntrain: Call, folder: Path) -> list[Cell]:
    """Two variants under two seeds, not made."""
    words = ["model=softmax", "dataset=synthetic", "dataset.train_images=96", "dataset.test_images=40"]
    cnntrain("fit", *words, "augmentation=none", "trainer.epochs=1", "device=cpu", "output_dir=run")
    settings = records.settings(folder / "run")
    slow = settings | {"optimizer": settings["optimizer"] | {"lr": 0.001}}
    variants = [Variant("fast", settings), Variant("slow", slow, ("optimizer.lr=0.001",))]
    return grid.cells_of(variants, {0: None, 1: None}, folder / "study", words)


def make(cells: list[Cell]) -> list[Message]:
    messages: list[Message] = []
    pool.make_all(cells, 1, messages.append, plugins=[], deterministic=False)
    return messages


def test_every_cell_is_an_ordinary_run_that_is_made_once(cells: list[Cell]) -> None:
    assert [cell.name for cell in cells] == ["fast, seed 0", "slow, seed 0", "fast, seed 1", "slow, seed 1"]
    assert [message.kind for message in make(cells)] == ["began", "done"] * 4
    assert make(cells) == []
    for cell in cells:
        scores = finished_scores(cell.folder)
        measured = json.loads((cell.folder / "eval/test_last/results.json").read_text())
        assert scores and scores.test_score == measured["top1"] and scores.test_n == measured["n"] == 40
        settings = records.settings(cell.folder)
        assert (settings["seed"], settings["optimizer"]["lr"]) == (cell.seed, cell.settings["optimizer"]["lr"])


def test_a_cell_that_another_process_holds_is_left_to_it_and_a_failure_is_one_cells(cells: list[Cell]) -> None:
    cells[1].settings["model"] = cells[1].settings["model"] | {"name": "unknown"}
    with lock_folder(create_folder(cells[0].folder)):
        messages = make(cells[:3])
    assert [message.kind for message in messages] == ["busy", "began", "failed", "began", "done"]
    assert [finished_scores(cell.folder) is None for cell in cells] == [True, True, False, True]


def test_a_cell_of_other_settings_is_refused(cells: list[Cell], folder: Path) -> None:
    make(cells[:1])
    other = cells[0].variant.settings | {"trainer": cells[0].variant.settings["trainer"] | {"epochs": 2}}
    with pytest.raises(InputError, match="trainer.epochs"):
        grid.cells_of([Variant("fast", other)], {0: None}, folder / "study", [])


def test_processes_that_die_before_their_first_cell_are_said(cells: list[Cell]) -> None:
    Path("dies.py").write_text(
        "import multiprocessing\nif multiprocessing.parent_process() is not None:\n    raise ImportError('here')\n"
    )
    with pytest.raises(CnntrainError, match="before their first run"):
        pool.make_all(cells, 2, lambda message: None, plugins=["dies"], deterministic=False)
