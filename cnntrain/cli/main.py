"""The command `cnntrain`: hand the words to their command; the standard library only, so that help is instant."""

import os
import sys
from pathlib import Path

from cnntrain import __version__
from cnntrain.runtime.processor import spin_briefly
from cnntrain.runtime.streams import guarded

FIRST = (
    "fit",
    "eval",
    "predict",
    "report",
    "describe",
    "ablate",
    "invariance",
    "compare",
)  # in help, before the others


def config_dir() -> Path:
    """Return the folder of the configuration: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def commands(conf: Path) -> dict[str, str]:
    """Return every command with what it does: the files of `conf`, each by the first words of its first line."""
    order = {name: place for place, name in enumerate(FIRST)}
    files = sorted(conf.glob("*.yaml"), key=lambda path: (order.get(path.stem, len(order)), path.stem))
    heads = {path.stem: path.read_text(encoding="utf-8").partition("\n")[0] for path in files}
    return {name: head.lstrip("# ").partition(": cnntrain")[0] for name, head in heads.items()}


COMMANDS = commands(config_dir())
BUILT_IN = {
    "config": "List, show and copy groups and options; check a command line without training",
    "completion": "Print the shell code that completes words with Tab",
}

USAGE = """\
Train, evaluate and explain convolutional networks from the command line.

usage: cnntrain <command> [key=value ...] [flags]

commands:
{commands}

examples:
  cnntrain fit model=lenet5 dataset=mnist trainer.epochs=10
  cnntrain eval run=latest
  cnntrain describe model=lenet5 'model.remove=[conv2]'

A command's own options:  cnntrain fit --help
Its full configuration:   cnntrain fit model=resnet20 --cfg job
Groups and defaults:      cnntrain config list         (and show, copy, check)
Several runs at once:     cnntrain fit -m model=lenet5,mlp seed=0,1,2
Tab completion:           eval "$(cnntrain completion bash)"    (in ~/.bashrc; zsh the same way)
                          cnntrain completion fish | source     (in ~/.config/fish/config.fish)
"""


def usage() -> str:
    """Return the text of `cnntrain --help`."""
    named = COMMANDS | BUILT_IN
    width = max(map(len, named))
    return USAGE.format(commands="\n".join(f"  {name:<{width}}  {phrase}" for name, phrase in named.items()))


def main(argv: list[str] | None = None) -> int:
    """Run one command line (`sys.argv` unless given) and return its exit code.

    Results that standard output does not take make it 1, or 141 without a word where the reader left, as `head` does.
    """
    spin_briefly(os.environ)
    lost: list[OSError] = []
    with guarded(lost.append):
        code = _dispatch(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        if code == 0 and lost:
            if isinstance(lost[0], BrokenPipeError):
                return 141
            print(f"cnntrain: standard output cannot be written: {lost[0].strerror}", file=sys.stderr)
            return 1
    return code


def _dispatch(argv: list[str]) -> int:
    command, *words = argv or [""]
    if command == "help" and words:
        command, words = words[0], ["--help"]
    if command in COMMANDS:
        from cnntrain.cli.launcher import launch

        return launch(command, words, config_dir())
    if command == "completion":
        from cnntrain.cli.completion import main as completion

        return completion(words, list(COMMANDS), config_dir())
    if command == "config":
        from cnntrain.cli.config import main as configuration

        return configuration(words, list(COMMANDS), config_dir())
    if command in ("--help", "-h", "help"):
        print(usage(), end="")
        return 0
    if command in ("--version", "-V"):
        print(f"cnntrain {__version__}")
        return 0
    if not command:
        print(usage(), end="", file=sys.stderr)
        return 2
    from cnntrain.runtime.errors import unknown

    kind = "flag" if command.startswith("-") else "command"
    choices = ["--help", "--version"] if kind == "flag" else [*COMMANDS, "config", "completion", "help"]
    print(f"cnntrain: {unknown(kind, command, choices)}", file=sys.stderr)
    return 2
