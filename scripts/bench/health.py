"""What a user feels or relies on and no peer is needed for: evaluation, start-up, synchronisation, resuming."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from statistics import median

from scripts.bench.work import DATA, Clock, Task, network, parameters

HELP = ("-m", "cnntrain", "--help")
IMPORT = ("-c", "import torch")
TINY = (
    *("-m", "cnntrain", "fit", "dataset=synthetic", "dataset.train_images=64", "dataset.test_images=16"),
    *("augmentation=none", "trainer.batch_size=32", "dataset.val_size=0", "trainer.epochs=1"),
)


def process(task: Task, clock: Clock, words: tuple[str, ...], times: int, scale: float = 1.0) -> None:
    """Start Python with these words several times; the value is the median time, in seconds times `scale`.

    Modules are compiled once, as they are in an installed package, whatever the environment says.
    """
    seconds = []
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(times):
        with tempfile.TemporaryDirectory() as scratch:
            own = [f"output_dir={scratch}/run"] if "fit" in words else []
            began = time.perf_counter()
            subprocess.run([sys.executable, *words, *own], check=True, capture_output=True, env=environment)
            seconds.append(time.perf_counter() - began)
    clock.add(median(seconds), 1)
    clock.note(value=scale * median(seconds))


def evaluate(task: Task, clock: Clock, views: str) -> None:
    """Evaluate images in memory, as `cnntrain eval` does."""
    import torch

    from cnntrain.data.augment.tta import TTA
    from cnntrain.data.loading.loader import eval_batches
    from cnntrain.data.storage.images import DatasetInfo, Pixels, Split
    from cnntrain.training.evaluate import outputs

    device, precision, net = made(task)
    data = DATA[task.data]
    channels, height, width = data.shape
    images = torch.randint(256, (task.images, height, width, channels), dtype=torch.uint8)
    split = Split(Pixels(images), torch.arange(task.images) % data.classes)
    info = DatasetInfo("random", tuple(map(str, range(data.classes))), data.shape, data.mean, data.std)

    def once() -> None:
        batches = eval_batches(split, info, batch_size=task.batch_size, device=device)
        outputs(net, batches, precision=precision, views=TTA[views])

    repeat(task, clock, once, parameters(net))


def forward(task: Task, clock: Clock, views: str) -> None:
    """Do the same forward passes on one batch that lies ready."""
    import torch

    from cnntrain.data.augment.tta import TTA
    from cnntrain.runtime.devices import autocast

    device, precision, net = made(task)
    x = torch.randn(task.batch_size, *DATA[task.data].shape).to(device).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def once() -> None:
        for _ in range(task.steps * len(TTA[views])):
            with autocast(precision, device):
                net(x)
        if device.type == "cuda":
            torch.cuda.synchronize()

    net.eval()
    repeat(task, clock, once, parameters(net))


def made(task: Task) -> tuple:
    """Return the device, its precision and the network of a task on it."""
    import torch

    from cnntrain.nn.precision import precision_for
    from cnntrain.runtime.devices import choose_device, prepare

    prepare(deterministic=False)
    device = choose_device("auto")
    net = network(task).to(device).to(memory_format=torch.channels_last)
    return device, precision_for("auto", device, (net, DATA[task.data].shape)), net


def repeat(task: Task, clock: Clock, once: Callable[[], None], count: int) -> None:
    """Time an evaluation, once to warm up and then as often as the task says."""
    clock.note(parameters=count)
    for _ in range(1 + task.epochs):
        clock.begin()
        once()
        clock.end(task.steps * task.batch_size)


def synchronisations(task: Task, clock: Clock) -> None:
    """Count how often a step makes the host wait for a number of the device, over twenty steps on a resident feed."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from cnntrain.data.augment.augmentations import AUGMENTATIONS
    from cnntrain.data.loading.loader import ResidentLoader
    from cnntrain.data.storage.images import DatasetInfo, Pixels, Split
    from scripts.bench.limit import train_step

    device, _, _ = made(task)
    data = DATA[task.data]
    channels, height, width = data.shape
    images = torch.randint(256, (22 * task.batch_size, height, width, channels), dtype=torch.uint8)
    split = Split(Pixels(images), torch.arange(len(images)) % data.classes)
    info = DatasetInfo("random", tuple(map(str, range(data.classes))), data.shape, data.mean, data.std)
    parts = {"flip": AUGMENTATIONS["flip"](), "crop": AUGMENTATIONS["crop"](padding=4)}
    loader = ResidentLoader(split, info, batch_size=task.batch_size, parts=parts, seed=0, device=device)
    student = train_step(task, device)
    student.program.rates = [task.lr] * 22
    student.update(loader, 0)
    student.update(loader, 1)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for step in range(2, 22):
            student.update(loader, step)
    looks = {event.key: event.count for event in seen.key_averages()}
    clock.note(value=looks.get("aten::_local_scalar_dense", 0) / 20)


def resume(task: Task, clock: Clock) -> None:
    """Let `check_resume=true` compare a cut and resumed training with one undisturbed; 0: no bit differs."""
    done = subprocess.run([sys.executable, *TINY, "check_resume=true"], check=False, stdout=sys.stderr)
    clock.note(value=done.returncode)
