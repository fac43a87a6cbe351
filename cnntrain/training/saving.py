"""When checkpoints are written: at once, or beside the training where its state lies on a GPU."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from cnntrain.errors import CnntrainError
from cnntrain.progress import say
from cnntrain.training.checkpoints import State

TRIES = 3  # saves in a row that may fail before the training gives up
Write = Callable[[State], None]


class Saver:
    """Writes states in the order in which they come; a failure is said and forgiven until it has happened several times
    in a row.

    With `beside` a thread writes a copy of the state in the host's memory, one at a time. How that went is said at the
    next save, or when `settle` waits for it.
    """

    def __init__(self, *, beside: bool) -> None:
        self.thread = ThreadPoolExecutor(1, "checkpoints") if beside else None
        self.under_way: Future[None] | None = None
        self.failures = 0

    def save(self, write: Write, state: State) -> None:
        """Have `write` keep a state. Raises `CnntrainError` when `TRIES` saves in a row have failed."""
        self.settle()
        if self.thread:
            self.under_way = self.thread.submit(write, copied(state))
        else:
            self.count(lambda: write(state))

    def settle(self) -> None:
        """Wait until everything is written, and say what failed; raises as `save` does."""
        if self.under_way:
            writing, self.under_way = self.under_way, None
            self.count(writing.result)

    def count(self, outcome: Callable[[], None]) -> None:
        """Take in how a save went."""
        try:
            outcome()
            self.failures = 0
        except OSError as error:
            self.failures += 1
            if self.failures >= TRIES:
                raise CnntrainError(f"{self.failures} saves in a row have failed: {error}") from error
            say(f"warning: not saved: {error}")

    def close(self) -> None:
        """Wait for the thread, whatever has become of the training."""
        if self.thread:
            self.thread.shutdown()


def copied(state: State) -> State:
    """Return a state whose tensors are copies on the CPU; of a GPU's all are on their way before any is waited for."""

    def copy(value: object) -> object:
        if isinstance(value, Tensor):
            return value.to("cpu", non_blocking=True) if value.is_cuda else value.clone()
        if isinstance(value, dict):
            return {key: copy(item) for key, item in value.items()}
        return [copy(item) for item in value] if isinstance(value, list | tuple) else value

    found = {key: copy(value) for key, value in state.items()}
    if torch.cuda.is_initialized():
        torch.cuda.current_stream().synchronize()
    return found
