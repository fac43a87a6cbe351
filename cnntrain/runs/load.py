"""Networks back from run folders."""

import contextlib
import hashlib
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cnntrain.config import pretrained
from cnntrain.config.build import build_model
from cnntrain.data.storage.images import DatasetInfo
from cnntrain.nn.stages import new_stages
from cnntrain.runs import records
from cnntrain.runs.folder import find_run, read_metrics
from cnntrain.runtime.errors import CheckpointError, InputError, listed
from cnntrain.runtime.progress import say
from cnntrain.tasks import kind_of
from cnntrain.training import checkpoints


def read_info(record: Mapping[str, Any]) -> DatasetInfo:
    """Return the information of the dataset that a run was trained on."""
    data = record["data"]
    channels, height, width = data["shape"]
    return DatasetInfo(
        data["name"],
        tuple(data["classes"]),
        (channels, height, width),
        tuple(data["mean"]),
        tuple(data["std"]),
        data.get("targets", "classes"),
        tuple(data.get("words", ())),
        data.get("called", ""),
    )


def load_run(
    folder: Path, weights: str, *, any_task: bool = False
) -> tuple[nn.Sequential, DatasetInfo, dict[str, Any]]:
    """Return a run's network with its best or last weights (the moving average's where one is kept), dataset
    information and configuration.

    Raises `CheckpointError` when the weights are missing, damaged or those of another network, and unless it may be of
    `any_task`, `InputError` for a network that does not give one class an image.
    """
    settings, record = records.settings(folder), records.record(folder)
    info = read_info(record)
    if info.targets != "classes" and not any_task:
        raise InputError(f"{folder} gives {kind_of(info).gives}, and this is of networks that give one class an image")
    net = rebuild(settings, info, seed=settings["seed"])
    path = checkpoints.path_of(folder, weights)
    state = checkpoints.load(path)
    load_weights(net, path, state)
    if weights == "last":
        say_if_stale(folder, path, state)
    return net.eval(), info, settings


def say_if_stale(folder: Path, path: Path, state: checkpoints.State) -> None:
    """Say of a checkpoint that the run went further: its last save failed, or it was killed, or it is under way."""
    at = state.get("progress", {}).get("step", 0)
    end = max((record.get("step", 0) for record in read_metrics(folder)), default=0)
    if at < end:
        say(f"warning: {path} is of step {at:,}, but the run reached step {end:,}")


def rebuild(settings: Mapping[str, Any], info: DatasetInfo, *, seed: int = 0, device: str = "cpu") -> nn.Sequential:
    """Build the network of a run's configuration."""
    with naming_plugins(settings):
        return build_model(pretrained.without_weights(settings["model"]), info, seed=seed, device=device)


@contextlib.contextmanager
def naming_plugins(settings: Mapping[str, Any]) -> Iterator[None]:
    """Say of what a run names and is not known here which plugins it was trained with: they are never imported
    because a record names them.
    """
    try:
        yield
    except InputError as error:
        if not settings.get("plugins") or pretrained.is_typed("plugins"):
            raise
        word = shlex.quote(f"plugins=[{','.join(map(str, settings['plugins']))}]")
        raise InputError(f"this run was trained with {word}; add {word} ({error})") from error


def stored_weights(path: Path, state: checkpoints.State) -> dict[str, Tensor]:
    """Return the state dict to evaluate from a checkpoint."""
    weights = state.get("ema", state.get("model"))
    if not isinstance(weights, dict):
        raise CheckpointError(f"{path} holds no weights")
    return weights


def load_weights(net: nn.Module, path: Path, state: checkpoints.State) -> None:
    """Fill a network from a checkpoint; differing keys or shapes are named in a `CheckpointError`."""
    weights = stored_weights(path, state)
    refuse_other_network(path, net, weights)
    net.load_state_dict(weights)


def refuse_other_network(path: Path, net: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Raise `CheckpointError` naming the keys in which the weights in `path` do not fit a network."""
    if differing := list(checkpoints.differences(weights, net.state_dict())):
        raise CheckpointError(f"{path} belongs to another network: {listed(differing)} differ")


def weights_digest(folder: Path, weights: str) -> str:
    """Return a short digest of a run's checkpoint.

    Raises `CheckpointError` when there is none.
    """
    path = checkpoints.path_of(folder, weights)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()[:16]


def start_from(net: nn.Sequential, run: str, head: str | None = None) -> dict[str, Any]:
    """Give a new network the stages of a run whose tensors fit; return which were kept and which are new.

    `head` says which stages are new whether they fit or not (see `new_stages`).

    Raises `InputError` when no stage fits.
    """
    folder = find_run(run, "init_from")
    left_out = new_stages(dict(net.named_children()), head)
    fitting = {name: None if name in left_out else state for name, state in fitting_weights(folder, net).items()}
    loaded, new = ([name for name, state in fitting.items() if (state is None) is is_new] for is_new in (False, True))
    for name, state in fitting.items():
        if state is not None:
            net.get_submodule(name).load_state_dict(state)
    if not loaded:
        raise InputError(f"init_from={run}: none of its stages fits this network")
    say(f"starting from {folder}: kept {', '.join(loaded)}; new {', '.join(new) or 'none'}")
    return {"run": str(folder), "kept": loaded, "new": new, "weights": weights_digest(folder, "best")}


def fitting_weights(folder: Path, net: nn.Sequential) -> dict[str, dict[str, Tensor] | None]:
    """Return what a run's best checkpoint has for each stage of a network that has tensors, None where it is another.

    Raises `CheckpointError` when there is no checkpoint.
    """
    path = checkpoints.path_of(folder, "best")
    weights, fitting = stored_weights(path, checkpoints.load(path)), dict[str, dict[str, Tensor] | None]()
    for name, stage in net.named_children():
        if expected := stage.state_dict():
            state = {key: weights.get(f"{name}.{key}") for key in expected}
            differs = any(True for _ in checkpoints.differences(state, expected))
            fitting[name] = None if differs else {key: tensor for key, tensor in state.items() if tensor is not None}
    return fitting
