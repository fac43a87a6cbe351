"""Going on with a run where it stopped: what a checkpoint holds, and what may have changed since."""

from collections.abc import Mapping, Set
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from cnntrain.config.schema import Fit
from cnntrain.runs import records
from cnntrain.runs.folder import RECORD, RESULTS, find_run, refuse_existing
from cnntrain.runs.load import refuse_other_network
from cnntrain.runs.setup import TrainingSetup
from cnntrain.runtime import disk, distributed
from cnntrain.runtime.devices import choose_device, choose_precision
from cnntrain.runtime.distributed import all_or_none, broadcast
from cnntrain.runtime.errors import CheckpointError, InputError, listed
from cnntrain.runtime.jsonfile import as_plain, flat
from cnntrain.runtime.progress import say
from cnntrain.training import checkpoints
from cnntrain.training.loop import TrainProgress
from cnntrain.training.schedule_events import freeze_spans

# What does not change a run's numbers, or only where it runs.
FREE = {
    *("device", "data_root", "output_dir", "resume", "check_resume", "plugins", "dataset.root", "dataset.workers"),
    "dataset.cache",
    *("trainer.log_every", "trainer.checkpoint_seconds", "trainer.keep_every", "trainer.tensorboard"),
    *("trainer.profile", "trainer.graph", "trainer.compile", "trainer.precision"),
}
FORMAT = 2  # of a checkpoint; in the first, progress held the best validation's headline and loss alone


def wanted_folder(cfg: Fit) -> Path | None:
    """Return the folder that was asked for, None for a new one.

    Raises `InputError` when it holds a run that must not be continued, or none that could be.
    """
    if cfg.resume in ("auto", "never"):
        folder = Path(cfg.output_dir) if cfg.output_dir else None
        if folder and cfg.resume == "never" and distributed.ATTEMPT == "0":
            refuse_existing(folder)
        return folder
    if cfg.output_dir and Path(cfg.output_dir) != Path(cfg.resume):
        raise InputError(f"resume={cfg.resume} and output_dir={cfg.output_dir} name different folders")
    return find_run(cfg.resume, "resume")


def finished_result(folder: Path, cfg: Fit) -> dict[str, Any] | None:
    """Return the result of a run that has nothing left to do; until more epochs are done it keeps that of the fewer."""
    if not (folder / RESULTS).exists() or records.record(folder).get("exit") != "done":
        return None
    if records.settings(folder)["trainer"]["epochs"] != cfg.trainer.epochs:
        return None
    return records.result(folder) | {"run_dir": str(folder)}


def as_begun(cfg: Fit, folder: Path) -> Fit:
    """Return the configuration of a run that goes on, computed in the precision in which it was begun.

    It may be another one where that is asked for, on another kind of device, and where this one lacks it.
    """
    if not (folder / RECORD).exists():
        return cfg
    record, device = records.record(folder), choose_device(cfg.device)
    begun, same_kind = record["precision"], record["device"].partition(":")[0] == device.type
    if cfg.trainer.precision != "auto" or not same_kind or begun not in ("fp32", choose_precision("auto", device)):
        return cfg
    return replace(cfg, trainer=replace(cfg.trainer, precision=begun))


def refuse_changes(old: Mapping[str, Any], new: Mapping[str, Any], free: Set[str] | None = None) -> None:
    """Raise `InputError` naming the keys in which a configuration differs from that of the run it would continue.

    An option that is off and that the run did not know yet is no difference. Another number of epochs is the same run
    under a constant learning rate only: any other schedule would have gone another way, and so would shares of the
    whole run. `free` names other keys that may differ than those of a run.
    """
    before, after = ({key: None if value == {} else value for key, value in flat(s).items()} for s in (old, new))
    if free is None:
        free = FREE | ({"trainer.epochs"} if new["schedule"]["name"] == "constant" else set())
    changed = [
        key
        for key in sorted(before.keys() | after.keys())
        if key not in free
        and as_plain(before.get(key)) != as_plain(after.get(key))
        and (key in before or after[key] is not False)
    ]
    if changed:
        shown = ", ".join(f"{key} ({before.get(key)} → {after.get(key)})" for key in changed)
        raise InputError(f"output_dir already holds a run with other settings: {shown}; name another folder")
    done, asked = before["trainer.epochs"], after["trainer.epochs"]
    for key in ("freeze", "resize") if asked != done else ():
        if any(0 < share < 1 for span in freeze_spans(new["trainer"][key]).values() for share in span):
            raise InputError(
                f"trainer.epochs ({done} → {asked}): trainer.{key}={new['trainer'][key]} are shares of the whole run, "
                "so with other epochs they are other steps; name another folder"
            )


def snapshot(built: TrainingSetup, at: TrainProgress, records: int) -> checkpoints.State:
    """Return a checkpoint of a run that has written so many records."""
    where = {"threads": torch.get_num_threads(), "precision": built.precision, "torch": str(torch.__version__)}
    where |= {"processes": distributed.WORLD, "compiled": built.cfg.trainer.compile}
    return {
        "format": FORMAT,
        **built.train_step.state_dict(),
        "progress": asdict(at),
        "records": records,
        "classes": list(built.dataset.info.classes),
        "made": where | {"device": built.device.type},
    }


def restore(built: TrainingSetup, folder: Path) -> tuple[TrainProgress, int]:
    """Continue from the newest whole checkpoint of a run; return its place and how many records it knows of.

    Of several processes the first reads it. Raises `CheckpointError` when every checkpoint is damaged or the newest is
    none of this training, and `InputError` when it has come further than the training is to go.
    """
    with all_or_none():
        checkpoint = newest(checkpoints.folder_of(folder)) if distributed.RANK == 0 else None
    checkpoint = broadcast(checkpoint)
    if checkpoint is None:
        if distributed.WORLD > 1:
            built.train_step.trained.share_weights()
        return TrainProgress(), 0
    with all_or_none():
        return continue_from(checkpoint, built, folder)


def newest(folder: Path) -> checkpoints.Checkpoint | None:
    """Return the newest whole checkpoint in `folder`, or None, and say what is wrong with newer ones."""
    disk.clean(folder)
    checkpoint = checkpoints.load_newest(folder)
    for problem in checkpoint.problems if checkpoint else ():
        say(f"warning: {problem}; using the checkpoint before it")
    return checkpoint


def continue_from(checkpoint: checkpoints.Checkpoint, built: TrainingSetup, folder: Path) -> tuple[TrainProgress, int]:
    """Put a checkpoint's state into a training, and say what is not as it was when it was made.

    Return its place and its number of records. Nothing is loaded before all keys and shapes have been compared: a fused
    optimizer reads as many numbers of its state as its parameter has.
    """
    path, state, train_step = checkpoint.path, checkpoint.state, built.train_step
    if state.get("format") not in range(1, FORMAT + 1):
        raise CheckpointError(f"{path} has format {state.get('format')}; this version reads formats up to {FORMAT}")
    refuse_other_network(path, train_step.trained.net, state["model"])
    at = read_progress(path, state, train_step.task.headline.key)
    refuse_beyond(path, at, built, folder)
    if at.step:
        train_step.prime(built.dataset.info.shape, at.step)
    now, made = snapshot(built, at, 0), state.get("made")
    expected = {key: value for key, value in now.items() if key not in ("format", "progress")}
    expected["made"] = made if isinstance(made, dict) else {}  # whatever it tells
    if differing := list(checkpoints.differences({key: state.get(key) for key in expected}, expected)):
        raise CheckpointError(f"{path} does not fit this training: {listed(differing)} differ")
    if state["classes"] != now["classes"]:
        differing = sorted({*map(str, state["classes"])} ^ {*now["classes"]}) or ["their order"]
        raise CheckpointError(f"{path} was trained on other classes: {', '.join(differing)} differ")
    for key, value in state["made"].items():
        if now["made"].get(key, value) != value:
            say(f"warning: {key} was {value} and is {now['made'][key]}; the numbers will not repeat to the bit")
    train_step.load_state_dict(state)
    return at, state["records"]


def read_progress(path: Path, state: checkpoints.State, headline: str) -> TrainProgress:
    """Return how far a checkpoint's training has come; `headline` is the key of the number that says which is best.

    Raises `CheckpointError` when it does not say so.
    """
    progress = dict(state["progress"]) if isinstance(state.get("progress"), dict) else {}
    if state["format"] == 1:
        progress["best"] = {key: progress.pop(f"best_{key}", None) for key in (headline, "loss")}
    expected, best = asdict(TrainProgress()), progress.get("best")
    if isinstance(best, dict) and best:
        expected["best"] = best | {headline: 0.0, "loss": 0.0}
    if differing := list(checkpoints.differences(progress, expected, "progress")):
        raise CheckpointError(f"{path} does not say which step it is of: {listed(differing)} differ")
    return TrainProgress(**progress)


def refuse_beyond(path: Path, at: TrainProgress, built: TrainingSetup, folder: Path) -> None:
    """Raise an error for a checkpoint that lies behind the training's last step: `InputError` for too few epochs."""
    epochs, taken = built.cfg.trainer.epochs, -(-at.step // built.per_epoch)
    if taken <= epochs:
        return
    if epochs < records.settings(folder)["trainer"]["epochs"]:
        raise InputError(
            f"trainer.epochs={epochs} is fewer than the {taken} that the run in {folder} has done; take {taken} or "
            "more, or name another folder"
        )
    raise CheckpointError(f"{path} stands at step {at.step:,}, and {epochs} epochs are {epochs * built.per_epoch:,}")


def same(a: object, b: object) -> bool:
    """Say whether two states agree to the bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
