"""`check_resume=true`: verify, on the user's own configuration, that a stopped training resumes to the same bits."""

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


def verify_resume(checked: CheckedFit, dataset: Dataset) -> dict[str, Any]:
    """Train a few steps, and again with a stop and a resume in the middle; compare everything bit by bit.

    Raises `CnntrainError` naming what differs.
    """
    straight, cut = setup.build(checked, dataset), STEPS // 2
    steps = min(STEPS, checked.cfg.trainer.epochs * straight.per_epoch)
    advance(straight, TrainProgress(), steps)
    with tempfile.TemporaryDirectory() as scratch:
        stopped, at = setup.build(checked, dataset), TrainProgress()
        advance(stopped, at, cut)
        checkpoints.save_last(Path(scratch), resume.snapshot(stopped, at, 0))
        resumed = setup.build(checked, dataset)
        checkpoint = checkpoints.load_newest(Path(scratch))
        assert checkpoint is not None
        resumed.train_step.load_state_dict(checkpoint.state)
        advance(resumed, TrainProgress(**checkpoint.state["progress"]), steps)
    expected, state = straight.train_step.state_dict(), resumed.train_step.state_dict()
    differing = [key for key in expected if not resume.same(expected[key], state[key])]
    if differing:
        raise CnntrainError(f"after a stop at step {cut} and a resume, {', '.join(differing)} differ at step {steps}")
    print(f"stopped at step {cut} and resumed, {steps} steps give the same bits: {', '.join(expected)}")
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
