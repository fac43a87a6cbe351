"""TensorBoard: a view of what the loop says. It never stops a training, and `metrics.jsonl` stays the truth.

Events are written at once and in this thread: the usual writer's own thread reports a full disk only at a later call,
with a traceback, and would be running while data workers are forked.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cnntrain.runtime.jsonfile import flat
from cnntrain.runtime.progress import say
from cnntrain.tasks import task_of

TAGS = {"lr": "lr/group0", "samples_per_second": "throughput/img_s"}  # what keys of training records are called


class Board:
    """A TensorBoard run in one file: scalars, pictures and, at the end, the hyperparameters.

    The x axis is the optimizer step. The first failure is said once and ends the writing, not the training.
    """

    def __init__(self, folder: Path | None, start_step: int = 0) -> None:
        self.sink: Any = None  # tensorboard's RecordWriter, or None when nothing is written
        self.epoch_began = self.step = start_step
        if folder:
            self._attempt(lambda: self._open(folder, start_step))

    def _open(self, folder: Path, start_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.glob("events.out.tfevents.*")))  # readers take the files in the order of their names
        name = f"events.out.tfevents.{int(time.time()):010d}.{number:04d}.cnntrain.{os.getpid()}"
        self.sink = RecordWriter((folder / name).open("xb"))
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if start_step:  # what an interrupted run had written after the step it resumes from is hidden
            start = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=time.time(), step=start_step + 1, session_log=start))

    def record(self, record: Mapping[str, Any]) -> None:
        """Draw one record of the loop."""
        if self.sink:
            self._attempt(lambda: self._scalars(record["step"], self._named(record)))

    def pictures(self, step: int, draw: Callable[[], Mapping[str, Tensor]]) -> None:
        """Show the pictures that `draw` returns by name: uint8 [C, H, W], grey or RGB.

        `draw` is not called when nothing is written, and what it raises stops no training.
        """
        if self.sink:
            self._attempt(lambda: self._images(step, draw()))

    def close(
        self, hparams: Mapping[str, Any] | None = None, metrics: Mapping[str, float | None] | None = None
    ) -> None:
        """Note the configuration (nested) with its final numbers, and close the file."""
        if self.sink and hparams is not None:
            self._attempt(lambda: self._hparams(hparams, metrics or {}))
        self._abandon()

    def _attempt(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # whatever it is, the training is worth more
            say(f"TensorBoard files are not written from here on: {type(error).__name__}: {error}")
            self._abandon()

    def _abandon(self) -> None:
        if self.sink:
            with contextlib.suppress(OSError):  # a full disk says so once more
                self.sink.close()
        self.sink = None

    def _write(self, event: Any) -> None:
        self.sink.write(event.SerializeToString())
        self.sink.flush()

    def _summary(self, summary: Any, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self.step = step
        self._write(Event(wall_time=time.time(), step=step, summary=summary))

    def _named(self, record: Mapping[str, Any]) -> dict[str, float]:
        """Return the scalars of a record by their names in TensorBoard."""
        kind = record["kind"]
        tags = {key: f"{kind}/{key}" for key in ("loss", task_of(record).headline.key)}
        tags |= TAGS if kind == "train" else {}
        scalars = {tag: record[key] for key, tag in tags.items() if record.get(key) is not None}
        if kind == "train":
            scalars["epoch"] = record["epoch"]
        norms = record.get("gradients", {}).items()
        scalars |= {f"gradient/{stage}": norm for stage, norm in norms if norm is not None}
        if "seconds" in record:  # of the epoch, or of its part since the run was resumed
            scalars["time/step_ms"] = 1000 * record["seconds"] / (record["step"] - self.epoch_began)
            self.epoch_began = record["step"]
        return scalars

    def _scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        from torch.utils.tensorboard.summary import scalar

        for tag, value in scalars.items():
            self._summary(scalar(tag, value), step)

    def _images(self, step: int, images: Mapping[str, Tensor]) -> None:
        from torch.utils.tensorboard.summary import image

        for tag, pixels in images.items():
            self._summary(image(tag, pixels, dataformats="CHW"), step)

    def _hparams(self, nested: Mapping[str, Any], metrics: Mapping[str, float | None]) -> None:
        from torch.utils.tensorboard.summary import hparams, scalar

        settings = {
            key: value if isinstance(value, bool | int | float | str) else json.dumps(value)
            for key, value in flat(nested).items()
        }
        named = {f"hparam/{key}": value for key, value in metrics.items() if value is not None}
        for summary in (*hparams(settings, named), *(scalar(tag, value) for tag, value in named.items())):
            self._summary(summary, self.step)


def open_board(folder: Path, start_step: int = 0, enabled: bool = True) -> Board:
    """Return the board that writes to `folder` from optimizer step `start_step` on; a silent one unless `enabled`.

    TensorBoard is imported here and nowhere earlier.
    """
    return Board(folder if enabled else None, start_step)
