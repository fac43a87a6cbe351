"""Libraries that fetch files, held to this program's manners."""

import contextlib
import socket
import sys
import warnings
from collections.abc import Iterator

PATIENCE = 30  # seconds without a byte until a download has failed


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep a library's warnings to itself and its words off standard output; let no download hang for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        socket.setdefaulttimeout(before)
