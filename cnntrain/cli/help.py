"""The text of `cnntrain <command> --help`: the command's groups, and its keys as these words would set them."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from cnntrain.cli.groups import Catalog, options
from cnntrain.config.files import read_text

PAGE = """\
{about}

usage: cnntrain {command} [group=option ...] [key=value ...] [flags]

groups, with the chosen option marked *
{groups}

keys, with their values for these options (nested: group.key=value; lists: key=[a,b])
{keys}

flags
  -m, --multirun    run every combination of the values between commas: seed=0,1,2
  --json            print the result as one JSON object, alone on standard output
  --cfg job         show the configuration and stop; --resolve fills in its references
  --config-dir DIR  take more groups and options from the folder DIR
"""
COMMENT_COLUMN = 36


def page(command: str, configuration: str, catalog: Catalog, folders: Sequence[Path]) -> str:
    """Return the manual page of `command`; `configuration` is its composed configuration as YAML."""
    width = max(map(len, catalog.choices), default=0)
    rows = []
    for group, choice in catalog.choices.items():
        names = [f"{option}*" if option == choice else option for option in options(folders, group)]
        rows.append(f"  {group:<{width}}  {'  '.join(names)}".rstrip())
    return PAGE.format(
        command=command,
        about=_about(next(path for folder in folders if (path := folder / f"{command}.yaml").is_file())),
        groups="\n".join(rows) or "  none",
        keys="\n".join(_explained(configuration, catalog.comments)),
    )


def _about(path: Path) -> str:
    """Return the comment at the top of a configuration file."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), read_text(path).splitlines())
    return "\n".join(line.lstrip("# ") for line in lines)


def _explained(configuration: str, comments: dict[str, str]) -> list[str]:
    """Return the lines of a YAML text, indented, each with the comment that its key has in the files."""
    lines, parents = [], list[tuple[int, str]]()
    for line in configuration.splitlines():
        if match := re.match(r"( *)([\w.-]+):", line):
            indent = len(match[1])
            parents = [parent for parent in parents if parent[0] < indent] + [(indent, match[2])]
            comment = comments.get(".".join(key for _, key in parents))
            line = f"{line:<{COMMENT_COLUMN - 2}}  # {comment}" if comment else line
        lines.append(f"  {line}")
    return lines
