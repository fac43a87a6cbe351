"""cnntrain as it is used: the command line, in this process."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from scripts.bench.work import DATA, WHERE, Clock, Task

AUGMENTED = {
    "none": ["augmentation=none"],
    "crop": ["augmentation=none", "+augmentation.crop.padding=2", "+augmentation.crop.border=zero"],
    "affine": ["augmentation=digits"],
    "crop_flip": ["augmentation=crop_flip"],
}


def words(task: Task, epochs: int) -> list[str]:
    """Return the words of a task."""
    data = (
        [f"dataset={task.data}"] if task.data in WHERE else ["dataset=folder", f"dataset.root={task.root}/{task.data}"]
    )
    size = (
        [f"dataset.train_images={task.images}"] if task.data == "synthetic" else [f"dataset.train_size={task.images}"]
    )
    return [
        *(f"model={task.network}", *data, *size, "dataset.val_size=0", f"data_root={task.root}"),
        *AUGMENTED[task.augmentation],
        *("optimizer=sgd", f"optimizer.lr={task.lr}", "schedule=constant"),
        *(f"trainer.epochs={epochs}", f"trainer.batch_size={task.batch_size}"),
    ]


def images(task: Task, clock: Clock) -> None:
    """Go through a folder's images without a network: decode them into a pack, read it, cut on the device."""
    from cnntrain.data.augment.augmentations import AUGMENTATIONS
    from cnntrain.data.datasets.registry import load
    from cnntrain.data.loading.loader import StreamedLoader
    from cnntrain.runtime.devices import choose_device, prepare

    prepare(deterministic=False)
    device, size = choose_device("auto"), DATA[task.data].shape[1]
    parts = {"flip": AUGMENTATIONS["flip"](), "resized_crop": AUGMENTATIONS["resized_crop"]()}
    sizes = {"image_size": size, "stored_size": round(size * 256 / 224)}
    with tempfile.TemporaryDirectory() as scratch:
        folder, packs = Path(scratch) / task.data, Path(scratch)
        repeat(Path(task.root) / task.data, folder, task.images)
        clock.begin()
        data = load(
            "folder", folder, sizes, train_size=task.images, val_size=0, cache="pack", packs=packs, only="train"
        )
        settings: dict[str, Any] = {"batch_size": task.batch_size, "parts": parts, "seed": 0}
        loader = StreamedLoader(data.train, data.info, device=device, workers=0, **settings)
        for epoch in range(1 + task.epochs):
            for place in range(loader.batches):
                loader.seek(epoch, place)
                loader.batch()
            clock.end(loader.batches * task.batch_size)
            clock.begin()
        loader.close()


def repeat(source: Path, folder: Path, images: int) -> None:
    """Make a folder of at least so many images whose files are links to those of `source`, to each several times."""
    for split in source.iterdir():
        files = sorted(split.resolve().glob("*/*"))
        for copy in range(-(-images // len(files)) if split.name == "train" else 1):
            for file in files:
                link = folder / split.name / file.parent.name / f"{copy}_{file.name}"
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(file)


def fit(task: Task, clock: Clock) -> None:
    """Train as the command line does and read the epochs' times from the run's records."""
    from cnntrain.cli.main import main
    from scripts.bench.work import network, parameters

    with tempfile.TemporaryDirectory() as scratch:
        code = main(["fit", *words(task, 1 + task.epochs), f"output_dir={scratch}/run"])
        if code:
            raise SystemExit(code)
        read(Path(scratch) / "run", clock)
    clock.note(parameters=parameters(network(task)))


def fit_busy(task: Task, clock: Clock) -> None:
    """Train while a foreign process computes on every core."""
    until_left = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
    words = [sys.executable, "-S", "-c", until_left]
    foreign = [subprocess.Popen(words) for _ in range(os.cpu_count() or 1)]
    try:
        time.sleep(1)  # until all of them run
        fit(task, clock)
    finally:
        for process in foreign:
            process.kill()
            process.wait()


def ranks(task: Task, clock: Clock, processes: int, threads: int) -> None:
    """Train in several processes that torchrun starts, each with so many threads."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command += ["-m", "cnntrain", "fit", *words(task, 1 + task.epochs), f"output_dir={scratch}/run"]
        subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, check=True, stdout=sys.stderr)
        read(Path(scratch) / "run", clock)


def read(run: Path, clock: Clock) -> None:
    """Report the epochs of a run that has ended."""
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if "seconds" in record:
            samples = round(record["seconds"] * record["samples_per_second"])
            clock.add(record["seconds"], samples, record["loss"])
