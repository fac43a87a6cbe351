"""A grid of short trainings of LeNet-5 on MNIST: `cnntrain ablate`, and a plain script in a process a cell."""

import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scripts.bench.work import Clock, Task

CELLS = list(itertools.product(("relu", "tanh", "sigmoid", "leaky_relu"), ("max", "avg"), ("0.05", "0.02")))
SEEDS = 3
SHARE = 4  # the plain script runs every so many of the grid's cells, and its time is multiplied
PLAIN = """
import sys, torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import MNIST

activation, pool, lr, seed, root, images, epochs = sys.argv[1:]
torch.manual_seed(int(seed))
act = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "leaky_relu": nn.LeakyReLU}[activation]
down = nn.MaxPool2d if pool == "max" else nn.AvgPool2d
net = nn.Sequential(
    nn.Conv2d(1, 6, 5, padding=2), act(), down(2), nn.Conv2d(6, 16, 5), act(), down(2), nn.Flatten(),
    nn.Linear(400, 120), act(), nn.Linear(120, 84), act(), nn.Linear(84, 10),
)
prepare = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
train = Subset(MNIST(root, train=True, transform=prepare), torch.randperm(60000)[:int(images)].tolist())
test = MNIST(root, train=False, transform=prepare)
loader = DataLoader(train, 128, shuffle=True, drop_last=True)
optimizer = torch.optim.SGD(net.parameters(), lr=float(lr), momentum=0.9, nesterov=True, weight_decay=5e-4)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, float(lr), total_steps=int(epochs) * len(loader))
for _ in range(int(epochs)):
    net.train()
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        schedule.step()
net.eval()
with torch.no_grad():
    right = sum((net(x).argmax(1) == y).sum().item() for x, y in DataLoader(test, 500))
print(right / len(test))
"""


def cells(task: Task) -> list[tuple[str, str, str]]:
    """Return the variants of a grid: all of them, or four when it is small."""
    return CELLS if task.images >= 10000 else CELLS[:4]


def ablate(task: Task, clock: Clock) -> None:
    """Run the grid as one study, as many trainings at a time as `cnntrain ablate` finds right."""
    first, *others = cells(task)
    variants = {"_".join(cell): settings(cell) for cell in others}
    words = [*settings(first), "model=lenet5", "dataset=mnist", f"data_root={task.root}"]
    words += [f"dataset.train_size={task.images}", "dataset.val_size=0", "augmentation=none"]
    words += [f"trainer.epochs={task.epochs}", f"trainer.batch_size={task.batch_size}"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "study").mkdir()
        (folder / "study" / "grid.yaml").write_text(f"name: grid\nvariants: {json.dumps(variants)}\n")
        command = [sys.executable, "-m", "cnntrain", "ablate", f"--config-dir={folder}", "study=grid", f"seeds={SEEDS}"]
        clock.begin()
        done = subprocess.run(
            [*command, *words, f"output_dir={folder / 'made'}", "--json"], stdout=subprocess.PIPE, check=True
        )
        found = [row["top1"] for row in json.loads(done.stdout)["rows"]]
        clock.end(len(found), 1 - sum(found) / len(found))


def settings(cell: tuple[str, str, str]) -> list[str]:
    """Return the words of a cell."""
    return [
        f"{key}={value}" for key, value in zip(("model.activation", "model.pool", "optimizer.lr"), cell, strict=True)
    ]


def plain(task: Task, clock: Clock) -> None:
    """Run a quarter of the cells, evenly spread, one after the other with all cores; the time is that of the whole."""
    whole = list(itertools.product(range(SEEDS), cells(task)))
    chosen = whole[::SHARE]
    right = 0.0
    began = time.perf_counter()
    for seed, cell in chosen:
        words = [*cell, str(seed), task.root, str(task.images), str(task.epochs)]
        done = subprocess.run([sys.executable, "-c", PLAIN, *words], stdout=subprocess.PIPE, check=True, text=True)
        right += float(done.stdout)
    seconds = (time.perf_counter() - began) * len(whole) / len(chosen)
    clock.add(seconds, len(whole), 1 - right / len(chosen))
    clock.note(part=f"{len(chosen)} of {len(whole)} trainings")
