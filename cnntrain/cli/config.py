"""`cnntrain config`: groups, options and defaults as the files have them, a copy to change, a check without a run."""

import contextlib
import json
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from cnntrain.cli.groups import compose, groups, options
from cnntrain.config.files import package_of, read_text, read_yaml, refuse_code, refuse_word
from cnntrain.runtime import disk
from cnntrain.runtime.disk import expanded
from cnntrain.runtime.errors import DiskError, InputError, nearest, unknown

USAGE = """\
List, show, copy and check the options of the other commands.

usage: cnntrain config list [group]                  the groups and their options, the defaults of fit marked *
       cnntrain config show group/option | command   the file of an option, or of a command's own keys
       cnntrain config copy group/option [folder]    copy it to change it, into ./conf unless you name a folder
       cnntrain config check [file] [key=value ...]  check arguments as cnntrain fit would, without training;
                                                     file: an option, an experiment, keys, or a list of arguments

Options of your own are found with --config-dir DIR.
"""
ACTIONS = ("list", "show", "copy", "check")


def main(argv: list[str], commands: Sequence[str], conf: Path) -> int:
    """Run `cnntrain config <argv>` on the configuration in `conf`; return the exit code."""
    if not argv or {"--help", "-h"} & set(argv):
        print(USAGE, end="", file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    action, *words = argv
    try:
        if action == "check":
            return check_words(words, conf)
        words, folders = _own_folders(words, conf)
        if action == "list":
            listed(words, folders, commands)
        elif action == "show":
            show(words, folders)
        elif action == "copy":
            copy(words, folders)
        else:
            raise unknown("action", action, ACTIONS)
    except (InputError, OSError) as error:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        print(f"cnntrain: {reason}", file=sys.stderr)
        return 2
    return 0


def _own_folders(words: list[str], conf: Path) -> tuple[list[str], list[Path]]:
    """Return the words without `--config-dir`, and the folders to look in: the person's own first."""
    rest, folders = [], [conf]
    queue = iter(words)
    for word in queue:
        flag, equals, value = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            value = value if equals else next(queue, "")
            if not value:
                raise InputError("--config-dir needs a value: a folder")
            folder = expanded(value)
            if not folder.is_dir():
                raise InputError(f"--config-dir {folder} is not a folder")
            folders = [folder, conf]
        elif word.startswith("-"):
            raise unknown("flag", word, ["--config-dir", "--help"])
        else:
            rest.append(word)
    return rest, folders


def listed(words: list[str], folders: Sequence[Path], commands: Sequence[str]) -> None:
    """Print the groups that commands choose from, their options and what each is; fit's choice is marked."""
    known = {group for command in commands for group in compose(folders, command, {}).choices}
    chosen = compose(folders, "fit", {}).choices
    for name in words:
        if name not in known:
            raise no_such("group", name, sorted(known), folders)
    for group in words or sorted(known):
        print(group)
        names = options(folders, group)
        width = max(map(len, names), default=0) + 1
        for name in names:
            marked = f"{name}*" if name == chosen.get(group) else name
            print(f"  {marked:<{width}}  {headline(path_of(f'{group}/{name}', folders))}".rstrip())


def headline(path: Path) -> str:
    """Return the first comment of a file, Hydra's own apart."""
    lines = (line.lstrip("# ") for line in read_text(path).splitlines() if line.startswith("#"))
    return next((line for line in lines if line and not line.startswith("@package")), "")


def path_of(word: str, folders: Sequence[Path]) -> Path:
    """Return the file that `group/option`, `group=option` or a command's name means."""
    group, slash, option = word.replace("=", "/", 1).removesuffix(".yaml").rpartition("/")
    if slash and group not in groups(folders):
        raise unknown("group", group, groups(folders))
    names = options(folders, group)
    if option not in names:
        if not slash and option in groups(folders):
            raise InputError(f"{option} is a group: cnntrain config list {option} shows its options")
        raise unknown(group, option, names) if slash else no_such("command", option, names, folders)
    return next(path for folder in folders if (path := folder / group / f"{option}.yaml").is_file())


def no_such(kind: str, word: str, names: Sequence[str], folders: Sequence[Path]) -> InputError:
    """Return the error for a word that is no command or group, and probably an option without its group."""
    known = {option: group for group in groups(folders) for option in options(folders, group)}
    if nearest(word, names) is None and (match := nearest(word, known)):
        return InputError(f"{word!r} is no {kind}; did you mean {known[match]}/{match}?")
    return unknown(kind, word, names)


def show(words: list[str], folders: Sequence[Path]) -> None:
    """Print a configuration file as it is, and name the file whose keys it takes over."""
    if len(words) != 1:
        raise InputError("say what to show: cnntrain config show group/option, or a command")
    text = read_text(path_of(words[0], folders))
    print(text, end="")
    for part in re.findall(r"^ *- /(\S+)@_here_", text, re.MULTILINE):
        print(f"more keys: cnntrain config show {part}", file=sys.stderr)


def copy(words: list[str], folders: Sequence[Path]) -> None:
    """Copy a configuration file into the person's own folder; a file that is there stays as it is."""
    if len(words) not in (1, 2) or "/" not in words[0].replace("=", "/"):
        raise InputError("say what to copy: cnntrain config copy group/option [folder]")
    source = path_of(words[0], folders)
    folder = expanded(words[1] if len(words) == 2 else "conf")
    group, option = source.parent.name, source.stem
    target = folder / group / source.name
    if target.exists():
        raise InputError(f"{target} exists already and stays as it is; name another folder")
    try:
        disk.write(target, source.read_bytes())
    except DiskError as error:
        raise InputError(str(error)) from error
    print(f"{target}: change it, and use it with cnntrain fit {group}={option} --config-dir {shlex.quote(str(folder))}")
    print(f"under another name it is a new option: {target.with_name('my_' + source.name)}")


def check_words(words: list[str], conf: Path) -> int:
    """Compose `fit` from the words, or a file and words, and have it checked; return the exit code."""
    from cnntrain.cli.launcher import launch

    if "-m" in words or "--multirun" in words:
        raise InputError("config check checks one configuration; leave -m out")
    with contextlib.ExitStack() as stack:
        words = words[1:] if words[:1] == ["fit"] else words
        first = words[0] if words else ""
        if Path(first).suffix in (".yaml", ".yml") and "=" not in first:
            words = [*stack.enter_context(_words_of(expanded(first), groups([conf]))), *words[1:]]
        elif Path(first).is_dir() and "=" not in first and words:
            raise InputError(f"{first} is a folder; name one of its files")
        return launch("fit", words, conf, entry="preview")


@contextlib.contextmanager
def _words_of(path: Path, known: Sequence[str]) -> Iterator[list[str]]:
    """Give the words that a YAML file stands for: those it lists, an option of the group it lies in, or keys."""
    text, content = read_text(path), read_yaml(path)
    if isinstance(content, list):
        listed = [word if isinstance(word, str) else json.dumps(word) for word in content]
        for word in listed:
            refuse_word(word, str(path))
        yield listed
        return
    if not isinstance(content, dict):
        raise InputError(f"{path} holds neither keys nor a list of arguments")
    refuse_code(content, package_of(text), path)
    if (group := path.absolute().parent.name) in known:
        yield [f"{group}={path.stem}", "--config-dir", str(path.absolute().parents[1])]
    else:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "experiment" / f"{path.stem}.yaml"
            target.parent.mkdir()
            header = "" if package_of(text) else "# @package _global_\n"
            target.write_text(header + text, encoding="utf-8")
            yield [f"experiment={path.stem}", "--config-dir", folder]
