"""A grid of 48 short trainings: `cnntrain ablate` beside the same grid as a plain PyTorch script run once a cell.

    python scripts/bench_study.py --data-root data                 # 16 variants × 3 seeds of LeNet-5 on MNIST
    python scripts/bench_study.py --data-root data --plain-runs 12 # times a quarter of the plain runs

Each cell trains on 10,000 images for two epochs, batch size 128, and is measured on the 10,000 test images. The plain
script is what a tutorial would write: torchvision's MNIST, a `DataLoader`, one process a run with all cores. Both start
from files on the disk; interpreter, imports and reading count for both.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

GRID = list(itertools.product(("relu", "tanh", "sigmoid", "leaky_relu"), ("max", "avg"), ("0.05", "0.02")))
SEEDS = 3
PLAIN = """
import sys, torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import MNIST

activation, pool, lr, seed, root, workers = sys.argv[1:]
torch.manual_seed(int(seed))
act = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "leaky_relu": nn.LeakyReLU}[activation]
down = nn.MaxPool2d if pool == "max" else nn.AvgPool2d
net = nn.Sequential(
    nn.Conv2d(1, 6, 5, padding=2), act(), down(2), nn.Conv2d(6, 16, 5), act(), down(2), nn.Flatten(),
    nn.Linear(400, 120), act(), nn.Linear(120, 84), act(), nn.Linear(84, 10),
)
prepare = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
train = Subset(MNIST(root, train=True, transform=prepare), torch.randperm(60000)[:10000].tolist())
test = MNIST(root, train=False, transform=prepare)
settings = dict(num_workers=int(workers), persistent_workers=int(workers) > 0)
loader = DataLoader(train, 128, shuffle=True, drop_last=True, **settings)
optimizer = torch.optim.SGD(net.parameters(), lr=float(lr), momentum=0.9, nesterov=True, weight_decay=5e-4)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, float(lr), total_steps=2 * len(loader))
for _ in range(2):
    net.train()
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        schedule.step()
net.eval()
with torch.no_grad():
    right = sum((net(x).argmax(1) == y).sum().item() for x, y in DataLoader(test, 500, **settings))
print(right / len(test))
"""


def name(activation: str, pool: str, lr: str) -> str:
    """Return what a variant is called."""
    return f"{activation}_{pool}_{lr}"


def ours(data_root: Path, folder: Path) -> tuple[float, list[float]]:
    """Run the grid as a study; return its seconds and accuracies."""
    first, *others = GRID
    variants = {
        name(*cell): [f"model.activation={cell[0]}", f"model.pool={cell[1]}", f"optimizer.lr={cell[2]}"]
        for cell in others
    }
    (folder / "study").mkdir()
    (folder / "study" / "grid.yaml").write_text(f"name: grid\nvariants: {json.dumps(variants)}\n")
    words = [f"model.activation={first[0]}", f"model.pool={first[1]}", f"optimizer.lr={first[2]}"]
    words += ["model=lenet5", "dataset=mnist", f"data_root={data_root}", "dataset.train_size=10000"]
    words += ["dataset.val_size=0", "augmentation=none", "trainer.epochs=2", "trainer.batch_size=128"]
    command = [sys.executable, "-m", "cnntrain", "ablate", f"--config-dir={folder}", "study=grid", f"seeds={SEEDS}"]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, *words, f"output_dir={folder / 'made'}", "--json"], stdout=subprocess.PIPE, check=True
    )
    seconds = time.perf_counter() - began
    return seconds, [row["top1"] for row in json.loads(done.stdout)["rows"]]


def plain(data_root: Path, runs: int, workers: int) -> tuple[list[float], list[float]]:
    """Run cells of the grid as a plain script, evenly spread; return the seconds and the accuracy of each."""
    cells = list(itertools.product(range(SEEDS), GRID))
    seconds, found = [], []
    for i in range(runs):
        seed, cell = cells[i * len(cells) // runs]
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", PLAIN, *cell, str(seed), str(data_root), str(workers)],
            stdout=subprocess.PIPE, check=True, text=True,
        )  # fmt: skip
        seconds.append(time.perf_counter() - began)
        found.append(float(done.stdout))
        print(f"plain run {i + 1}/{runs}: {seconds[-1]:.1f} s", file=sys.stderr, end="\r")
    return seconds, found


def main() -> None:
    """Time both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="where MNIST/raw lies")
    parser.add_argument("--plain-runs", type=int, default=len(GRID) * SEEDS)
    parser.add_argument("--workers", type=int, default=0, help="of the plain script's DataLoader")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        study, accuracies = ours(args.data_root.resolve(), Path(scratch))
    seconds, found = plain(args.data_root.resolve(), args.plain_runs, args.workers)
    total = sum(seconds) * len(GRID) * SEEDS / len(seconds)
    print(f"cnntrain ablate: {study:.0f} s for {len(accuracies)} runs, mean top-1 {sum(accuracies) / 48:.4f}")
    print(
        f"plain script:    {total:.0f} s ({len(seconds)} runs timed, {median(seconds):.1f} s each), "
        f"mean top-1 {sum(found) / len(found):.4f}"
    )
    print(f"ratio:           {total / study:.1f}")


if __name__ == "__main__":
    main()
