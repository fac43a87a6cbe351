"""The words after a command: flags and settings in any order, rewritten as Hydra's grammar wants them."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from cnntrain.catalog import ALIASES, FLAGS, choices, groups, options
from cnntrain.errors import InputError, as_text, nearest, setting, unknown
from cnntrain.files import expanded
from cnntrain.typed import split


@dataclass
class Line:
    """What a command line asks of Hydra, and whether its result goes to standard output as JSON."""

    json: bool = False
    flags: dict[str, str] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    choices: dict[str, str] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)

    @property
    def plugins(self) -> list[str]:
        """The modules that `plugins=` names, as typed: one, or a list."""
        typed = [word.partition("=")[2] for word in self.overrides if re.match(r"\+*plugins=", word)]
        value = typed[-1].strip("[]") if typed else ""
        return [] if value in ("", "null") else [name.strip(" '\"") for name in split(value)]

    @property
    def argv(self) -> list[str]:
        """Return the words for Hydra's own parser: flags before overrides, each with its value attached."""
        return [f"{flag}={value}" if value else flag for flag, value in self.flags.items()] + self.overrides

    def jobs(self) -> list[list[str]]:
        """Return the overrides of as many jobs of a sweep as it takes for every value to stand in one of them.

        Values that are drawn from a range are left out: another sweeper than Hydra's own chooses those.
        """
        choices = []
        for override in OverridesParser.create().parse_overrides(self.overrides):
            key = override.get_key_element()
            if override.is_discrete_sweep():
                choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
            elif not override.is_sweep_override() and not key.startswith("hydra"):
                choices.append([str(override.input_line)])
        count = max(map(len, choices), default=1)
        return [[values[number % len(values)] for values in choices] for number in range(count)]


def read(words: list[str], conf: Path) -> Line:
    """Sort `words` into flags and overrides; `conf` tells a group's choice (`model=alexnet`) from a key (`seed=1`).

    Raises InputError for a flag that does not exist, a word that is neither flag nor setting, a setting that cannot
    be parsed, and several values without `-m`.
    """
    line = Line()
    settings: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if as_text(word) != word:  # records are UTF-8
            raise InputError(f"{as_text(word)} is not UTF-8; rename the file or folder, or type a path from inside it")
        if word.startswith("-"):
            _read_flag(word, rest, line)
        else:
            settings.append(word)
    line.json = line.flags.pop("--json", None) is not None
    shows = [flag for flag in ("--help", "--hydra-help", "--cfg", "--info") if flag in line.flags]
    if line.json and shows:
        raise InputError(f"--json reports the result of a run, and {shows[0]} runs nothing; leave one of them out")
    if "--multirun" in line.flags and shows and "--help" not in shows:
        raise InputError(f"-m runs every combination, and {shows[0]} runs nothing; leave one of them out")
    line.folders = ([Path(line.flags["--config-dir"])] if "--config-dir" in line.flags else []) + [conf]
    line.choices = choices(settings)
    sweep = "--multirun" in line.flags or "hydra.mode=MULTIRUN" in settings
    line.overrides = [_override(word, line.folders, sweep) for word in settings]
    return line


def _read_flag(word: str, rest: list[str], line: Line) -> None:
    """Store one flag in `line`; its value stands behind `=`, or is the first of the `rest` and leaves it."""
    name, equals, value = word.partition("=")
    name = ALIASES.get(name, name)
    if name == "--experimental-rerun":
        raise InputError("--experimental-rerun is refused: it unpickles a file, which can run any code")
    if name not in FLAGS:
        if equals:
            raise InputError(f"unknown flag {word!r}; settings are written without dashes: {word.lstrip('-')}")
        raise unknown("flag", word, FLAGS)
    choices = FLAGS[name]
    if choices == () and equals:
        raise InputError(f"{name} takes no value, and {value!r} was given")
    if choices != () and not equals:
        if name == "--info" and not (rest and rest[0] in (choices or ())):
            value = "all"
        elif rest:
            value = rest.pop(0)
        else:
            raise InputError(f"{name} needs a value: {' or '.join(choices or ['a name'])}")
    if choices and value not in choices:
        raise unknown(f"value of {name}", value, choices)
    line.flags[name] = str(expanded(value)) if name == "--config-dir" else value


def _override(word: str, folders: Sequence[Path], sweep: bool) -> str:
    """Return the setting `word` as an override: values quoted where needed, plain keys forced with `++`.

    A forced key never fails in Hydra, so that one check of the composed configuration names every unknown key,
    whether it was typed or stands in a file.
    """
    key, equals, value = word.partition("=")
    if not equals and not word.startswith("~"):
        raise InputError(f"{word!r} is not of the form key=value{_hint(word, folders)}")
    if equals and not key.strip("+~"):
        raise InputError(f"{word!r} has no key before the equals sign")
    if key in groups(folders) and value in ("", "null"):
        raise InputError(f"{word!r} chooses nothing; leave it out, or choose from {', '.join(options(folders, key))}")
    forced = not (key[0] in "+~" or key.startswith("hydra.") or "/" in key or "@" in key or key in groups(folders))
    override = f"{'++' if forced else ''}{key}{equals}{writable(value)}"
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException as error:
        reason = (
            str(error)
            .splitlines()[0]
            .partition(" expecting ")[0]
            .replace("mismatched input '<EOF>'", "its end is missing")
        )
        raise InputError(f"cannot read {word!r}: {reason}") from error
    if parsed.is_sweep_override() and not sweep:
        single = shlex.quote(f"{key}=[{value}]" if "," in value and "(" not in value else f"{key}=[...]")
        raise InputError(f"{word!r} holds several values; add -m to run each of them, or write a list: {single}")
    return override


def _hint(word: str, folders: Sequence[Path]) -> str:
    """Return what a bare word was probably meant to be."""
    if (Path(word) / "config.json").is_file():
        return f"; did you mean {setting('run', word)}?"
    known = {option: group for group in groups(folders) for option in options(folders, group)}
    match = nearest(word, known)
    return f"; did you mean {known[match]}={match}?" if match else " (without spaces around the equals sign)"


def writable(value: str) -> str:
    """Return `value` such that Hydra's grammar reads it: `~` expanded, and text quoted that the grammar would refuse.

    Lists (`[a,b]`) and sweeps (`a,b`) are treated element by element; what is already quoted stays as it is.
    """
    elements = split(value)
    if len(elements) > 1:
        return ",".join(map(writable, elements))
    if value.startswith("[") and value.endswith("]"):
        return f"[{writable(value[1:-1])}]"
    if value.startswith("~"):
        value = str(expanded(value)) + ("/" if value.endswith("/") else "")
    if not value or value[0] in "\"'{" or _parses(value):
        return value
    return QuotedString(value, Quote.single).with_quotes()


def _parses(value: str) -> bool:
    try:
        OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        return False
    return True
