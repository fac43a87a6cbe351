"""The words after a command: flags and settings in any order, rewritten as Hydra's grammar wants them."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString, ValueType
from hydra.errors import HydraException

from cnntrain.cli.groups import ALIASES, FLAGS, choices, compose, groups, options
from cnntrain.config.typed import split
from cnntrain.config.validate import nearest_keys
from cnntrain.runtime.disk import expanded
from cnntrain.runtime.errors import InputError, as_text, nearest, setting, unknown
from cnntrain.runtime.jsonfile import flat

PLAIN = re.compile(r"(?!(null|true|false|inf|nan)$)[a-z_/][\w./-]*", re.IGNORECASE | re.ASCII)  # text without quotes
SHOWING = ("--help", "--hydra-help", "--cfg", "--info")  # flags that run nothing


@dataclass
class CommandLine:
    """What a command line asks of Hydra, and whether its result goes to standard output as JSON."""

    command: str
    json: bool = False
    flags: dict[str, str] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    choices: dict[str, str] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)  # keys with two values

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
                choices.append([f"{key}={value}" for value in typed_elements(override).values()])
            elif not override.is_sweep_override() and not key.startswith("hydra"):
                choices.append([str(override.input_line)])
        count = max(map(len, choices), default=1)
        return [[values[number % len(values)] for values in choices] for number in range(count)]

    def typed_words(self) -> dict[str, str]:
        """Return the words of a sweep's jobs as they were typed, by what Hydra makes of them: 100000.0 of 1e5."""
        if "--multirun" not in self.flags:
            return {}
        sweeps = [each for each in OverridesParser.create().parse_overrides(self.overrides) if each.is_discrete_sweep()]
        return {
            f"{override.get_key_element()}={value}": f"{override.get_key_element()}={typed}"
            for override in sweeps
            for value, typed in typed_elements(override).items()
        }


def typed_elements(override: Override) -> dict[str, str]:
    """Return the values of a sweep as they were typed, by what Hydra makes of them."""
    values = list(override.sweep_string_iterator())
    text = str(override.input_line).partition("=")[2].removeprefix("choice(").removesuffix(")")
    typed = [element.strip() for element in split(text)]
    alike = override.is_choice_sweep() and len(typed) == len(values)
    return dict(zip(values, typed if alike else values, strict=True))


def parse_words(words: list[str], conf: Path, command: str = "fit") -> CommandLine:
    """Sort the words after `command` into flags and overrides; `conf` tells a group's choice (`model=alexnet`) from a
    key (`seed=1`).

    Raises InputError for a flag that does not exist or does not go with another, a word that is neither flag nor
    setting, a setting that cannot be parsed, and several values without `-m`.
    """
    line = CommandLine(command, folders=[conf])
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
    _refuse_together(line)
    line.folders = ([Path(line.flags["--config-dir"])] if "--config-dir" in line.flags else []) + [conf]
    settings = _spaced(_gathered(settings, line), line)
    line.choices = choices(settings)
    sweep = "--multirun" in line.flags or "hydra.mode=MULTIRUN" in settings
    line.overrides = [_override(word, settings, line, sweep) for word in settings]
    values = [(key.lstrip("+"), value) for key, _, value in (word.partition("=") for word in settings)]
    line.twice = [key for key in line.choices if len({value for other, value in values if other == key}) > 1]
    return line


def _gathered(settings: Sequence[str], line: CommandLine) -> list[str]:
    """Return the settings with bare names as the list `items`, where the command has that key: verify E1 A1.3a.

    A bare number of three digits is a `lecture`.
    """
    bare = [word for word in settings if re.fullmatch(r"\w[\w.]*", word)]
    if not bare or "items" not in compose(line.folders, line.command, {}).keys:
        return list(settings)
    lectures = [word for word in bare if re.fullmatch(r"\d{3}", word)]
    items = [word for word in bare if word not in lectures]
    gathered = [f"lecture={word}" for word in lectures] + ([f"items=[{','.join(items)}]"] if items else [])
    return [*(word for word in settings if word not in bare), *gathered]


def _spaced(settings: Sequence[str], line: CommandLine) -> list[str]:
    """Return the settings with each word of several values as its first, all words of them gathered in `space`.

    Where the command has that key, it tries the values itself: crossval optimizer.lr=0.01,0.1. With `-m` they are jobs.
    """
    if "--multirun" in line.flags or "space" not in compose(line.folders, line.command, {}).keys:
        return list(settings)
    several = [word for word in settings if has_several_values(word)]
    if not several:
        return list(settings)
    for key, _, value in (word.partition("=") for word in several):
        known = options(line.folders, key)
        for name in split(value) if known and "(" not in value else []:
            if name not in known:
                raise unknown(key, name, known)
    firsts = [f"{word.partition('=')[0]}={split(word.partition('=')[2])[0]}" for word in several if "(" not in word]
    quoted = ",".join(QuotedString(word, Quote.single).with_quotes() for word in several)
    return [*(word for word in settings if word not in several), *firsts, f"space=[{quoted}]"]


def has_several_values(word: str) -> bool:
    """Say whether a word has several values in Hydra's syntax: key=a,b or key=interval(0,1)."""
    try:
        return bool(OverridesParser.create().parse_override(word).is_sweep_override())
    except HydraException:
        return False


def _refuse_together(line: CommandLine) -> None:
    """Raise InputError for flags that do not go together."""
    if "--help" in line.flags and not line.json:
        return
    shows = [flag for flag in SHOWING if flag in line.flags]
    if line.json and shows:
        raise InputError(f"--json reports the result of a run, and {shows[0]} runs nothing; leave one of them out")
    if "--multirun" in line.flags and shows:
        raise InputError(f"-m runs every combination, and {shows[0]} runs nothing; leave one of them out")
    if len(shows) > 1:
        raise InputError(f"{shows[0]} and {shows[1]} show different things; leave one of them out")
    for flag in ("--resolve", "--package"):
        if flag in line.flags and "--cfg" not in line.flags:
            raise InputError(f"{flag} says how --cfg shows the configuration: --cfg job {flag}")


def _read_flag(word: str, rest: list[str], line: CommandLine) -> None:
    """Store one flag in `line`; its value stands behind `=`, or is the first of the `rest` and leaves it."""
    name, equals, value = word.partition("=")
    name = ALIASES.get(name, name)
    if name == "--experimental-rerun":
        raise InputError("--experimental-rerun is refused: it unpickles a file, which can run any code")
    if name not in FLAGS:
        raise _unknown_flag(word, value if equals else next(iter(rest), ""), line)
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


def _unknown_flag(typed: str, value: str, line: CommandLine) -> InputError:
    """Return the error for a flag that does not exist: it may be a key, and `value` what it should have."""
    name, known = typed.partition("=")[0], _keys(line)
    word = name.lstrip("-").replace("-", "_")
    keys = nearest_keys(word, known)
    exact = any(key.rpartition(".")[2] == word for key in known)
    flag = nearest(name.lstrip("-"), (known.lstrip("-") for known in FLAGS))
    if not keys or (flag and not exact):
        hint = f"did you mean '--{flag}'?" if flag else f"choose from {', '.join(FLAGS)}"
        return InputError(f"unknown flag {typed!r}; {hint}")
    value = "<value>" if not value or value.startswith("-") or "=" in value else value
    meant = " or ".join(shlex.quote(f"{key}={value}") for key in keys)
    return InputError(f"unknown flag {typed!r}; settings are written without dashes: {meant}")


def _keys(line: CommandLine) -> list[str]:
    """Return the dotted keys in the files of the command, groups among them."""
    catalog = compose(line.folders, line.command, {})
    return [*flat(catalog.keys), *catalog.choices]


def _override(word: str, settings: Sequence[str], line: CommandLine, sweep: bool) -> str:
    """Return the setting `word` as an override: values quoted where needed, plain keys forced with `++`.

    A forced key never fails in Hydra, so that one check of the composed configuration names every unknown key,
    whether it was typed or stands in a file.
    """
    folders = line.folders
    key, equals, value = word.partition("=")
    group = key.lstrip("+") if key.lstrip("+") in groups(folders) else None
    if not equals and not word.startswith("~"):
        raise InputError(f"{word!r} is not of the form key=value{_hint(word, settings, line)}")
    if equals and not key.strip("+~"):
        raise InputError(f"{word!r} has no key before the equals sign")
    if group and value in ("", "null"):
        raise InputError(f"{word!r} chooses nothing; leave it out, or choose from {', '.join(options(folders, group))}")
    if group and key != group:
        raise InputError(f"{word!r}: a group is chosen without a sign before it: {shlex.quote(f'{group}={value}')}")
    forced = not (key[0] in "+~" or key.startswith("hydra.") or "/" in key or "@" in key or group)
    override = f"{'++' if forced else ''}{key}{equals}{writable(value, text=bool(group))}"
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
    several = parsed.value() if parsed.value_type == ValueType.ELEMENT else None
    if isinstance(several, list | dict) and group:
        for name in several if isinstance(several, list) else [several]:
            if name not in options(folders, group):
                raise unknown(group, str(name), options(folders, group))
    if group and isinstance(several, str) and several not in options(folders, group):  # Hydra skips an optional group
        raise unknown(group, several, options(folders, group))
    if isinstance(several, list | dict) and parsed.is_delete():
        raise InputError(f"{word!r} removes a key, not an entry of a list or mapping: {key}")
    if parsed.is_sweep_override() and not sweep:
        single = shlex.quote(f"{key}=[{value}]" if "," in value and "(" not in value else f"{key}=[...]")
        raise InputError(f"{word!r} holds several values; add -m to run each of them, or write a list: {single}")
    return override


def _hint(word: str, settings: Sequence[str], line: CommandLine) -> str:
    """Return what a bare word was probably meant to be."""
    if word == "help":
        return f"; did you mean cnntrain {line.command} --help?"
    if (line.folders[-1] / f"{word}.yaml").is_file():
        return f"; {word} is a command of its own: cnntrain {word}"
    known, runs = _keys(line), [other for other in settings if is_run(other)]
    if word in runs and "run" in known:
        return f"; did you mean {setting('run', word)}?"
    if word in runs and "runs" in known:
        return f"; did you mean {shlex.quote('runs=[' + ','.join(runs) + ']')}?"
    chosen = compose(line.folders, line.command, {}).choices
    names = {option: group for group in reversed(chosen) for option in options(line.folders, group)}
    keys, match = [key for key in known if key.rpartition(".")[2] == word], nearest(word, names)
    if match and not keys:
        return f"; did you mean {names[match]}={match}?"
    meant = " or ".join(f"{key}=<value>" for key in keys)
    return f"; did you mean {meant}?" if keys else " (without spaces around the equals sign)"


def is_run(word: str) -> bool:
    """Say whether a word is the folder of a run."""
    try:
        return (expanded(word) / "config.json").is_file()
    except OSError:  # too long for a name
        return False


def writable(value: str, *, text: bool = False) -> str:
    """Return `value` such that Hydra's grammar reads it: `~` expanded, and text quoted that the grammar would refuse.

    Lists (`[a,b]`) and sweeps (`a,b`) are treated element by element; what is already quoted stays as it is. With
    `text`, numbers and truth values are quoted too.
    """
    elements = split(value)
    if len(elements) > 1:
        return ",".join(writable(element, text=text) for element in elements)
    if value.startswith("[") and value.endswith("]"):
        return f"[{writable(value[1:-1], text=text)}]"
    if value.startswith("~"):
        value = str(expanded(value)) + ("/" if value.endswith("/") else "")
    if not value or value[0] in "\"'{":
        return value
    try:
        parsed = OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        parsed = None
    if parsed and not (text and parsed.value_type == ValueType.ELEMENT and not isinstance(parsed.value(), str)):
        return value
    return QuotedString(value, Quote.single).with_quotes()


def spelled(value: object) -> str:
    """Return a value of Python as the command line spells it: text, a number, true, null, a list or a mapping."""
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}: {spelled(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(spelled, value))}]"
    if isinstance(value, str):
        return value if PLAIN.fullmatch(value) else QuotedString(value, Quote.single).with_quotes()
    return "null" if value is None else str(value).lower()
