"""Going on with a run where it stopped: what a checkpoint holds, and what may have changed since."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from cnntrain import ranks, runs
from cnntrain.commands.loading import refuse_other_network
from cnntrain.commands.session import Session
from cnntrain.errors import CheckpointError, InputError
from cnntrain.progress import say
from cnntrain.schema import Fit
from cnntrain.training import checkpoints
from cnntrain.training.loop import Progress

# What does not change a run's numbers, or only where it runs.
FREE = {
    *("device", "data_root", "output_dir", "resume", "check_resume", "plugins", "dataset.root", "dataset.workers"),
    "dataset.cache",
    *("trainer.log_every", "trainer.checkpoint_seconds", "trainer.keep_every", "trainer.tensorboard"),
    *("trainer.profile", "trainer.graph", "trainer.compile"),
}


def wanted_folder(cfg: Fit) -> Path | None:
    """Return the folder that was asked for, None for a new one.

    Raises `InputError` when it holds a run that must not be continued, or none that could be.
    """
    if cfg.resume in ("auto", "never"):
        folder = Path(cfg.output_dir) if cfg.output_dir else None
        if folder and cfg.resume == "never" and ranks.ATTEMPT == "0":
            runs.refuse_existing(folder)
        return folder
    if cfg.output_dir and Path(cfg.output_dir) != Path(cfg.resume):
        raise InputError(f"resume={cfg.resume} and output_dir={cfg.output_dir} name different folders")
    return runs.find(cfg.resume)


def finished_result(folder: Path, cfg: Fit) -> dict[str, Any] | None:
    """Return the result of a run that has nothing left to do."""
    if not (folder / runs.RESULTS).exists():
        return None
    result = runs.read_json(folder / runs.RESULTS)
    before = runs.read_json(folder / runs.CONFIG)["trainer"]["epochs"]
    return result | {"run_dir": str(folder)} if before == cfg.trainer.epochs else None


def refuse_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise `InputError` naming the keys in which a configuration differs from that of the run it would continue.

    More epochs are the same run under a constant learning rate only: any other schedule would have gone another way.
    """
    before, after = runs.flat(old), runs.flat(new)
    free = FREE | ({"trainer.epochs"} if new["schedule"]["name"] == "constant" else set())
    changed = [
        key
        for key in sorted(before.keys() | after.keys())
        if key not in free and runs.plain(before.get(key)) != runs.plain(after.get(key))
    ]
    if changed:
        shown = ", ".join(f"{key} ({before.get(key)} → {after.get(key)})" for key in changed)
        raise InputError(f"output_dir already holds a run with other settings: {shown}; name another folder")


def snapshot(session: Session, at: Progress, records: int) -> checkpoints.State:
    """Return a checkpoint of a run that has written so many records."""
    where = {"threads": torch.get_num_threads(), "precision": session.precision, "torch": str(torch.__version__)}
    where |= {"processes": ranks.WORLD, "compiled": session.cfg.trainer.compile}
    return {
        "format": 1,
        **session.learner.state(),
        "progress": asdict(at),
        "records": records,
        "classes": list(session.dataset.card.classes),
        "made": where | {"device": session.device.type},
    }


def restore(session: Session, folder: Path) -> tuple[Progress, int]:
    """Continue from the newest whole checkpoint of a run; return its place and how many records it knows of.

    Of several processes the first reads it. Raises `CheckpointError` when every checkpoint is damaged, or belongs to
    another network or to other classes.
    """
    with ranks.agreed():
        state = newest(folder / "checkpoints") if ranks.RANK == 0 else None
    state = ranks.told(state)
    if state is None:
        if ranks.WORLD > 1:
            session.learner.start_alike()
        return Progress(), 0
    with ranks.agreed():
        continue_from(state, session, folder)
    return Progress(**state["progress"]), state["records"]


def newest(folder: Path) -> checkpoints.State | None:
    """Return the newest whole checkpoint in `folder`, or None, and say what is wrong with newer ones."""
    checkpoints.clean(folder)
    state, problems = checkpoints.load_newest(folder)
    for problem in problems:
        say(f"warning: {problem}; using the checkpoint before it")
    return state


def continue_from(state: checkpoints.State, session: Session, folder: Path) -> None:
    """Put a checkpoint's state into a session, and say what is not as it was when it was made."""
    refuse_other_network(folder, session.learner.net, state["model"])
    now = snapshot(session, Progress(), 0)
    if state["classes"] != now["classes"]:
        differing = ", ".join(sorted(set(state["classes"]) ^ set(now["classes"]))) or "their order"
        raise CheckpointError(f"{folder} has learnt other classes: {differing} differ")
    for key, value in state["made"].items():
        if now["made"][key] != value:
            say(f"warning: {key} was {value} and is {now['made'][key]}; the numbers will not repeat to the bit")
    try:
        session.learner.load_state(state)
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder} does not fit this training: {str(error).splitlines()[0]}") from error


def same(one: object, other: object) -> bool:
    """Say whether two states agree to the bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return one == other
