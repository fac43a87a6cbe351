"""What is logged of a training: the loop's records, in `metrics.jsonl` and in TensorBoard."""

import contextlib
from pathlib import Path
from typing import Any

from cnntrain.runs.folder import METRICS, append_metrics, keep_metrics
from cnntrain.runs.setup import TrainingSetup
from cnntrain.runtime import disk
from cnntrain.runtime.progress import say
from cnntrain.training.boxes import box_pictures
from cnntrain.training.loop import Record
from cnntrain.training.maps import map_pictures
from cnntrain.training.pictures import batch_picture, class_pictures, filter_pictures
from cnntrain.training.tensorboard import open_board

# By task: what a network says of the validation images at the end of a training.
PICTURES = {"classification": class_pictures, "segmentation": map_pictures, "detection": box_pictures}


class RunLog:
    """The log of a run that resumes after `lines` records, at optimizer step `step`.

    What cannot be written is said once and does not end a training; `history` holds every record all the same.
    """

    def __init__(self, built: TrainingSetup, folder: Path, lines: int, step: int) -> None:
        self.built, self.folder = built, folder
        self.history = keep_metrics(folder, lines)
        if len(self.history) < lines:
            say(f"warning: {folder / METRICS} has lost {lines - len(self.history)} of {lines} lines")
        self.lines = len(self.history)  # of metrics.jsonl
        self.failed = False
        self.board = open_board(folder / "tensorboard", step, built.cfg.trainer.tensorboard)

    def add(self, record: Record) -> None:
        """Log a record, and after a validation the first filters."""
        self.history.append(record)
        try:
            append_metrics(self.folder, record)
            self.lines += 1
        except OSError as error:
            if not self.failed:
                say(f"warning: {self.folder / METRICS} cannot be written: {error}")
            self.failed = True
        self.board.record(record)
        if record["kind"] == "val":
            net, info = self.built.train_step.evaluated, self.built.dataset.info
            self.board.pictures(record["step"], lambda: filter_pictures(net, info))

    def add_batch(self, step: int) -> None:
        """Show the images of the batch of a step as the network sees them."""
        built = self.built
        if built.dataset.info.words:
            return
        epoch, turn = divmod(step, built.per_epoch)
        built.loader.seek(epoch, turn * built.cfg.trainer.accumulate)
        self.board.pictures(step, lambda: {"batch": batch_picture(built.loader.batch().images, built.dataset.info)})

    def sync(self) -> None:
        """Have the disk hold all records so far."""
        with contextlib.suppress(OSError):
            disk.sync(self.folder / METRICS)

    def finish(self, step: int, settings: dict[str, Any], result: dict[str, Any]) -> None:
        """Show what the last network says of the validation images, and the settings with the final numbers."""
        built, val, task = self.built, self.built.dataset.val, self.built.train_step.task
        if val:
            self.board.pictures(step, lambda: PICTURES[task.name](val, built.dataset.info, built.outputs))
        parts = {name: result[name] for name in ("train", "best") if result[name]}
        keys = ("loss", task.headline.key)
        self.board.close(settings, {f"{name}/{key}": part[key] for name, part in parts.items() for key in keys})

    def close(self) -> None:
        """Let go of the files."""
        self.board.close()
