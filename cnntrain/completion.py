"""Tab completion for bash, zsh and fish, from the configuration files alone: Hydra takes too long to import."""

import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from cnntrain import cli
from cnntrain.errors import InputError, unknown

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
FOLDERS = {"run", "runs", "init_from", "resume", "images", "data_root", "output_dir", "dataset.root"}

# Bash splits a word at the characters of COMP_WORDBREAKS and replaces only the part after the last of them.
SCRIPTS = {
    "bash": r"""
_cnntrain() {
    local IFS=$'\n' candidate
    COMPREPLY=()
    while read -r candidate; do COMPREPLY+=("$candidate"); done < <(
        CNNTRAIN_WORDBREAKS="$COMP_WORDBREAKS" "$1" completion query bash "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
}
complete -o nospace -F _cnntrain cnntrain
""",
    "zsh": r"""
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
_cnntrain() {
    local -a candidates
    candidates=("${(@f)$($words[1] completion query zsh "${(j: :)words[1,CURRENT-1]} $PREFIX" 2>/dev/null)}")
    [[ -n "$candidates" ]] && compadd -Q -S '' -- "${candidates[@]}"
}
compdef _cnntrain cnntrain
""",
    "fish": r"""
complete -c cnntrain -f -a '(cnntrain completion query fish (commandline -cp | string collect) 2>/dev/null)'
""",
}


def main(argv: list[str]) -> int:
    """Print a shell's completion script (`completion bash`) or the answers to its query; return the exit code."""
    if len(argv) == 3 and argv[0] == "query" and argv[1] in SCRIPTS:
        print("\n".join(query(argv[1], argv[2], os.environ.get("CNNTRAIN_WORDBREAKS", ""))))
        return 0
    if len(argv) == 1 and argv[0] in SCRIPTS:
        print(SCRIPTS[argv[0]].lstrip("\n"), end="")
        return 0
    error = (
        unknown("shell", argv[0], SCRIPTS) if len(argv) == 1 else InputError("say cnntrain completion bash|zsh|fish")
    )
    print(f"cnntrain: {error}", file=sys.stderr)
    return error.exit_code


def query(shell: str, line: str, wordbreaks: str = "") -> list[str]:
    """Return the completions of the last word of `line`, the command line up to the cursor, as `shell` inserts them.

    Finished words end in a space except in fish, which adds it. For bash, the part that lies before the last of
    `wordbreaks` within the word is left out, since bash keeps it.
    """
    try:
        words = shlex.split(line)
    except ValueError:  # inside quotes: nothing sensible to add
        return []
    if not line or line[-1].isspace():
        words.append("")
    found = candidates(words[1:], cli.config_dir())
    if shell == "fish":
        return found
    found = [re.sub(r"([^\w@%+=:,./~\[\]-])", r"\\\1", word) + ("" if word[-1] in "=./,[" else " ") for word in found]
    if shell == "zsh":
        return [re.sub(r"([~\[\]])", r"\\\1", word) if "[" in word else word for word in found]
    breaks = [index for index, character in enumerate(words[-1]) if character in wordbreaks]
    return [word[breaks[-1] + 1 :] if breaks else word for word in found]


def candidates(words: list[str], conf: Path) -> list[str]:
    """Return what the last of `words` may become, given the words before it (the program's name left out)."""
    *before, word = words
    if not before:
        return _starting(word, [*cli.COMMANDS, "completion", *(["--help", "--version"] if word else [])])
    if before[0] == "completion":
        return _starting(word, SCRIPTS) if len(before) == 1 else []
    if before[0] not in cli.COMMANDS:
        return []
    flag = ALIASES.get(before[-1], before[-1])
    if flag == "--config-dir":
        return _folders(word)
    if FLAGS.get(flag):
        return _starting(word, FLAGS[flag] or ())
    if word.startswith("-"):
        return _starting(word, FLAGS)
    return _settings(word, before, conf)


def _settings(word: str, before: list[str], conf: Path) -> list[str]:
    """Complete a setting: `mod` to `model=`, `model=res` to an option, `optimizer.l` to a key, `run=` to a folder."""
    command, *typed = before
    sign = word[: len(word) - len(word.lstrip("+~"))]
    key, equals, value = word[len(sign) :].partition("=")
    choices = {name: option for name, found, option in (each.partition("=") for each in typed) if found}
    if equals:
        start = re.match(r"(?:.*[,\[])?", value)  # a sweep or a list goes on after its last element
        head = f"{sign}{key}={start[0] if start else ''}"
        return [head + option for option in _values(key, word[len(head) :], command, choices, conf)]
    tree, used = config_tree(conf, command, choices)
    names: list[str] = []
    if "." not in key:
        names = [f"{group}=" for group in used]
    *path, _ = key.split(".")
    for part in path:
        tree = tree.get(part) if isinstance(tree, dict) else None  # type: ignore[assignment]
    if isinstance(tree, dict):
        prefix = "".join(f"{part}." for part in path)
        names += [f"{prefix}{name}" + ("." if isinstance(item, dict) and item else "=") for name, item in tree.items()]
    return [sign + name for name in _starting(key, names)]


def _values(key: str, start: str, command: str, choices: dict[str, str], conf: Path) -> list[str]:
    if key in FOLDERS:
        return _folders(start, files=key == "images")
    tree, used = config_tree(conf, command, choices)
    if key in used:
        return _starting(start, options(conf, key))
    item: Any = tree
    for part in key.split("."):
        item = item.get(part) if isinstance(item, dict) else None
    return _starting(start, ("true", "false")) if isinstance(item, bool) else []


def _starting(start: str, names: Any) -> list[str]:
    return sorted({name for name in names if name.startswith(start)})


def _folders(start: str, files: bool = False) -> list[str]:
    """Return the folders (and files) whose path begins with `start`, as it was typed; hidden ones only if asked for."""
    head, slash, tail = start.rpartition("/")
    folder = Path(head + slash or ".").expanduser()
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    return [
        f"{head}{slash}{entry.name}{'/' if entry.is_dir() else ''}"
        for entry in entries
        if entry.name.startswith(tail or tuple(map(chr, range(0x21, 0x2E))) + tuple(map(chr, range(0x2F, 0x7F))))
        and (files or entry.is_dir())
    ]


def groups(conf: Path) -> list[str]:
    """Return the names of the configuration groups in the folder `conf`: its folders."""
    return sorted(path.name for path in conf.iterdir() if path.is_dir()) if conf.is_dir() else []


def options(conf: Path, group: str) -> list[str]:
    """Return the options of a group: its YAML files."""
    return sorted(path.stem for path in (conf / group).glob("*.yaml"))


def config_tree(conf: Path, command: str, choices: dict[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Compose a command's keys the way Hydra would, as far as completion needs it.

    `choices` are the options typed for groups. Returns the nested keys with their defaults, and the command's groups.
    """
    for _ in range(2):  # an experiment, read last, may choose options of groups that were read before it
        tree: dict[str, Any] = {}
        used: list[str] = []
        overrides: dict[str, str] = {}
        for package, keys in _files(conf, command, "", choices, used, overrides):
            node = tree
            for part in package.split(".") if package else []:
                child = node.get(part)
                node[part] = node = child if isinstance(child, dict) else {}
            _merge(node, keys)
        choices = overrides | choices
    tree.pop("hydra", None)
    return tree, used


def _files(
    conf: Path, name: str, package: str, choices: dict[str, str], used: list[str], overrides: dict[str, str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (package, keys) of a file and of all that its defaults list names; note the groups and overrides met."""
    path = conf / f"{name}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.load(text, yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader)  # noqa: S506
    except (OSError, yaml.YAMLError):
        return
    if header := re.match(r"\s*#\s*@package\s+(\S+)", text):
        package = "" if header[1] == "_global_" else header[1]
    content = content if isinstance(content, dict) else {}
    entries = content.pop("defaults", [])
    if "_self_" not in entries:
        entries = [*entries, "_self_"]
    for entry in entries:
        if entry == "_self_":
            yield package, content
            continue
        target, option = next(iter(entry.items())) if isinstance(entry, dict) else (entry, None)
        words = str(target).split()
        target, at, place = words[-1].partition("@")
        absolute = (
            target.removeprefix("/") if target.startswith("/") or "/" not in name else f"{Path(name).parent}/{target}"
        )
        if "override" in words:
            overrides[absolute] = str(option)
            continue
        if isinstance(entry, dict):
            group = absolute
            if not package and not at:
                used.append(group)
            option = choices.get(group, option)
            absolute = f"{group}/{option}"
        else:
            group = str(Path(absolute).parent) if "/" in absolute else ""
        inside = {"_here_": package, "_global_": ""}.get(place, place) if at else group.replace("/", ".")
        yield from _files(conf, absolute, inside, choices, used, overrides)


def _merge(node: dict[str, Any], keys: dict[str, Any]) -> None:
    for key, item in keys.items():
        mine = node.get(key)
        if isinstance(mine, dict) and isinstance(item, dict):
            _merge(mine, item)
        else:
            node[key] = item
