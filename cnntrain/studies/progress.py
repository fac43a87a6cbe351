"""What the person is told while the cells of a study are made: each as it ends, and how long the rest will take."""

import time
from collections.abc import Sequence

from cnntrain.runtime.progress import clock, say
from cnntrain.studies.cells import LOG, Cell, Message
from cnntrain.tasks.task import Headline


class CellProgress:
    """Listens to what processes tell of the cells that are `left`, which `expected` takes so many seconds each."""

    def __init__(self, left: Sequence[Cell], expected: Sequence[float], jobs: int, headline: Headline) -> None:
        self.left, self.expected, self.jobs, self.headline = left, expected, jobs, headline
        self.failed: list[str] = []
        self.open, self.ended, self.began = set(range(len(left))), 0, time.monotonic()
        self.spent = self.foreseen = 0.0  # seconds of the cells that are done: as measured, and as expected

    def hear(self, message: Message) -> None:
        """Take in a message and say what the person should know."""
        cell = self.left[message.cell]
        if message.kind in ("done", "failed"):
            self.open.discard(message.cell)
            self.ended += 1
        at = f"[{self.ended}/{len(self.left)}] {cell.name}"
        if message.scores:
            self.spent += message.scores.seconds
            self.foreseen += self.expected[message.cell]
            result = f"test {self.headline.label} {self.headline.text(message.scores.test_score)}"
            say(f"{at}: {result} ({clock(message.scores.seconds)}), {self.time_left()} left")
        elif message.kind == "failed":
            self.failed.append(cell.name)
            say(f"{at} failed: {message.reason} ({cell.folder / LOG})")
        elif message.kind == "stopped":
            say(f"{cell.name}: stopped and saved")

    def time_left(self) -> str:
        """Return how long the cells that are left will take, by what those that are done took."""
        if self.foreseen:
            ahead = sum(self.expected[number] for number in self.open) * self.spent / self.foreseen
        else:
            ahead = self.spent / self.ended * len(self.open)
        return clock(ahead / min(self.jobs, max(len(self.open), 1)))
