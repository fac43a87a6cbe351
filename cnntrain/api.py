"""The public Python interface: networks, features and data as torch knows them, and the commands as functions.

A function that stands for a command takes `settings`, the keys and values of its command line: `{"model": "resnet20",
"trainer.epochs": 10}` is `model=resnet20 trainer.epochs=10`. It does exactly what the command does, run folder
included, prints nothing on standard output, and returns the object that `--json` prints. Its keys are stable. What
goes wrong is raised as a `cnntrain.runtime.errors.CnntrainError`, whose text is the line that the command prints.
"""

import contextlib
import io
import json
import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cnntrain.cli import groups
from cnntrain.cli.launcher import call
from cnntrain.cli.main import config_dir
from cnntrain.cli.output import as_json
from cnntrain.cli.overrides import spelled
from cnntrain.config import build
from cnntrain.config.read import read_config
from cnntrain.config.schema import Options
from cnntrain.config.validate import validated
from cnntrain.data.loading.loader import eval_batches
from cnntrain.data.storage.images import Dataset, DatasetInfo, Pixels, Split
from cnntrain.nn import geometry
from cnntrain.nn.geometry import StageGeometry
from cnntrain.nn.shapes import describe_shape
from cnntrain.nn.stages import record, tail, walk  # noqa: F401 - they are part of the interface as they are
from cnntrain.runs import load
from cnntrain.runs.folder import find_run
from cnntrain.runtime.errors import InputError, unknown
from cnntrain.runtime.jsonfile import as_plain
from cnntrain.runtime.ranges import Natural

Settings = Mapping[str, object]


@dataclass(frozen=True)
class Run:
    """A trained network, in evaluation mode, with what it was trained on and how."""

    folder: Path
    net: nn.Sequential  # named stages
    info: DatasetInfo  # classes, shape (channels, height, width), mean and std of its images
    settings: dict[str, Any]  # config.json


# Networks.


def build_model(
    name: str, shape: tuple[int, int, int], classes: int, *, seed: int = 0, **options: Any
) -> nn.Sequential:
    """Return a new network of named stages for images of `shape` (channels, height, width).

    `options` are those of `model=<name>`: `remove=["conv2"]`, `widen={"conv1": 2.0}`, `antialias=True` and the model's
    own. The same seed gives the same weights.

    Raises `InputError` for an unknown model or option, and for images that the network cannot take.
    """
    refuse_shape(shape, "(channels, height, width): (3, 32, 32)", 3)
    if not isinstance(classes, int) or classes < 1:
        raise InputError(f"classes={classes!r} should be a number of classes: 10")
    validated(seed, Natural, "seed")
    info = DatasetInfo("", tuple(map(str, range(classes))), shape, (0.0,) * shape[0], (1.0,) * shape[0])
    return build.build_model({"name": name, **options}, info, seed=seed)


def load_run(run: str | Path = "latest", weights: Literal["best", "last"] = "best") -> Run:
    """Return the network of a run's folder with its best or last weights; "latest" is the newest run from here.

    Raises `InputError` for a folder that holds no run, `CheckpointError` for weights that are missing or damaged.
    """
    if weights not in ("best", "last"):
        raise unknown("weights", str(weights), ("best", "last"))
    folder = find_run(str(run))
    return Run(folder, *load.load_run(folder, weights, any_task=True))


def describe(net: nn.Sequential, shape: tuple[int, int, int]) -> list[StageGeometry]:
    """Return one row a stage for images of `shape`: output, receptive field and stride in pixels, parameters, MACs.

    Receptive field, stride and connections are None for layers of other libraries whose window is not known.
    """
    refuse_shape(shape, "(3, 32, 32)")
    try:
        return geometry.describe(net, shape)[0]
    except RuntimeError as error:
        raise InputError(
            f"the network takes no images of {describe_shape(shape)}: {str(error).splitlines()[0]}"
        ) from error


def features(run: Run | str | Path, images: Split | Tensor, stage: str, *, batch_size: int = 500) -> Tensor:
    """Return what leaves a stage, float32 [N, …], for a split or for pixels as it holds them: uint8 [N, H, W, C].

    `run` is what `load_run` returns, or a run's folder. The images are normalised as in training. Raises `StageError`
    for an unknown stage, `InputError` for images of another kind or shape.
    """
    run = run if isinstance(run, Run) else load_run(run)
    if not isinstance(images, Split | Tensor):
        raise InputError("images should be a split or pixels, uint8 [N, H, W, C]")
    if isinstance(images, Tensor):
        channels, height, width = run.info.shape
        if images.dtype != torch.uint8 or images.shape[1:] != (height, width, channels):
            wanted = f"uint8 [N, {height}, {width}, {channels}]"
            raise InputError(f"images are {images.dtype} {list(images.shape)}; this run takes {wanted}")
        images = Split(Pixels(images), torch.zeros(len(images), dtype=torch.int64))
    device = next((parameter.device for parameter in run.net.parameters()), torch.device("cpu"))
    outputs = []
    with torch.no_grad():
        for x, _ in eval_batches(images, run.info, batch_size=batch_size, device=device):
            outputs.append(deque(walk(run.net, x, upto=stage), maxlen=1).pop()[1])
    return torch.cat(outputs)


# Data.


@dataclass(frozen=True)
class Data:
    """The keys of `cnntrain fit` that say which images there are."""

    dataset: Options
    data_root: str
    seed: Natural


def load_dataset(name: str, *, seed: int = 0, data_root: str | None = None, **options: Any) -> Dataset:
    """Return a dataset with its `info` and its splits `train`, `val` and `test` (None where there is none).

    `options` are those of `dataset=<name>`, such as `val_size=0.1`. A split has `labels`, int64 [N], and `source.read`,
    which takes positions and gives pixels, uint8 [N, H, W, C]. `data_root` is where datasets lie: the environment's
    CNNTRAIN_DATA or `data` unless given. The images of a run are `load_dataset(**run.settings["dataset"],
    seed=run.settings["seed"], data_root=run.settings["data_root"])`.

    Raises `InputError` for an unknown dataset or option, and for files that are missing.
    """
    defaults = groups.compose([config_dir()], "fit", {"dataset": name}).keys.get("dataset", {})
    root = data_root or os.environ.get("CNNTRAIN_DATA", "data")
    cfg = read_config(Data, {"dataset": {**defaults, **options, "name": name}, "data_root": root, "seed": seed})
    return build.load_dataset(cfg.dataset, cfg.data_root, cfg.seed)


# Commands.


def train(settings: Settings) -> dict[str, Any]:
    """Train a network as `cnntrain fit` does and return its result; `run_dir` is the run's folder."""
    return command("fit", settings)


def evaluate(run: str | Path, settings: Settings | None = None) -> dict[str, Any]:
    """Measure a run on a split as `cnntrain eval` does: accuracy with its 95 % interval, loss, a row a class."""
    return command("eval", {"run": run, **checked(settings)})


def compare(runs: Sequence[str | Path], settings: Settings | None = None) -> dict[str, Any]:
    """Compare runs as `cnntrain compare` does; rows in `runs`, `groups`, `over_images` and `over_seeds`."""
    if isinstance(runs, str | Path) or not isinstance(runs, Sequence):
        raise InputError("runs should be a list of folders: ['runs/a', 'runs/b']")
    return command("compare", {"runs": list(runs), **checked(settings)})


def invariance(run: str | Path, settings: Settings | None = None) -> dict[str, Any]:
    """Measure how far transformations move a run's features, as `cnntrain invariance` does; rows in `rows`."""
    return command("invariance", {"run": run, **checked(settings)})


def ablate(settings: Settings) -> dict[str, Any]:
    """Train with and without layers, seed by seed, as `cnntrain ablate` does; rows in `rows` and `table`."""
    return command("ablate", settings)


def checked(settings: Settings | None, *, missing: bool = True) -> Settings:
    """Return settings; where they may be missing, none for None.

    Raises `InputError` for what is no mapping.
    """
    if not isinstance(settings, Mapping) and not (settings is None and missing):
        raise InputError('settings should be a dictionary of keys and values: {"model": "lenet5", "trainer.epochs": 1}')
    return settings or {}


def command(name: str, settings: Settings) -> dict[str, Any]:
    """Run a command with settings, and return what `--json` prints."""
    words = [f"{key}={spelled(as_plain(value))}" for key, value in checked(settings, missing=False).items()]
    with contextlib.redirect_stdout(io.StringIO()):
        result: dict[str, Any] = json.loads(as_json(call(name, words, config_dir())))
    return result


def refuse_shape(shape: object, example: str, dimensions: int | None = None) -> None:
    """Raise `InputError` for what is no shape, or has another number of dimensions."""
    counted = isinstance(shape, Sequence) and all(isinstance(n, int) and n > 0 for n in shape)
    if not counted or (dimensions is not None and len(shape) != dimensions):  # type: ignore[arg-type]
        raise InputError(f"shape={shape!r} should be {example}")
