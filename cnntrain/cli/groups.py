"""The words a command line may hold, read from the configuration files themselves, without Hydra (which is slow)."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from cnntrain.config.files import defaults_of, package_of, read_text, read_yaml
from cnntrain.runtime.errors import InputError

# A flag and the values it takes: none (), any (None), or one of several.
FLAGS: dict[str, tuple[str, ...] | None] = {
    "--help": (),
    "--json": (),
    "--multirun": (),
    "--cfg": ("job", "hydra", "all"),
    "--resolve": (),
    "--package": None,
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    "--config-dir": None,
    "--hydra-help": (),
}
ALIASES = {"-h": "--help", "-m": "--multirun", "-c": "--cfg", "-p": "--package", "-i": "--info", "-cd": "--config-dir"}

_COMMENTED = re.compile(r"(?P<indent> *)(?P<key>[\w.-]+):(?P<comment>.*)")


@dataclass
class Catalog:
    """A command's nested keys with their defaults, its groups with their chosen options, and the keys' comments."""

    keys: dict[str, Any] = field(default_factory=dict)
    choices: dict[str, str | None] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)


def groups(folders: Sequence[Path]) -> list[str]:
    """Return the names of the configuration groups: the folders within `folders`."""
    return sorted({path.name for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_dir()})


def options(folders: Sequence[Path], group: str) -> list[str]:
    """Return the options of a group: its YAML files."""
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def choices(settings: Sequence[str]) -> dict[str, str]:
    """Return what the words `settings` assign, as far as they are of the form key=value."""
    return {key: value for key, equals, value in (word.partition("=") for word in settings) if equals}


def compose(folders: Sequence[Path], command: str, typed: dict[str, str]) -> Catalog:
    """Follow the defaults lists of a command as Hydra would, with the options `typed` for groups.

    Values are left as the files have them; an option that does not exist contributes nothing.
    """
    chosen: dict[str, str] = {}
    for _ in range(2):  # an experiment is read last and may choose options of groups that were read before it
        catalog = Catalog()
        for package, keys in _walk(folders, command, "", chosen | typed, catalog, chosen):
            node = catalog.keys
            for part in package.split(".") if package else []:
                child = node.get(part)
                node[part] = node = child if isinstance(child, dict) else {}
            _merge(node, keys)
    catalog.keys.pop("hydra", None)
    return catalog


def _walk(
    folders: Sequence[Path], name: str, package: str, typed: dict[str, str], catalog: Catalog, chosen: dict[str, str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (package, keys) of the file `name` and of those in its defaults list, in the order in which they apply.

    Fills the choices and comments of `catalog`, and `chosen` with the options that the files override.
    """
    path = next((path for folder in folders if (path := folder / f"{name}.yaml").is_file()), None)
    if path is None:
        return
    try:
        text, content = read_text(path), read_yaml(path)
        content = content if isinstance(content, dict) else {}
        defaults = defaults_of(content, path)
    except InputError:  # Hydra says so when it composes
        return
    if header := package_of(text):
        package = "" if header == "_global_" else header
    content.pop("defaults", None)
    catalog.comments.update(_comments(text, package))
    for entry in defaults if "_self_" in defaults else [*defaults, "_self_"]:
        if entry == "_self_":
            yield package, content
            continue
        target, option = next(iter(entry.items())) if isinstance(entry, dict) else (entry, None)
        *marks, target = str(target).split()  # "optional" and "override" stand before the name
        target, at, place = target.partition("@")
        target = str(PurePosixPath("/", PurePosixPath(name).parent, target)).lstrip("/")
        if "override" in marks:
            chosen[target] = str(option)
            continue
        group = target if isinstance(entry, dict) else str(PurePosixPath(target).parent)
        if isinstance(entry, dict):
            option = typed.get(group, option)
            catalog.choices[group] = option
            target = f"{group}/{option}"
        inside = {"_here_": package, "_global_": ""}.get(place, place) if at else group.replace("/", ".").strip(".")
        yield from _walk(folders, target, inside, typed, catalog, chosen)


def _comments(text: str, package: str) -> Iterator[tuple[str, str]]:
    """Yield (dotted key, comment) for the keys of a YAML text that a comment on their own line explains."""
    parents: list[tuple[int, str]] = []
    for line in text.splitlines():
        if match := _COMMENTED.fullmatch(line):
            indent = len(match["indent"])
            parents = [parent for parent in parents if parent[0] < indent] + [(indent, match["key"])]
            _, mark, comment = match["comment"].partition(" # ")
            if mark:
                yield ".".join([*([package] if package else []), *(key for _, key in parents)]), comment.strip()


def _merge(node: dict[str, Any], keys: dict[str, Any]) -> None:
    for key, item in keys.items():
        mine = node.get(key)
        if isinstance(mine, dict) and isinstance(item, dict):
            _merge(mine, item)
        else:
            node[key] = item
