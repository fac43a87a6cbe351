"""Signals that stop or save a training: a handler only notes them, and the loop answers between two steps."""

import signal
from types import FrameType, TracebackType

STOPPING = (signal.SIGINT, signal.SIGTERM)
SAVING = signal.SIGUSR1


class Signals:
    """Notes SIGINT and SIGTERM (stop) and SIGUSR1 (save and go on) while its context lasts.

    A second SIGINT or SIGTERM ends the process at once. Handlers that were there before are put back when the context
    ends, and `pass_on` calls the one of the signal that stopped the training.
    """

    def __init__(self) -> None:
        self.stopped_by: signal.Signals | None = None
        self.save_asked = False
        self.earlier: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Signals":
        for number in (*STOPPING, SAVING):
            self.earlier[number] = signal.signal(number, self.note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.earlier.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def note(self, number: int, frame: FrameType | None) -> None:
        """Remember a signal; nothing else is safe in a handler."""
        if number == SAVING:
            self.save_asked = True
            return
        self.stopped_by = signal.Signals(number)
        for other in STOPPING:
            signal.signal(other, signal.SIG_DFL)

    def stop(self) -> bool:
        """Say whether to stop at the next step."""
        return self.stopped_by is not None

    def pass_on(self) -> None:
        """Call the handler that the stopping signal had before, if it was anybody's own; the context has ended."""
        handler = self.earlier.get(self.stopped_by) if self.stopped_by else None
        if callable(handler) and handler is not signal.default_int_handler and self.stopped_by:
            signal.raise_signal(self.stopped_by)
