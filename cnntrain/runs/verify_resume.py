"""`check_resume=true`: the proof, on the user's own configuration, that a stopped training goes on as if it had not."""

import tempfile
from pathlib import Path
from typing import Any

from cnntrain.data.storage.images import Dataset
from cnntrain.runs import resume, setup
from cnntrain.runs.check import CheckedFit
from cnntrain.runtime.errors import CnntrainError
from cnntrain.training import checkpoints
from cnntrain.training.loop import TrainProgress, train

STEPS = 6


def prove_resume(checked: CheckedFit, dataset: Dataset) -> dict[str, Any]:
    """Train a few steps, and again with a cut and a resume in the middle; compare everything bit by bit.

    Raises `CnntrainError` naming the first thing that differs.
    """
    whole, cut = setup.build(checked, dataset), STEPS // 2
    steps = min(STEPS, checked.cfg.trainer.epochs * whole.per_epoch)
    advance(whole, TrainProgress(), steps)
    with tempfile.TemporaryDirectory() as scratch:
        first, at = setup.build(checked, dataset), TrainProgress()
        advance(first, at, cut)
        checkpoints.save_last(Path(scratch), resume.snapshot(first, at, 0))
        second = setup.build(checked, dataset)
        kept = checkpoints.load_newest(Path(scratch))
        assert kept is not None
        second.train_step.load_state_dict(kept.state)
        advance(second, TrainProgress(**kept.state["progress"]), steps)
    expected, found = whole.train_step.state_dict(), second.train_step.state_dict()
    differing = [key for key in expected if not resume.same(expected[key], found[key])]
    if differing:
        raise CnntrainError(f"after a cut at step {cut} and a resume, {', '.join(differing)} differ at step {steps}")
    print(f"cut at step {cut} and resumed, {steps} steps give the same bits: {', '.join(expected)}")
    return {"check_resume": "same", "steps": steps, "cut": cut, "compared": list(expected)}


def advance(built: setup.TrainingSetup, at: TrainProgress, until: int) -> None:
    """Train from `at` until so many steps have been taken."""
    records = train(
        built.train_step,
        built.loader,
        None,
        at=at,
        epochs=built.cfg.trainer.epochs,
        save=lambda which: None,
        log_every=10**9,
        stop=lambda: at.step >= until,
    )
    for _ in records:
        pass
