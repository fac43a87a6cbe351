"""How the speed of a training grows with its processes and threads on this machine, by `cnntrain fit` under torchrun.

    python scripts/bench_ranks.py                       # 1 and 2 processes of one thread, 1 of two; three rounds
    python scripts/bench_ranks.py --ways 1x1 2x1 4x1 1x4 --networks resnet20

A way is processes x threads. All train on the same drawn images with the same global batch; the ways take turns, and
the median over the rounds of the last epoch's images a second is reported beside that of the first way.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from cnntrain.tables import render

EPOCHS = 4  # the first ones warm up
NETWORKS = {  # words, and images of an epoch
    "lenet5": ("model=lenet5", "dataset.train_images=12800"),
    "resnet20": ("model=resnet20", "dataset.channels=3", "dataset.image_size=32", "dataset.train_images=2560"),
}


def speed(words: tuple[str, ...], processes: int, threads: int, batch: int) -> float:
    """Return the images a second of the last epoch of a training."""
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command += ["-m", "cnntrain", "fit", *words, "dataset=synthetic", "dataset.val_size=100", "augmentation=none"]
        command += [f"trainer.batch_size={batch}", f"trainer.epochs={EPOCHS}", "trainer.tensorboard=false"]
        command += [f"trainer.validate_every={EPOCHS}", "trainer.checkpoint_seconds=999", f"output_dir={run}"]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return float([record["samples_per_second"] for record in records if "samples_per_second" in record][-1])


def main() -> None:
    """Measure every way in every round, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--ways", nargs="+", default=["1x1", "2x1", "1x2"], help="processes x threads")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=128)
    args = parser.parse_args()
    rows = []
    for network in args.networks:
        found: dict[str, list[float]] = {way: [] for way in args.ways}
        for _ in range(args.rounds):
            for way in args.ways:
                processes, threads = map(int, way.split("x"))
                found[way].append(speed(NETWORKS[network], processes, threads, args.batch))
        first = median(found[args.ways[0]])
        for way, speeds in found.items():
            middle = median(speeds)
            shown = {"images/s": round(middle), "least": round(min(speeds)), "most": round(max(speeds))}
            rows.append({"network": network, "processes x threads": way, **shown, "times": f"{middle / first:.2f}"})
    print(render(rows))


if __name__ == "__main__":
    main()
