"""What a command prints for programs: one JSON object, alone on standard output."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from cnntrain.runtime.jsonfile import as_plain


@contextlib.contextmanager
def output_to_stderr() -> Iterator[None]:
    """Send standard output to standard error for a while, that of child processes too."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def as_json(value: Any) -> str:
    """Return `value` as strict JSON on one line: paths as text, arrays as lists, and null for what is not finite."""
    return json.dumps(as_plain(value), allow_nan=False)
