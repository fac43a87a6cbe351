"""The cells of a study, made: each an ordinary run folder, claimed by its lock, with its evaluations beside it."""

import contextlib
import copy
import functools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cnntrain.config import pretrained
from cnntrain.config.build import build_model, selection
from cnntrain.config.read import read_config
from cnntrain.config.schema import Fit
from cnntrain.data.datasets.registry import limited
from cnntrain.data.datasets.splits import UNUSED, members
from cnntrain.data.storage.images import Dataset
from cnntrain.runs import records, setup
from cnntrain.runs.evaluation import evaluation_folder, keep_evaluation, measure_split
from cnntrain.runs.folder import CONFIG, RECORD, SPLITS, create_folder, lock_folder
from cnntrain.runs.images import image_choice, noted, read_noted, refuse_unlike_record
from cnntrain.runs.load import load_run, weights_digest
from cnntrain.runs.resume import finished_result
from cnntrain.runs.train import Training
from cnntrain.runtime import disk
from cnntrain.runtime.devices import choose_device, choose_precision
from cnntrain.runtime.errors import CnntrainError, InUseError, StoppedError
from cnntrain.runtime.jsonfile import as_plain, flat, write_json
from cnntrain.runtime.memory import spent
from cnntrain.runtime.seeding import generator
from cnntrain.runtime.streams import forgiving
from cnntrain.studies.ablation.variants import TRAINING
from cnntrain.studies.grid import Cell
from cnntrain.training import checkpoints

ANEW = "name another output_dir for a study of the images as they are"  # what helps when its images have changed
CELL, LOG = "cell.json", "log.txt"
HELD: dict[str, Any] = {}  # the images that the cells of this process share: dataset, options and files
Message = dict[str, Any]  # kind (began, done, failed, busy, stopped), cell (its number) and what belongs to the kind


def work(cells: Sequence[Cell], tell: Callable[[Message], None]) -> None:
    """Make the cells that are not finished and that no other process holds, in order; tell what becomes of each."""
    HELD.clear()
    for number, cell in enumerate(cells):
        if finished(cell.folder):
            continue
        try:
            with lock_folder(create_folder(cell.folder)):
                if finished(cell.folder):
                    continue
                tell({"kind": "began", "cell": number})
                with spent(flat(cell.settings)):
                    tell({"kind": "done", "cell": number} | make(cell))
        except InUseError:
            tell({"kind": "busy", "cell": number})
        except StoppedError as stop:
            tell({"kind": "stopped", "cell": number, "signal": stop.exit_code - 128})
            return
        except Exception as error:  # whatever happens to one cell, the others go on
            reason = str(error) if isinstance(error, CnntrainError) else f"{type(error).__name__}: {error}"
            tell({"kind": "failed", "cell": number, "reason": " ".join(reason.split())})


def finished(folder: Path) -> dict[str, Any] | None:
    """Return what a finished cell found, None for one that is not."""
    return records.read_record(folder / CELL, records.CellRecord) if (folder / CELL).is_file() else None


def make(cell: Cell) -> dict[str, Any]:
    """Train a cell, or change a trained network for it, and measure it on training and test images; return both."""
    began = time.perf_counter()
    with quiet(cell.folder / LOG):
        dataset = shared_dataset(cell)
        if cell.mode in TRAINING:
            train(cell, dataset)
            slim(cell.folder)
        else:
            change(cell)
        found = measure(cell, dataset)
    found["seconds"] = time.perf_counter() - began
    write_json(cell.folder / CELL, found)
    return found


@contextlib.contextmanager
def quiet(path: Path) -> Iterator[None]:
    """Send what a training says to the end of a file: many speak at once."""
    with (
        disk.appending(path) as handle,
        forgiving(handle) as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        yield


def shared_dataset(cell: Cell) -> Dataset:
    """Return a cell's images, divided as an earlier run has noted; those that many cells draw from are read once."""
    options, data_root, run = cell.settings["dataset"], cell.settings["data_root"], looks_at(cell)
    shared = options | {"train_size": None}
    files = None if run is None else noted(run)
    if files is not None:
        files = [member._replace(split="train") if member.split == UNUSED else member for member in files]
    elif run is not None and (run / RECORD).is_file():
        verify(run, json.dumps(shared), data_root)
    if HELD.get("options") != (shared, data_root) or files not in (None, HELD["files"]):
        HELD.clear()  # before the next are read
        dataset = read_noted(shared, data_root, 0, files, ANEW)
        HELD.update(options=(shared, data_root), dataset=dataset, files=members(dataset) if files is None else files)
    return limited(HELD["dataset"], selection(options).train_size, cell.settings["seed"])


@functools.lru_cache
def verify(run: Path, options: str, data_root: str) -> None:
    """Hold the images of a run that noted no files against its record, once."""
    refuse_unlike_record(run, None, json.loads(options), data_root, ANEW)


def looks_at(cell: Cell) -> Path | None:
    """Return the run whose images a cell has to see: the trained one that it changes, or an earlier of its study."""
    if cell.run:
        return Path(cell.run)

    def like(folder: Path) -> bool:
        options = [records.settings(folder)["dataset"], cell.settings["dataset"]]
        first, second = (image_choice(each | {"train_size": None}) for each in options)
        return first == second

    cells = cell.folder.parents[1]
    begun = [place.parent for place in (cell.folder / CONFIG, *sorted(cells.glob(f"*/*/{CONFIG}")))]
    return next((place for place in begun if (place / CONFIG).is_file() and like(place)), None)


def train(cell: Cell, dataset: Dataset) -> None:
    """Train a cell as `fit` would, from where it stopped."""
    cfg = read_config(Fit, cell.settings)
    if (cell.folder / CONFIG).exists() and finished_result(cell.folder, cfg):
        return
    built = setup.build(cfg, dataset, begun=bool(checkpoints.begun(cell.folder / "checkpoints")))
    Training(built, cell.folder, as_plain(cell.settings), ["cnntrain", "fit", *cell.words]).run()


def slim(folder: Path) -> None:
    """Keep of a finished cell the weights alone: a study of large networks would fill a disk with optimizer states."""
    place = folder / "checkpoints"
    state = checkpoints.load(place / checkpoints.LAST)
    if "optimizer" in state:
        checkpoints.save(place / checkpoints.LAST, evaluated(state))
    (place / checkpoints.PREVIOUS).unlink(missing_ok=True)


def evaluated(state: checkpoints.State) -> checkpoints.State:
    """Return a checkpoint without what only further training needs."""
    return {key: value for key, value in state.items() if key not in ("optimizer", "sums", "heads")}


def change(cell: Cell) -> None:
    """Write a trained network without some stages, or with other weights in them, as a run of its own."""
    assert cell.run is not None
    source = Path(cell.run)
    net, info, settings = load_run(source, "last")
    if cell.mode == "lesion":
        weights = {key: value for key, value in net.state_dict().items() if key.partition(".")[0] not in cell.stages}
    else:
        options, seed = settings["model"], settings["seed"]
        if cell.mode == "rerandomize":
            options, seed = pretrained.without_weights(options), int(generator(seed, "rerandomize").integers(2**31))
        fresh = build_model(options, info, seed=seed)
        weights = put_back(net, fresh, cell.stages).state_dict()
    state = checkpoints.load(source / "checkpoints" / checkpoints.LAST)
    kept = {key: value for key, value in evaluated(state).items() if key not in ("model", "ema")}
    checkpoints.save(cell.folder / "checkpoints" / checkpoints.LAST, kept | {"model": weights})
    made = {"made_from": str(source), "made_from_weights": weights_digest(source, "last")}
    record = records.record(source) | made | {"mode": cell.mode, "stages": cell.stages}
    if (source / SPLITS).is_file():
        disk.write(cell.folder / SPLITS, (source / SPLITS).read_bytes())
    write_json(cell.folder / RECORD, record)
    write_json(cell.folder / CONFIG, cell.settings)


def put_back(net: nn.Sequential, fresh: nn.Sequential, stages: Sequence[str]) -> nn.Sequential:
    """Return a copy of `net` with the weights of `fresh` in some stages; running statistics go with them.

    Weights that are never trained stay: they are their own beginning.
    """
    found = copy.deepcopy(net)
    for name in stages:
        stage = found.get_submodule(name)
        fixed = {key: weight for key, weight in stage.named_parameters() if not weight.requires_grad}
        stage.load_state_dict(fresh.get_submodule(name).state_dict() | fixed)
    return found


def measure(cell: Cell, dataset: Dataset) -> dict[str, Any]:
    """Evaluate a cell's last weights on its training images, as they are, and once on the test images."""
    net, info, _ = load_run(cell.folder, "last")
    cfg = read_config(Fit, cell.settings)
    device = choose_device(cfg.device)
    net, precision = (
        net.to(device).to(memory_format=torch.channels_last),
        choose_precision(cfg.trainer.precision, device),
    )
    size, workers = cfg.trainer.eval_batch_size, cfg.dataset["workers"]
    found: dict[str, Any] = {}
    for name in ("train", "test"):
        measured = measure_split(
            net,
            getattr(dataset, name),
            info,
            batch_size=size,
            workers=workers,
            device=device,
            precision=precision,
            title=name,
        )
        right = measured.outputs.logits.argmax(dim=1) == measured.outputs.labels
        found |= {f"{name}_top1": int(right.sum()) / len(right), f"{name}_n": len(right)}
    words = {"split": "test", "dataset": dataset.info.name, "weights": "last", "tta": "none"}
    made = {"device": str(device), "precision": precision, "other_dataset": None}
    argv = ["cnntrain", "eval", f"run={cell.folder}", "weights=last"]
    target = evaluation_folder(cell.folder, "test", "last")
    keep_evaluation(target, cell.folder, measured, info, words, argv, made)
    return found
