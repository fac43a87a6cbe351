"""Kill a training at random, again and again, and compare its last bits with those of one that nobody disturbed.

    python scripts/chaos.py --kills 100
    python scripts/chaos.py --kills 20 -- model=resnet20 dataset=synthetic dataset.channels=3 trainer.ema=0.99

Words after `--` are settings of `cnntrain fit` instead of the default ones. Each life of the training is one command
line; it is killed with SIGKILL after a random time from its first step on, and the last life runs to its end. Then
weights, optimizer, place and metrics of the two runs must agree to the bit. Exit code 1 if they do not.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cnntrain.runs.resume import same
from cnntrain.training import checkpoints

DEFAULT = (
    *("model=lenet5", "dataset=synthetic", "augmentation=digits", "trainer.batch_size=32", "trainer.ema=0.99"),
    *("trainer.epochs=400", "trainer.checkpoint_seconds=0", "trainer.log_every=5", "device=cpu"),
)
TIMES = ("seconds", "samples_per_second")


def start(words: list[str], folder: Path) -> subprocess.Popen[str]:
    """Start one life of a training."""
    command = [sys.executable, "-m", "cnntrain", "fit", *words, f"output_dir={folder}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for a training to end well."""
    _, err = process.communicate()
    if process.returncode:
        sys.exit(f"the training failed by itself:\n{err}")


def live_and_die(words: list[str], folder: Path, longest: float) -> bool:
    """Start a life and kill it; return whether it had ended before."""
    metrics = folder / "metrics.jsonl"
    before = metrics.stat().st_size if metrics.exists() else 0
    with start(words, folder) as process:
        while process.poll() is None and (metrics.stat().st_size if metrics.exists() else 0) <= before:
            time.sleep(0.01)
        time.sleep(random.uniform(0, longest))  # noqa: S311 - not for secrets
        ended = process.poll() is not None
        process.kill()
        process.communicate()
    return ended


def rows(folder: Path) -> list[dict[str, object]]:
    """Return a run's metrics without the times."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def main() -> None:
    """Disturb one run, leave another alone, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--longest", type=float, default=1.0, help="seconds that a life lasts at most")
    parser.add_argument("--seed", type=int, default=0, help="of the times of death")
    parser.add_argument("words", nargs="*", default=list(DEFAULT))
    args = parser.parse_args()
    random.seed(args.seed)
    with tempfile.TemporaryDirectory() as scratch:
        quiet, disturbed = Path(scratch, "quiet"), Path(scratch, "disturbed")
        finish(start(args.words, quiet))
        kills = 0
        while kills < args.kills:
            if live_and_die(args.words, disturbed, args.longest):
                break
            kills += 1
            print(f"killed {kills} times", file=sys.stderr, end="\r")
        finish(start(args.words, disturbed))
        one, other = (checkpoints.load(run / "checkpoints" / "last.pt") for run in (quiet, disturbed))
        keys = [key for key in one if not same(one[key], other[key])]
        if rows(quiet) != rows(disturbed):
            keys.append("metrics")
        steps = one["progress"]["step"]
    print(f"{kills} kills in {steps:,} steps: {'the same bits' if not keys else ', '.join(keys) + ' differ'}")
    sys.exit(bool(keys))


if __name__ == "__main__":
    main()
