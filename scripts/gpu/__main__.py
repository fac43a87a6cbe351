"""What only a machine with a GPU can show, in one command of at most eight minutes: tests, times of a step, a record.

    python -m scripts.gpu --data-root data --reference airbench94_muon.py

It needs torch, torchvision, numpy, scipy, scikit-learn, filelock, PyYAML, tqdm, matplotlib and pytest; Hydra only for
those tests of `tests/gpu` that go through the command line, which are skipped without. In `--data-root` lies CIFAR-10
as cifar10/train/<class>/* and cifar10/test/<class>/*, and `--reference` is the unmodified airbench94_muon.py
(github.com/KellerJordan/cifar10-airbench), which is run on the same pixels. Without them their rows say "not measured",
as do rows for which no time is left. The table and the numbers are left in `--output` as gpu.md and gpu.json.

A step's time is that of 50 steps after 10, waited for at both ends. Runs of the recipe are timed from the first weights
to the last step, with the whitening and the recording, without reading the images; the original's by its own main(),
after its own warm-up, with its evaluations.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from cnntrain.runtime.devices import hardware, prepare
from cnntrain.runtime.errors import CnntrainError
from cnntrain.runtime.tables import render
from scripts.gpu.record import record
from scripts.gpu.steps import Check, Row, crops, determinism, steps, tests, waiting

# In the order of their worth, with the most seconds that each may take.
CHECKS: dict[str, tuple[float, Check]] = {
    "tests": (180, tests),
    "host waits": (20, waiting),
    "recipe": (130, record),
    "steps": (
        60,
        steps([(name, size) for name in ("resnet20", "lenet5") for size in (128, 512, 2048)], ["eager", "graph"]),
    ),
    "recipe's steps": (60, steps([("airbench", 2000)], ["eager", "graph", "compile", "compile+graph"])),
    "compiled steps": (60, steps([("resnet20", 512), ("lenet5", 512)], ["compile", "compile+graph"])),
    "crops": (15, crops),
    "determinism": (20, determinism),
}


def main() -> None:
    """Take every check for which time is left; print and keep the table."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it once, before its first product
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default="data", help="where cifar10/train and cifar10/test lie")
    parser.add_argument("--reference", default="", help="path of airbench94_muon.py, unmodified")
    parser.add_argument("--output", default="gpu", help="folder for gpu.json and gpu.md")
    parser.add_argument("--minutes", type=float, default=8.0, help="the time in which no further check begins")
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"only these: {', '.join(CHECKS)}")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("python -m scripts.gpu needs a GPU, and torch sees none here", file=sys.stderr)
        raise SystemExit(2)
    torch.set_float32_matmul_precision("high")
    prepare(deterministic=False)
    ends, found = time.monotonic() + 60 * args.minutes, list[Row]()
    for name, (most, check) in CHECKS.items():
        if args.checks and name not in args.checks:
            continue
        left, began = min(most, ends - time.monotonic()), time.monotonic()
        rows: list[Row] = []
        try:
            if left > 5:
                rows = check(args, left)
        except (CnntrainError, OSError, RuntimeError, subprocess.SubprocessError) as error:
            print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}", file=sys.stderr)
        found += rows or [{"what": name, "value": None, "unit": "", "note": "not measured"}]
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    keep(found, Path(args.output))


def keep(found: list[Row], folder: Path) -> None:
    """Print the rows and leave them as a table and as numbers."""
    gpu = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, **hardware()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(json.dumps({"machine": gpu, "rows": found}, indent=1, default=str))
    shown = [r | {"value": "not measured" if r["value"] is None else f"{r['value']:,.3f}"} for r in found]
    print(f"{gpu['gpu']}, torch {gpu['torch']}\n\n{render(shown)}")
    lines = [f"{gpu['gpu']}, torch {gpu['torch']}.", "", "| what | value | unit | note |", "|---|---|---|---|"]
    lines += [f"| {r['what']} | {r['value']} | {r['unit']} | {r['note']} |" for r in shown]
    (folder / "gpu.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
