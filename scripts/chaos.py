"""Kill a training at random, again and again, and compare its last bits with those of one that nobody disturbed.

    python scripts/chaos.py --kills 100
    python scripts/chaos.py --kills 20 -- model=resnet20 dataset=synthetic dataset.channels=3 trainer.ema=0.99

Words after `--` are settings of `cnntrain fit` instead of the default ones. Each life of the training is a process
of its own, forked from one that has imported what a training needs; it is killed with SIGKILL after a random time from
its first step on, and the last life runs to its end. Then weights, optimizer, place and metrics of the two runs must
agree to the bit. Exit code 1 if they do not.
"""

import argparse
import contextlib
import json
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from cnntrain.cli.main import main as cnntrain
from cnntrain.runs.resume import same
from cnntrain.training import checkpoints

DEFAULT = (
    *("model=lenet5", "dataset=synthetic", "augmentation=digits", "trainer.batch_size=32", "trainer.ema=0.99"),
    *("trainer.epochs=400", "trainer.checkpoint_seconds=0", "trainer.log_every=5", "device=cpu"),
)
TIMES = ("seconds", "samples_per_second")
SAID = "said.txt"  # beside a run's folder: what its lives have printed


def live(words: Sequence[str], folder: Path) -> None:
    """Train, or go on training, in this process; a training that fails by itself ends it with its exit code."""
    with (folder.parent / SAID).open("a") as sink, contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        sys.exit(cnntrain(["fit", *words, f"output_dir={folder}"]))


def start(words: Sequence[str], folder: Path) -> BaseProcess:
    """Start one life of a training."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cnntrain.commands.fit", "cnntrain.cli.launcher"])
    process = context.Process(target=live, args=(list(words), folder))
    process.start()
    return process


def finish(process: BaseProcess, folder: Path) -> None:
    """Wait for a training to end well."""
    process.join()
    if process.exitcode:
        sys.exit(f"the training failed by itself:\n{(folder.parent / SAID).read_text()}")


def live_and_die(words: Sequence[str], folder: Path, longest: float) -> bool:
    """Start a life and kill it; return whether it had ended before."""
    metrics = folder / "metrics.jsonl"
    before = metrics.stat().st_size if metrics.exists() else 0
    process = start(words, folder)
    while process.is_alive() and (metrics.stat().st_size if metrics.exists() else 0) <= before:
        time.sleep(0.01)
    time.sleep(random.uniform(0, longest))  # noqa: S311 - not for secrets
    ended = not process.is_alive()
    process.kill()
    process.join()
    return ended


def rows(folder: Path) -> list[dict[str, object]]:
    """Return a run's metrics without the times."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def main(argv: Sequence[str] | None = None) -> bool:
    """Disturb one run, leave another alone, compare; return whether they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--longest", type=float, default=1.0, help="seconds that a life lasts at most")
    parser.add_argument("--seed", type=int, default=0, help="of the times of death")
    parser.add_argument("words", nargs="*", default=list(DEFAULT))
    args = parser.parse_args(argv)
    random.seed(args.seed)
    with tempfile.TemporaryDirectory() as scratch:
        quiet, disturbed = Path(scratch, "quiet"), Path(scratch, "disturbed")
        finish(start(args.words, quiet), quiet)
        kills = 0
        while kills < args.kills:
            if live_and_die(args.words, disturbed, args.longest):
                break
            kills += 1
            print(f"killed {kills} times", file=sys.stderr, end="\r")
        finish(start(args.words, disturbed), disturbed)
        one, other = (checkpoints.load(run / "checkpoints" / "last.pt") for run in (quiet, disturbed))
        keys = [key for key in one if not same(one[key], other[key])]
        if rows(quiet) != rows(disturbed):
            keys.append("metrics")
        steps = one["progress"]["step"]
    print(f"{kills} kills in {steps:,} steps: {'the same bits' if not keys else ', '.join(keys) + ' differ'}")
    return bool(keys)


if __name__ == "__main__":
    sys.exit(main())
