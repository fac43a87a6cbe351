"""When checkpoints are written: at once, or beside the training where its state lies on a GPU."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from cnntrain.runtime.errors import DiskError
from cnntrain.runtime.progress import say
from cnntrain.training.checkpoints import State

TRIES = 3  # saves in a row that may fail before the training gives up
Write = Callable[[State], None]


class AsyncSaver:
    """Writes states in the order in which they come; a failure is said and forgiven until it has happened several times
    in a row.

    A state with a name is owed: it is tried again before whatever comes next, until it is written or one of the same
    name takes its place. With `beside` a thread writes a copy of the state in the host's memory, one at a time. How
    that went is said at the next save, or when `settle` waits for it.
    """

    def __init__(self, *, beside: bool) -> None:
        self.thread = ThreadPoolExecutor(1, "checkpoints") if beside else None
        self.under_way: Future[None] | None = None
        self.owed: dict[str, tuple[Write, State]] = {}
        self.failures = 0

    def save(self, write: Write, state: State, name: str = "") -> None:
        """Have `write` keep a state. Raises `DiskError` when `TRIES` saves in a row have failed."""
        self.settle()
        if self.thread or name:  # it changes with the next step
            state = copied(state)
        if self.thread:
            self.under_way = self.thread.submit(self.write, write, state, name)
        else:
            self.count(lambda: self.write(write, state, name))

    def finish(self, write: Write, state: State) -> None:
        """Have `write` keep the last state of a training, at once. Raises `DiskError` when it or one owed cannot be."""
        self.settle()
        self.write(write, copied(state) if self.thread else state, "")

    def write(self, write: Write, state: State, name: str) -> None:
        """Write what is owed, then this."""
        if name:
            self.owed.pop(name, None)  # the newest comes last
            self.owed[name] = write, state
        for key, (write_again, owed_state) in list(self.owed.items()):
            write_again(owed_state)
            del self.owed[key]
        if not name:
            write(state)

    def settle(self) -> bool:
        """Wait until everything is written, say what failed, and return whether all is well; raises as `save` does."""
        if self.under_way:
            writing, self.under_way = self.under_way, None
            self.count(writing.result)
        return not self.failures

    def count(self, outcome: Callable[[], None]) -> None:
        """Take in how a save went."""
        try:
            outcome()
            self.failures = 0
        except OSError as error:
            self.failures += 1
            if self.failures >= TRIES:
                raise DiskError(f"{self.failures} saves in a row have failed: {error}") from error
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

    copies = {key: copy(value) for key, value in state.items()}
    if torch.cuda.is_initialized():
        torch.cuda.current_stream().synchronize()
    return copies
