"""cnntrain beside its peers and its limits on this machine: pairs, interleaved, in fresh processes.

    python -m scripts.bench --list
    python -m scripts.bench --data-root data lenet5 resnet20
    python -m scripts.bench --data-root data --all --write      # every line, into docs/benchmarks.md
    python -m scripts.bench --data-root data --smoke lenet5     # a few steps, to see that the line runs

A round waits until others use at most a tenth of the machine and is discarded when they used more meanwhile. How the
numbers come about and what they mean is said in docs/benchmarks.md.
"""

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cnntrain.runtime.devices import hardware, machine
from cnntrain.runtime.tables import render
from scripts.bench.harness import ROOT, UnequalWorkError, measure
from scripts.bench.lines import LINES
from scripts.bench.load import Patience
from scripts.bench.report import rows, write
from scripts.bench.work import WHERE

PAGE, KEPT = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "benchmarks.json"
PEERS = ("torch", "torchvision", "pillow", "torchcodec", "lightning", "timm", "keras", "jax")


def versions() -> str:
    """Return the versions of Python and of what is compared."""
    found = [f"Python {platform.python_version()}"]
    for name in PEERS:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def main() -> None:
    """Measure what is asked for; print it as a table, and keep and write it when asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("lines", nargs="*", metavar="LINE")
    parser.add_argument("--list", action="store_true", help="show the lines and end")
    parser.add_argument("--all", action="store_true", help="every line whose data is there")
    parser.add_argument("--data-root", type=Path, default=Path(os.environ.get("CNNTRAIN_DATA", "data")))
    parser.add_argument("--rounds", type=int, help="that count, of each line")
    parser.add_argument("--patience", type=float, default=3600, help="seconds for waiting and for discarded rounds")
    parser.add_argument("--reference", type=Path, help="airbench94_muon.py as published, for cifar10_fast on a GPU")
    parser.add_argument("--smoke", action="store_true", help="one tiny round of each line, which is no measurement")
    parser.add_argument("--json", type=Path, help="add the rounds to this file")
    parser.add_argument("--decisive", action="store_true", help="only the rivals that there is a target for")
    parser.add_argument(
        "--write",
        action="store_true",
        help=f"add to {KEPT.name} and write the table of {PAGE.name}; without lines only that",
    )
    args = parser.parse_args()
    if args.list:
        print(render([{"line": name, "what": line.title, "rounds": line.rounds} for name, line in LINES.items()]))
        return
    if unknown := [name for name in args.lines if name not in LINES]:
        parser.error(f"no line {unknown[0]!r}; --list shows those that there are")
    if args.rounds is not None and args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: one or more")
    if args.json and not args.json.parent.is_dir():
        parser.error(f"--json {args.json}: there is no folder {args.json.parent}")
    if args.smoke and (args.write or args.json):
        parser.error("--smoke measures nothing that could be kept")
    names = [name for name in (LINES if args.all else dict.fromkeys(args.lines)) if there(name, args.data_root)]
    if not names and not args.write:
        parser.error("name lines whose data is there, or --all; --list shows them")
    patience, where = Patience(args.patience), machine(hardware())
    failed = []
    for name in names:
        task = replace(LINES[name].task, reference=str(args.reference.resolve()) if args.reference else "")
        line = replace(LINES[name], task=task, rounds=args.rounds or LINES[name].rounds)
        if args.decisive:
            line = replace(line, rivals={rival: line.rivals[rival] for rival in line.decisive})
        result: dict[str, Any] = {}
        try:
            for found in measure(name, line, args.data_root, patience, smoke=args.smoke):
                result = found | {"date": time.strftime("%Y-%m-%d"), "versions": versions()}
                result["command"] = " ".join(
                    ["python -m scripts.bench --data-root data", f"--rounds {line.rounds}"]
                    + ["--decisive"] * args.decisive
                    + [name]
                )
                for place in [args.json] * bool(args.json) + [KEPT] * args.write:
                    if result["rounds"]:
                        keep(place, where, name, result)
        except (RuntimeError, UnequalWorkError) as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            failed.append(name)
        print(
            "smoke: these are no measurements\n" * args.smoke + render(rows(name, line, result or None)),
            end="\n\n",
            flush=True,
        )
    if args.write:
        write(PAGE, json.loads(KEPT.read_text()) if KEPT.exists() else {})
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def there(name: str, root: Path) -> bool:
    """Say whether the data of a line is there; if not, say where it is looked for."""
    place = root / WHERE.get(LINES[name].task.data, f"{LINES[name].task.data}/train")
    if not place.exists():
        print(f"{name}: left out, no {place}", file=sys.stderr)
    return place.exists()


def keep(place: Path, where: str, name: str, result: dict[str, Any]) -> None:
    """Add the result of a line on a machine to a file, in place of an earlier one."""
    kept = json.loads(place.read_text()) if place.exists() else {}
    place.write_text(json.dumps(kept | {where: kept.get(where, {}) | {name: result}}, indent=1) + "\n")


if __name__ == "__main__":
    main()
