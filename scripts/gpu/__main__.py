"""What only a machine with a GPU can show, in one command of at most eight minutes, useful after four.

    python -m scripts.gpu --data-root data --reference airbench94_muon.py
    python -m scripts.gpu --smoke                    # tiny work on a CPU: shows that every check runs

Checks come in the order of their worth, each in a process of its own that is ended when its time is over; every row is
written to `--output` (gpu.md, gpu.json) as soon as it is found. In `--data-root` lie CIFAR-10 as
cifar10/train/<class>/* and cifar10/test/<class>/*, and tiny-imagenet-20 likewise; `--reference` is the unmodified
airbench94_muon.py (github.com/KellerJordan/cifar10-airbench), which compiles for minutes and comes last. What has no
data or no time left is "not measured".

A step's time is that of 50 steps after 10, waited for at both ends. Trainings go through `cnntrain fit`; their seconds
are those of its epochs.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from cnntrain.runtime.devices import hardware, prepare
from cnntrain.runtime.tables import render
from scripts.gpu import runs
from scripts.gpu.rows import Check, Given, Row, row
from scripts.gpu.steps import beside_steps, crops, determinism, steps, waiting

SIZES = [("resnet20", 128), ("lenet5", 128), ("resnet20", 512), ("lenet5", 2048), ("resnet20", 2048), ("lenet5", 512)]
# In the order of their worth, with the most seconds that each may take.
CHECKS: dict[str, tuple[float, Check]] = {
    "waits": (30, waiting),
    "steps": (60, steps(SIZES, ["plain", "captured"])),
    "recipe": (150, runs.recipe),
    "beside steps": (20, beside_steps),
    "fit": (45, runs.fit_beside_step),
    "compiled": (150, steps(SIZES, ["compiled and captured"])),
    "tests": (120, runs.tests),
    "peers": (90, runs.peers),
    "packs": (60, runs.packs),
    "determinism": (30, determinism),
    "two processes": (40, runs.two_processes),
    "crops": (20, crops),
    "reference": (300, runs.reference),
}


def main() -> None:
    """Take every check for which time is left, or the one that `--only` names, in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default="data", help="where cifar10 and tiny-imagenet-20 lie")
    parser.add_argument("--reference", default="", help="path of airbench94_muon.py, unmodified")
    parser.add_argument("--smoke", action="store_true", help="tiny work on a CPU, which is no measurement")
    parser.add_argument("--output", type=Path, default=Path("gpu"), help="folder for gpu.json and gpu.md")
    parser.add_argument("--minutes", type=float, default=8.0, help="the time in which no further check begins")
    parser.add_argument("--only", choices=CHECKS, help=argparse.SUPPRESS)
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"only these: {', '.join(CHECKS)}")
    args = parser.parse_args()
    given = Given(args.data_root, args.reference, args.smoke)
    if not (args.smoke or torch.cuda.is_available()):
        parser.error("torch sees no GPU here; --smoke shows on a CPU that the checks run")
    if unknown := set(args.checks) - set(CHECKS):
        parser.error(f"no such check: {', '.join(unknown)}; choose from {', '.join(CHECKS)}")
    if args.only:
        answer(CHECKS[args.only][1], given)
        return
    ends, found = time.monotonic() + 60 * args.minutes, list[Row]()
    for name, (most, _) in CHECKS.items():
        if not args.checks or name in args.checks:
            before, began = len(found), time.monotonic()
            for one in ask(name, given, min(most, ends - began)):
                found.append(one)
                keep(found, args.output, smoke=args.smoke)
            print(f"{name}: {len(found) - before} rows, {time.monotonic() - began:.0f} s", flush=True)
    print(render(found))


def answer(check: Check, given: Given) -> None:
    """Print the rows of a check on standard output as they come, one JSON object a line."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it once, before its first product
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a command prints is no row
    torch.set_float32_matmul_precision("high")
    prepare(deterministic=False)
    for one in check(given):
        print(json.dumps(one), file=out, flush=True)


def ask(name: str, given: Given, left: float) -> Iterator[Row]:
    """Yield the rows of a check in a process of its own, and at last what became of it if that was not all."""
    if left < 5:
        yield row(name, None, "", "not measured: no time was left")
        return
    words = [sys.executable, "-m", "scripts.gpu", "--only", name, f"--data-root={given.data_root}"]
    words += [f"--reference={given.reference}", *["--smoke"] * given.smoke]
    ends = time.monotonic() + left
    with subprocess.Popen(words, cwd=runs.ROOT, stdout=subprocess.PIPE, text=True, process_group=0) as process:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        while (ended := process.poll()) is None and time.monotonic() < ends:
            yield from map(json.loads, process.stdout)
            time.sleep(0.1)
        if ended is None:
            os.killpg(process.pid, signal.SIGKILL)  # with its compilers and workers
        yield from map(json.loads, process.stdout)
    if ended is None:
        yield row(name, None, "", f"ended after {left:.0f} s")
    elif ended:
        yield row(name, None, "", f"failed with exit code {ended}")


def keep(found: list[Row], folder: Path, *, smoke: bool) -> None:
    """Leave the rows as a table and as numbers."""
    card = "smoke run on a CPU, no measurement" if smoke else torch.cuda.get_device_name()
    machine = {"gpu": card, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"), **hardware()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(json.dumps({"machine": machine, "rows": found}, indent=1))
    table = render(found, "markdown")
    (folder / "gpu.md").write_text(f"{card}, torch {torch.__version__}, {machine['date']}.\n\n{table}\n")


if __name__ == "__main__":
    main()
