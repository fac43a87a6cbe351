"""Variants and cells, the parts of every study that trains: a cell is a variant under one seed, an ordinary run.

A cell's folder is claimed by its lock, so that processes share a study; `cell.json` in it says that it is finished.
"""

import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from cnntrain.config.build import read_dataset, selection
from cnntrain.config.read import read_config
from cnntrain.config.schema import Fit, Options
from cnntrain.data.datasets.divide import limited
from cnntrain.data.datasets.splits import UNUSED, members
from cnntrain.data.storage.images import Dataset
from cnntrain.nn.precision import precision_for
from cnntrain.runs import records
from cnntrain.runs.check import check_fit
from cnntrain.runs.evaluation import EvaluationSetup, evaluation_folder, measure_split, write_evaluation
from cnntrain.runs.folder import CONFIG, RECORD, create_folder, lock_folder
from cnntrain.runs.images import divide_noted, image_choice, noted, refuse_unlike_record
from cnntrain.runs.load import load_run
from cnntrain.runs.resume import as_begun, finished_result
from cnntrain.runs.setup import build
from cnntrain.runs.train import Training
from cnntrain.runtime import disk
from cnntrain.runtime.devices import choose_device
from cnntrain.runtime.errors import CnntrainError, InUseError, StoppedError
from cnntrain.runtime.jsonfile import as_plain, flat, write_json
from cnntrain.runtime.memory import spent
from cnntrain.runtime.streams import forgiving
from cnntrain.tasks import task_for, task_of
from cnntrain.training import checkpoints

RENAME = "name another output_dir for a study of the images as they are"  # what helps when its images have changed
CELL, LOG = "cell.json", "log.txt"
SHARED: dict[str, Any] = {}  # the images that the cells of this process share: dataset, options and files


@dataclass(frozen=True)
class Variant:
    """A row of a study: one way of making a network, under every seed of the study."""

    name: str
    settings: Options  # of `fit`, under the study's seed
    overrides: tuple[str, ...] = ()  # of the command line: what makes it from the first variant
    change: "Callable[[Cell], None] | None" = None  # writes a trained run's changed weights; None: it is trained


@dataclass(frozen=True)
class Cell:
    """A variant under one seed: a run folder to be."""

    variant: Variant
    seed: int
    folder: Path
    settings: Options  # of `fit`, with the cell's seed and folder
    command: tuple[str, ...]  # the line that makes it alone
    start: Path | None = None  # the trained run whose weights it starts from, or changes

    @property
    def name(self) -> str:
        """The cell in words."""
        return f"{self.variant.name}, seed {self.seed}"


@dataclass(frozen=True)
class CellScores:
    """What a finished cell measured, `cell.json`: the task's headline number on training and on test images."""

    train_score: float
    test_score: float
    test_n: int  # images
    seconds: float  # that making and measuring it took


@dataclass(frozen=True)
class Message:
    """What becomes of a cell, told by its place in the list that is worked on."""

    kind: Literal["began", "done", "failed", "busy", "stopped"]
    cell: int
    scores: CellScores | None = None  # of one that is done
    reason: str = ""  # of one that failed
    signal: int = 0  # that stopped it


def work(cells: Sequence[Cell], tell: Callable[[Message], None]) -> None:
    """Make the cells that are not finished and that no other process holds, in order; tell what becomes of each."""
    SHARED.clear()
    earlier_choice.cache_clear()
    for number, cell in enumerate(cells):
        if finished_scores(cell.folder):
            continue
        try:
            with lock_folder(create_folder(cell.folder)):
                if finished_scores(cell.folder):
                    continue
                tell(Message("began", number))
                with spent(flat(cell.settings)):
                    tell(Message("done", number, make(cell)))
        except InUseError:
            tell(Message("busy", number))
        except StoppedError as stop:
            tell(Message("stopped", number, signal=stop.exit_code - 128))
            return
        except Exception as error:  # whatever happens to one cell, the others are made
            reason = str(error) if isinstance(error, CnntrainError) else f"{type(error).__name__}: {error}"
            tell(Message("failed", number, reason=" ".join(reason.split())))


def finished_scores(folder: Path) -> CellScores | None:
    """Return what a finished cell measured, None for one that is not finished."""
    if not (folder / CELL).is_file():
        return None
    return scores_of(records.cell(folder / CELL))


def scores_of(keys: Mapping[str, Any]) -> CellScores:
    """Return what `cell.json` holds."""
    headline = task_of(keys).headline.key
    return CellScores(keys[f"train_{headline}"], keys[f"test_{headline}"], keys["test_n"], keys["seconds"])


def make(cell: Cell) -> CellScores:
    """Train a cell, or change a trained network for it, and measure it on training and test images."""
    began = time.perf_counter()
    with output_to(cell.folder / LOG):
        dataset = shared_dataset(cell)
        if cell.variant.change:
            cell.variant.change(cell)
        else:
            train(cell, dataset)
            drop_training_state(cell.folder)
        measured = measure(cell, dataset)
    measured["seconds"] = time.perf_counter() - began
    write_json(cell.folder / CELL, measured)
    return scores_of(measured)


@contextlib.contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Send what a training says to the end of a file: many speak at once."""
    with (
        disk.appending(path) as handle,
        forgiving(handle) as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        yield


# Images.


def shared_dataset(cell: Cell) -> Dataset:
    """Return a cell's images, divided as an earlier run has noted; those that many cells draw from are read once."""
    options, data_root, run = cell.settings["dataset"], cell.settings["data_root"], run_of_images(cell)
    shared, seed = options | {"train_size": None}, cell.settings["seed"] if options["folds"] else 0
    files = None if run is None else noted(run)
    if files is not None:
        files = [member._replace(split="train") if member.split == UNUSED else member for member in files]
    elif run is not None and (run / RECORD).is_file():
        refuse_other_images(run, json.dumps(shared), data_root)
    asked = shared, data_root, seed
    if SHARED.get("options") != asked or files not in (None, SHARED["files"]):
        SHARED.clear()  # before the next are read
        dataset = divide_noted(read_dataset(shared, data_root), shared, data_root, seed, files, RENAME)
        SHARED.update(options=asked, dataset=dataset, files=members(dataset) if files is None else files)
    return limited(SHARED["dataset"], selection(options).train_size, cell.settings["seed"])


@functools.lru_cache
def refuse_other_images(run: Path, options: str, data_root: str) -> None:
    """Compare the images of a run that noted no files with its record, once."""
    refuse_unlike_record(run, None, json.loads(options), data_root, RENAME)


def run_of_images(cell: Cell) -> Path | None:
    """Return the run whose images a cell has to see: the trained one that it starts from, or one of its study."""
    if cell.start:
        return cell.start

    here = choice_of_images(cell.settings)
    cells = cell.folder.parents[1]
    begun = [place.parent for place in (cell.folder / CONFIG, *sorted(cells.glob(f"*/*/{CONFIG}")))]
    return next((place for place in begun if (place / CONFIG).is_file() and earlier_choice(place) == here), None)


def choice_of_images(settings: Options) -> Options:
    """Return what says which images a cell sees: folds are drawn from its seed."""
    options = settings["dataset"] | {"train_size": None}
    return image_choice(options) | ({"seed": settings["seed"]} if options["folds"] else {})


@functools.cache
def earlier_choice(folder: Path) -> Options:
    """Return which images the run in a folder sees, read once."""
    return choice_of_images(records.settings(folder))


# Training and measuring.


def train(cell: Cell, dataset: Dataset) -> None:
    """Train a cell as `fit` would, from where it stopped."""
    cfg = read_config(Fit, cell.settings)
    if (cell.folder / CONFIG).exists() and finished_result(cell.folder, cfg):
        return
    begun = bool(checkpoints.resumable(checkpoints.folder_of(cell.folder)))
    built = build(check_fit(as_begun(cfg, cell.folder) if begun else cfg, begun=begun), dataset)
    Training(built, cell.folder, as_plain(cell.settings), list(cell.command)).run()


def drop_training_state(folder: Path) -> None:
    """Keep the weights of a finished cell alone: a study of large networks would fill a disk with optimizer states."""
    place = checkpoints.folder_of(folder)
    state = checkpoints.load(place / checkpoints.LAST)
    if "optimizer" in state:
        checkpoints.save(place / checkpoints.LAST, checkpoints.without_training(state))
    (place / checkpoints.PREVIOUS).unlink(missing_ok=True)


def measure(cell: Cell, dataset: Dataset) -> dict[str, Any]:
    """Evaluate a cell's last weights on its training images, as they are, and once on the test images.

    Returns score and number of images of both; the evaluation of the test images is written into its folder.
    """
    net, info, _ = load_run(cell.folder, "last", any_task=True)
    cfg = read_config(Fit, cell.settings)
    device = choose_device(cfg.device)
    net = net.to(device).to(memory_format=torch.channels_last)
    precision = precision_for(cfg.trainer.precision, device, (net, info.shape))
    setup = EvaluationSetup(
        dataset.info.name, "last", device, precision, cfg.trainer.eval_batch_size, cfg.dataset["workers"]
    )
    scores: dict[str, Any] = {"task": task_for(info).name}
    for name in ("train", "test"):
        answers = measure_split(net, getattr(dataset, name), info, setup, name, title=name)
        headline = task_for(info).headline.key
        scores |= {f"{name}_{headline}": answers.score(info), f"{name}_n": len(answers.labels)}
    argv = ["cnntrain", "eval", f"run={cell.folder}", "weights=last"]
    write_evaluation(evaluation_folder(cell.folder, "test", "last"), cell.folder, answers, info, setup, argv)
    return scores
