"""JSON files: values as JSON knows them, written whole or not at all."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnntrain.runtime import disk
from cnntrain.runtime.errors import InputError, as_text


def as_plain(value: object) -> Any:
    """Return `value` as JSON knows it: numbers that JSON lacks become null, paths text, tuples and arrays lists."""
    if isinstance(value, Mapping):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    return as_plain(value.tolist()) if hasattr(value, "tolist") else as_text(str(value))


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted key; an empty group stands for itself."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        nested = isinstance(value, Mapping) and value
        found |= flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return found


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole or not at all.

    Raises `DiskError`.
    """
    disk.write(path, json.dumps(as_plain(value), indent=2, ensure_ascii=False) + "\n")


def read_lines(path: Path) -> list[Any]:
    """Return what each line of a file holds in JSON: None for one that was not written to its end."""

    def value(line: str) -> Any:
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            return None

    return list(map(value, path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []))


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises `InputError` when it is missing or no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: the run is not complete") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object")
    if not is_shallow(value):
        raise InputError(f"{path} is nested too deeply")
    return value


def is_shallow(value: object, most: int = 32) -> bool:
    """Say whether containers lie in one another at most so deep."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return most >= 0 and all(is_shallow(item, most - 1) for item in inner)
