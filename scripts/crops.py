"""What windows cut from small packed images cost in accuracy, beside torchvision's RandomResizedCrop on the files.

    python -m scripts.crops --data-root data/tiny-imagenet-20

`--data-root` holds train/<class>/* and test/<class>/* or val. All ways train ResNet-20 at 32 pixels from the same
weights on the same images in the same order, and are measured on the same central squares of the test images; they
differ in what a window is cut from: the whole file, decoded each time, or its central square in a pack of 37 or 64
pixels a side. The same command goes on where it was stopped, and `--only` trains a part of the ways, in a process of
its own.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from cnntrain.data.augment.augmentations import AUGMENTATIONS, Plan
from cnntrain.data.datasets.registry import load
from cnntrain.data.loading.batch import Batch
from cnntrain.data.loading.loader import Loader, StreamedLoader, eval_batches, plan_epoch
from cnntrain.data.storage.images import Dataset
from cnntrain.models import MODELS
from cnntrain.nn.stages import BuildOptions
from cnntrain.runtime.devices import choose_device, choose_precision, prepare
from cnntrain.runtime.tables import render
from cnntrain.stats.paired_tests import compare_over_seeds
from cnntrain.tasks import task_for
from cnntrain.training.evaluate import answers
from cnntrain.training.loop import TrainProgress, train
from cnntrain.training.lr_schedules import cosine
from cnntrain.training.optimizers import sgd
from cnntrain.training.step import TrainStep
from cnntrain.training.step_program import StepSettings
from cnntrain.training.train_state import TrainState

FILES, STORED = "files", ("37", "64")  # 8/7 of the network's size, as 256 is of 224, and twice
SIDE, BATCH, EPOCHS, RATE, SEEDS = 32, 50, 4, 0.1, 7  # two comparisons need seven seeds


class Files:
    """A loader that reads each image from its file when its turn comes, as torchvision's reference does."""

    def __init__(self, folder: Path, data: Dataset, size: int, batch_size: int, seed: int) -> None:
        self.files, self.labels = ImageFolder(folder), data.train.labels
        assert self.files.targets == self.labels.tolist()
        self.batch_size, self.batches, self.seed, self.place = batch_size, len(self.labels) // batch_size, seed, 0
        self.plan = self.planned(0)
        self.change = v2.Compose(
            [
                *(v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()),
                *(v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(data.info.mean, data.info.std)),
            ]
        )

    def planned(self, epoch: int) -> Plan:
        """Return the order of an epoch, which is that of every loader."""
        return plan_epoch(self.labels.numpy(), self.batch_size, self.seed, epoch, balanced=False)

    def seek(self, epoch: int, place: int) -> None:
        """Go to a batch."""
        if epoch != self.plan.epoch:
            self.plan = self.planned(epoch)
        self.place = place

    def batch(self) -> Batch:
        """Read the batch at this place."""
        index = self.plan.index[self.place]
        self.place += 1
        images = torch.stack([self.change(self.files.loader(self.files.samples[i][0])) for i in index])
        labels = self.labels[torch.from_numpy(index)]
        return Batch(images.contiguous(memory_format=torch.channels_last), labels, labels)

    def close(self) -> None:
        """Nothing to let go of."""


def learn(way: str, seed: int, root: Path, packs: Path) -> float:
    """Train one network, its windows from the files or from a pack of so many pixels; return its test top-1."""
    torch.manual_seed(seed)  # which torchvision draws from
    device, precision = choose_device("cpu"), choose_precision("auto", torch.device("cpu"))
    shown = {"image_size": SIDE, "stored_size": round(SIDE * 8 / 7)}  # the centre of this is looked at
    tested = load("folder", root, shown, val_size=0, cache="pack", packs=packs)
    loader: Loader
    if way == FILES:
        loader = Files(root / "train", tested, SIDE, BATCH, seed)
    else:
        data = load("folder", root, shown | {"stored_size": int(way)}, val_size=0, cache="pack", packs=packs)
        parts = {name: AUGMENTATIONS[name]() for name in ("flip", "resized_crop")}
        info = tested.info  # one mean and deviation for all
        loader = StreamedLoader(data.train, info, device=device, parts=parts, workers=0, batch_size=BATCH, seed=seed)
    net = MODELS["resnet20"](tested.info.shape, len(tested.info.classes), BuildOptions(seed=seed)).to(
        memory_format=torch.channels_last
    )
    total = EPOCHS * loader.batches
    rates = [RATE * float(factor) for factor in cosine(torch.arange(total).numpy(), total)]
    optimizer = sgd(net, lr=RATE, momentum=0.9, weight_decay=5e-4)
    settings = StepSettings(precision=precision, seed=seed)
    train_step = TrainStep(TrainState(net, optimizer), rates, task_for(tested.info), settings)
    for record in train(train_step, loader, None, at=TrainProgress(), epochs=EPOCHS, save=lambda which: None):
        if "seconds" in record:
            print(f"{way} {seed}: {record}", flush=True)
    loader.close()
    assert tested.test
    batches = eval_batches(tested.test, tested.info, batch_size=500, device=device)
    return float(task_for(tested.info).validate(answers(net, batches, precision=precision))["top1"])


def main() -> None:
    """Train all ways under each seed, keep each accuracy as it is there, and hold them against each other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/crops"))
    parser.add_argument("--only", nargs="+", choices=[FILES, *STORED], help="train these; nothing is compared")
    given = parser.parse_args()
    prepare(deterministic=False)
    given.output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, float]] = []
    for seed in range(SEEDS):
        row: dict[str, float] = {}
        for way in given.only or [FILES, *STORED]:
            kept = given.output / f"{way}_{seed}.json"
            if not kept.exists():
                kept.write_text(json.dumps(learn(way, seed, given.data_root, given.output / "packs")))
            row[way] = json.loads(kept.read_text())
        rows.append({"seed": seed} | row)
    print(render(rows, "markdown"))
    if not given.only:
        differences = [[row[way] - row[FILES] for row in rows] for way in STORED]
        print(render([asdict(test) for test in compare_over_seeds(FILES, STORED, differences)], "markdown"))


if __name__ == "__main__":
    main()
