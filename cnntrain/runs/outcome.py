"""What a training has come to, in numbers."""

from collections.abc import Sequence
from typing import Any

from cnntrain.data.storage.images import Split
from cnntrain.tasks.task import Task
from cnntrain.training.loop import Record, TrainProgress


def numbers(
    history: Sequence[Record], at: TrainProgress, per_epoch: int, task: Task, val: Split | None
) -> dict[str, Any]:
    """Return the numbers of the last epoch and of the best, and what answering without looking at images would reach.

    They are null where the records of a run that has ended are lost, or there are no validation images.
    """
    result: dict[str, Any] = {"steps": at.step, "epochs": at.step // per_epoch}
    result |= task.baseline(val.labels if val else None)
    result |= dict.fromkeys(("samples_per_second", "train", "val", "best"))
    for record in history:
        if record["kind"] == "train":
            result["train"] = {key: record[key] for key in task.train_keys}
            result["samples_per_second"] = record.get("samples_per_second", result["samples_per_second"])
        elif record["kind"] == "val":
            result["val"] = scores(record, task)
            if record["best"]:
                result["best"] = result["val"] | {"epoch": record["epoch"]}
    if "epoch" in at.best:  # else of a checkpoint of an older version
        result["best"] = scores(at.best, task) | {"epoch": at.best["epoch"]}
    chosen = result["best"] or result["train"] or {}
    return result | {"objective": chosen.get(task.headline.key)}


def scores(record: Record, task: Task) -> dict[str, Any]:
    """Return the numbers of a validation; those that an older version did not record are null."""
    return {key: record.get(key) for key in task.val_keys}
