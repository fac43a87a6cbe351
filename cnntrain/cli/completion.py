"""Tab completion for bash, zsh and fish: a shell sends the line up to the cursor and gets the words it may become."""

import itertools
import os
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cnntrain.cli.groups import ALIASES, FLAGS, choices, compose, groups, options
from cnntrain.runtime.disk import expanded
from cnntrain.runtime.errors import InputError, unknown

FOLDERS = {"run", "runs", "init_from", "resume", "images", "data_root", "output_dir", "dataset.root"}

# Bash splits a word at the characters of COMP_WORDBREAKS and replaces only the part after the last of them.
SCRIPTS = {
    "bash": r"""
_cnntrain() {
    local candidate
    COMPREPLY=()
    while IFS= read -r candidate; do COMPREPLY+=("$candidate"); done < <(
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


def main(argv: list[str], commands: list[str], conf: Path) -> int:
    """Print a shell's completion script (`completion bash`) or the answers to its query; return the exit code."""
    if len(argv) == 3 and argv[0] == "query" and argv[1] in SCRIPTS:
        shell, line = argv[1:]
        for word in query(shell, line, commands, conf, os.environ.get("CNNTRAIN_WORDBREAKS", "")):
            print(word)
        return 0
    if len(argv) == 1 and argv[0] in SCRIPTS:
        print(SCRIPTS[argv[0]].lstrip("\n"), end="")
        return 0
    error = (
        unknown("shell", argv[0], SCRIPTS) if len(argv) == 1 else InputError("say cnntrain completion bash|zsh|fish")
    )
    print(f"cnntrain: {error}", file=sys.stderr)
    return error.exit_code


def query(shell: str, line: str, commands: list[str], conf: Path, wordbreaks: str = "") -> list[str]:
    """Return the completions of the last word of `line`, the command line up to the cursor, as `shell` inserts them.

    Finished words end in a space, except for fish, which adds it. For bash, what stands before the last of
    `wordbreaks` within the word is left out, since bash keeps it.
    """
    try:
        *words, last = shlex.split(f"{line}x")  # the x marks the cursor: a word of its own after a space
    except ValueError:  # inside quotes: nothing sensible to add
        return []
    word = last[:-1]
    completions = candidates([*words[1:], word], commands, conf)
    if shell == "fish":
        return completions
    completions = [
        re.sub(r"([^\w@%+=:,./~-])", r"\\\1", each) + ("" if each[-1] in "=./,[" else " ") for each in completions
    ]
    start = max((word.rfind(character) for character in wordbreaks), default=-1) + 1
    return [each[start:] for each in completions]


def candidates(words: list[str], commands: list[str], conf: Path) -> list[str]:
    """Return what the last of `words` may become, given the words before it (the program's name left out)."""
    *before, word = words
    if not before:
        return _starting(word, [*commands, "config", "completion", *(["--help", "--version"] if word else [])])
    if before[0] == "completion":
        return _starting(word, SCRIPTS) if len(before) == 1 else []
    if before[0] == "config":
        if before[1:2] != ["check"]:
            return _starting(word, _shown(before[1:], commands, conf))
        before = ["fit", *before[2:]]
    if before[0] not in commands:
        return []
    flag = ALIASES.get(before[-1], before[-1])
    if flag == "--config-dir":
        return _paths(word)
    if values := FLAGS.get(flag):
        return _starting(word, values)
    if word.startswith("-"):
        return _starting(word, FLAGS)
    dirs = [expanded(value) for flag, value in itertools.pairwise(before) if flag in ("--config-dir", "-cd")]
    return _settings(word, before, [*dirs, conf])


def _settings(word: str, before: list[str], folders: Sequence[Path]) -> list[str]:
    """Complete a setting: `mod` to `model=`, `model=res` to an option, `optimizer.l` to a key, `run=` to a folder."""
    catalog = compose(folders, before[0], choices(before[1:]))
    sign = word[: len(word) - len(word.lstrip("+~"))]
    key, equals, value = word[len(sign) :].partition("=")
    *path, _ = key.split(".")
    node: Any = catalog.keys
    for part in path:
        node = node.get(part) if isinstance(node, dict) else None
    node = node if isinstance(node, dict) else {}
    if not equals:
        prefix = "".join(f"{part}." for part in path)
        names = [f"{prefix}{name}" + ("." if isinstance(item, dict) and item else "=") for name, item in node.items()]
        names += [f"{group}=" for group in catalog.choices]
        return [sign + name for name in _starting(key, names)]
    start = value[max(value.rfind(","), value.rfind("[")) + 1 :]  # a sweep or a list continues after its last element
    if key in catalog.choices:
        completions = _starting(start, options(folders, key))
    elif key in FOLDERS:
        completions = _paths(start, files=key == "images")
    else:
        completions = _starting(start, ("true", "false")) if isinstance(node.get(key.split(".")[-1]), bool) else []
    return [word.removesuffix(start) + each for each in completions]


def _shown(before: Sequence[str], commands: Sequence[str], conf: Path) -> list[str]:
    """Return what `cnntrain config` takes after the words `before`."""
    if not before:
        return ["list", "show", "copy", "check"]
    names = [group for group in groups([conf]) if group != "common"]
    if before == ["list"]:
        return names
    if before in (["show"], ["copy"]):
        return [f"{group}/{option}" for group in names for option in options([conf], group)] + [
            *(commands if before == ["show"] else ())
        ]
    return []


def _starting(start: str, names: Iterable[str]) -> list[str]:
    return sorted({name for name in names if name.startswith(start)})


def _paths(start: str, files: bool = False) -> list[str]:
    """Return the folders (and files) whose path begins with `start`, as typed; hidden ones only if asked for."""
    head, slash, tail = start.rpartition("/")
    try:
        entries = sorted(expanded(head + slash).iterdir())
    except OSError:
        return []
    entries = [entry for entry in entries if entry.name.startswith(tail) and (tail or not entry.name.startswith("."))]
    return [f"{head}{slash}{entry.name}{'/' * entry.is_dir()}" for entry in entries if files or entry.is_dir()]
