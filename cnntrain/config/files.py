"""Configuration files: their text whatever editor wrote it, and what a file that is not ours may not hold."""

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from cnntrain.runtime.errors import InputError

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where there is one
MOST = 100_000  # values in a configuration file
OPEN = {"dir", "subdir"}  # of hydra.sweep: the only keys of Hydra's own that a file may set
TYPED = "sets {}, which could run code and can only be typed; of hydra a file may set sweep.dir and sweep.subdir"


def read_text(path: Path) -> str:
    """Return the text of a file; a byte-order mark is no part of it.

    Raises `InputError` for a file that cannot be read or is not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start + 1}); save it as UTF-8") from error
    if "\0" in text:
        raise InputError(f"{path} is not UTF-8 text (a zero byte); save it as UTF-8")
    return text


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what a YAML reader finds wrong with a file into an `InputError` with the file and the line."""
    try:
        yield
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: {getattr(error, 'problem', None) or error}") from error
    except (ValueError, RecursionError) as error:  # a date that is none; lists within lists without end
        raise InputError(f"{path}: {error}") from error


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds.

    Raises `InputError` for one that cannot be read, and for aliases that would expand to more than memory holds.
    """
    text = read_text(path)
    with explained(path):
        content = yaml.load(text, LOADER)  # noqa: S506 - a safe loader
        if unfolded(content, {}) > MOST:
            raise ValueError(f"its aliases expand to more than {MOST:,} values")
    return content


def unfolded(content: Any, known: dict[int, float]) -> float:
    """Return how many values a file's content has with its aliases written out: no end of them where one leads back."""
    if not isinstance(content, dict | list):
        return 1
    if id(content) not in known:
        known[id(content)] = math.inf
        inner = content.values() if isinstance(content, dict) else content
        known[id(content)] = 1 + sum(unfolded(item, known) for item in inner)
    return known[id(content)]


def package_of(text: str) -> str:
    """Return the package that the head of a configuration file names, or nothing."""
    header = re.match(r"\s*#\s*@package\s+(\S+)", text)
    return header[1] if header else ""


def defaults_of(content: Mapping[Any, Any], path: Path) -> list[str | dict[Any, Any]]:
    """Return the defaults list of a configuration file.

    Raises `InputError` where it is none.
    """
    defaults = content.get("defaults") or []
    if not isinstance(defaults, list) or any(
        not isinstance(entry, str) and (not isinstance(entry, dict) or len(entry) != 1) for entry in defaults
    ):
        raise InputError(f"{path}: defaults should be a list of files and of entries such as 'override /model: mlp'")
    return defaults


def refuse_code(content: Mapping[Any, Any], package: str, path: Path) -> None:
    """Raise `InputError` for what a configuration file that is not ours holds and that could run code.

    `package` says where its keys go: by its group and its name, or the package in its head. Hydra acts on search paths,
    callbacks, logging, launchers and environment variables while it composes, so a file is looked at before that.
    """
    for what in forbidden(content, package, path):
        raise InputError(f"{path} {what}")


def forbidden(content: Mapping[Any, Any], package: str, path: Path) -> Iterator[str]:
    """Yield what of a file's content is not allowed in a file, and why."""
    if any(key == "_target_" for key in keys_of(content)):
        yield "names code (_target_), which no configuration can"
    if "hydra" in re.split(r"[./]", package):
        yield TYPED.format("keys of hydra")
    for entry in defaults_of(content, path):
        target = str(next(iter(entry)) if isinstance(entry, dict) else entry)
        if re.search(r"\bhydra\b|\$\{", target.replace("common/hydra", "")):
            yield TYPED.format(target)
    for key, value in content.items():
        if key == "plugins" and value:
            yield "names plugins, which are imported only when they are typed: plugins=[my_module]"
        elif key == "hydra" and isinstance(value, dict):
            yield from (TYPED.format(f"hydra.{inner}") for inner, item in value.items() if not is_open(inner, item))
        elif str(key).partition(".")[0] == "hydra":
            yield TYPED.format(key)


def is_open(key: Any, value: Any) -> bool:
    """Say whether an entry of the key `hydra` only says where the jobs of a sweep lie."""
    return key == "sweep" and isinstance(value, dict) and value.keys() <= OPEN


def keys_of(content: Any) -> Iterator[Any]:
    """Yield every key within a file's content."""
    if isinstance(content, dict):
        yield from content
    for item in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from keys_of(item)


def refuse_word(word: str, where: str) -> None:
    """Raise `InputError` for a word in a file or a record that only a person may type."""
    if word.startswith("-") or re.match(r"[+~\s]*(hydra|plugins)\b|[^=]*@[^=]*\bhydra\b", word):
        raise InputError(f"{where} {TYPED.format(repr(word))}")
