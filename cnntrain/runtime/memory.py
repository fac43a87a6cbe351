"""Work that runs out of memory, on a GPU or the host, told in one line with the settings that take it."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cnntrain.runtime.errors import CnntrainError

FULL = ("out of memory", "can't allocate memory", "ALLOC_FAILED", "bad_alloc")  # as torch and its libraries say it
SIZES = ("trainer.eval_batch_size", "batch_size", "dataset.image_size")
PRECISIONS = ("trainer.precision", "precision")


class OutOfMemoryError(CnntrainError):
    """There is no memory left for what the settings ask for."""


@contextlib.contextmanager
def spent(settings: Mapping[str, Any]) -> Iterator[None]:
    """Raise an `OutOfMemoryError` when memory runs out, also behind an error that explains it otherwise.

    It says which of the `settings` (by dotted key) take memory, and what helps.
    """
    try:
        yield
    except OutOfMemoryError:
        raise
    except Exception as error:
        if any(map(is_full, causes(error))):
            raise OutOfMemoryError(advice(settings)) from error
        raise


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def is_full(error: BaseException) -> bool:
    """Say whether an error means that there is no memory left."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in FULL)
    )


def advice(settings: Mapping[str, Any]) -> str:
    """Say in one line which settings take memory, and which others take less."""
    batch, steps = settings.get("trainer.batch_size"), settings.get("trainer.accumulate")
    sizes = [key for key in SIZES if key in settings]
    precisions = [key for key in PRECISIONS if key in settings]
    helps = [f"trainer.batch_size={batch // 2} trainer.accumulate={2 * steps}"] if batch and steps and batch > 1 else []
    helps += [f"a smaller {' or '.join(sizes)}"] if sizes else []
    helps += [f"{key}=bf16" for key in precisions if settings[key] != "bf16"]
    asked = {key: settings.get(key) for key in ("trainer.batch_size", "trainer.accumulate", *sizes, *precisions)}
    words = ", ".join(f"{key}={value}" for key, value in asked.items() if value is not None)
    return f"out of memory{f' with {words}' if words else ''}; this helps: {', '.join(helps) or 'a machine with more'}"


def available() -> int:
    """Return how many bytes a program can take without others being paged out; of all memory where nobody says it."""
    facts = Path("/proc/meminfo")
    lines = facts.read_text(encoding="ascii").splitlines() if facts.exists() else []
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if free is None else free
