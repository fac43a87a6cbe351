"""Standard output and standard error: whatever they can take, no work ends because it cannot be told."""

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

Note = Callable[[OSError], object]
PLAIN = "cnntrain.plain"  # the name of what replaces characters that an encoding lacks
SIGNS = {"─": "-", "…": "...", "×": "x", "·": "*", "→": "->", "–": "-", "±": "+-", "≤": "<=", "°": "deg", "²": "^2"}
BYTES = {chr(0xDC00 + byte): f"\\x{byte:02x}" for byte in range(0x80, 0x100)}  # Python's, of names that are no text


def plain(error: UnicodeError) -> tuple[str, int]:
    """Replace what an encoding lacks: our signs by ASCII, bytes of file names by \\xe9, others by question marks."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(SIGNS.get(sign) or BYTES.get(sign, "?") for sign in lacking), error.end


codecs.register_error(PLAIN, plain)


class Forgiving(io.FileIO):
    """An open file, by its descriptor, that takes what is written even where the system does not; `note` hears why."""

    def __init__(self, handle: int, note: Note) -> None:
        super().__init__(handle, "w", closefd=False)
        self.note = note

    def write(self, data: Any) -> int:
        """Write as much as the system takes, or seem to write all."""
        try:
            written = super().write(data)
        except OSError as error:
            self.note(error)
            written = None
        return memoryview(data).nbytes if written is None else written


def forgiving(handle: int, note: Note = lambda error: None, like: Any = None) -> io.TextIOWrapper:
    """Return a text stream that writes to a descriptor and never fails, in the way of another or else line by line."""
    encoding = getattr(like, "encoding", "utf-8")
    at_once = getattr(like, "line_buffering", True) or getattr(like, "write_through", False)
    buffered = io.BufferedWriter(Forgiving(handle, note))
    return io.TextIOWrapper(buffered, encoding=encoding, errors=PLAIN, line_buffering=at_once)


@contextlib.contextmanager
def guarded(note: Note = lambda error: None) -> Iterator[None]:
    """Make this process's standard streams forgiving; `note` hears what is lost of standard output.

    Streams that were closed lead nowhere from then on: a file that is opened later must not take their number.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)
    with contextlib.ExitStack() as stack:
        for handle, name, heard in ((1, "stdout", note), (2, "stderr", lambda error: None)):
            found = getattr(sys, name)
            if found is None or is_own(found, handle):
                with contextlib.suppress(AttributeError, OSError):
                    found.flush()
                stream = forgiving(handle, heard, found)
                setattr(sys, name, stream)
                stack.callback(setattr, sys, name, found)
                stack.callback(stream.flush)
        yield


def is_own(stream: Any, handle: int) -> bool:
    """Say whether a stream writes to a descriptor and can fail: tests and programs that call us have others."""
    try:
        raw = getattr(stream.buffer, "raw", stream.buffer)  # of an unbuffered stream (python -u)
        return stream.fileno() == handle and not isinstance(raw, Forgiving)
    except (AttributeError, OSError):
        return False
