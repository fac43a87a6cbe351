"""Signals that stop or save a training: a handler only notes them, and the loop answers between two steps."""

import signal
from types import FrameType, TracebackType

from cnntrain.runtime import distributed

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAVING = (signal.SIGUSR1, signal.SIGUSR2)


class Signals:
    """Notes SIGINT, SIGTERM and SIGHUP (stop) and SIGUSR1 (save and go on) while its context lasts.

    So it does with SIGUSR2 where somebody, such as a launcher of cluster jobs, had a handler for it, and not with
    SIGHUP where it is ignored, as under nohup. A second SIGINT or SIGTERM ends the process at once; SIGHUP is no first
    or second: a terminal that closes sends it twice, from the system and from the shell, and a logout may add SIGTERM.
    Handlers that were there before are put back when the context ends; `pass_on` calls them, once the work is saved.

    Of several processes all answer what one was sent, at the same step. Their launcher sends SIGTERM once more, to
    all, as soon as one has ended, and kills those that take too long: from a second one on they ignore it.
    """

    def __init__(self) -> None:
        self.sent_stop = self.sent_save = 0  # to this process
        self.stopped_by: signal.Signals | None = None
        self.save_asked_by: signal.Signals | None = None
        self.largest = distributed.Largest()
        self.earlier: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Signals":
        for number in (*STOPPING, *SAVING):
            before = signal.getsignal(number)
            if callable(before) if number == signal.SIGUSR2 else number != signal.SIGHUP or before != signal.SIG_IGN:
                self.earlier[number] = signal.signal(number, self.note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        hung_up = self.stopped_by == signal.SIGHUP
        for number, handler in self.earlier.items():
            ignored = (distributed.LAUNCHED and number in STOPPING) or (hung_up and number == signal.SIGHUP)
            signal.signal(number, signal.SIG_IGN if ignored else handler)  # type: ignore[arg-type]

    def note(self, number: int, frame: FrameType | None) -> None:
        """Remember a signal; nothing else is safe in a handler."""
        if number in SAVING:
            self.sent_save = number
            return
        self.sent_stop = number
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if distributed.LAUNCHED or number != signal.SIGHUP:
            for other in (signal.SIGINT, signal.SIGTERM):
                signal.signal(other, signal.SIG_IGN if distributed.LAUNCHED else signal.SIG_DFL)

    def stop(self, *, last: bool = False) -> bool:
        """Say whether to stop at the next step; every process has to ask equally often, and one time `last`."""
        stop, save = self.largest(self.sent_stop, self.sent_save, last=last)
        self.sent_save = 0
        if save:
            self.save_asked_by = signal.Signals(save)
        if stop:
            self.stopped_by = signal.Signals(stop)
        return self.stopped_by is not None

    def pass_on(self, number: signal.Signals) -> None:
        """Call the handler that a signal had before, if it was anybody's own."""
        handler = self.earlier.get(number)
        if callable(handler) and handler is not signal.default_int_handler:
            handler(number, None)
