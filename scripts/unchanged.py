"""What a change of structure must leave as it is: bits of weights, `--json` of studies, composed configurations.

    python -m scripts.unchanged keep before.json        # before the change
    python -m scripts.unchanged check before.json       # after it: exit code 1, and the names of what differs
    python -m scripts.unchanged check before.json --only 'describe|weights of lenet5'

Both on the same machine with the same torch; a few minutes. Everything goes through the command line, so that whatever
moves behind it is held against the same file.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # sums in one order; read when torch is imported

import torch
import yaml
from PIL import Image

from cnntrain.cli.main import COMMANDS, config_dir, main

Check = Callable[[], str]

SMALL = ("dataset=synthetic", "augmentation=none", "device=cpu", "trainer.tensorboard=false")
COLOUR = ("dataset.channels=3", "dataset.image_size=32", "dataset.train_images=160", "dataset.test_images=32")
TRAININGS: dict[str, tuple[str, ...]] = {
    "lenet5": ("model=lenet5", *SMALL, "augmentation=digits", "trainer.epochs=3"),
    "resnet20": ("model=resnet20", *SMALL, *COLOUR, "augmentation=crop_flip", "trainer.epochs=2"),
    "googlenet": ("model=googlenet", *SMALL, *COLOUR, "trainer.batch_size=16", "trainer.epochs=1"),
    "airbench": (
        *("model=airbench", *SMALL, *COLOUR, "optimizer=muon", "augmentation.alternating_flip={}"),
        *("trainer.freeze={whiten: 0.4}", "trainer.resize={24: 0.5}", "trainer.batch_size=16", "trainer.epochs=3"),
    ),
    "folder": (
        *("model=resnet18", "dataset=folder", "dataset.root=images", "dataset.image_size=32", "dataset.stored_size=48"),
        *("dataset.workers=2", "augmentation=resized_crop", "device=cpu", "trainer.tensorboard=false"),
        *("dataset.balance=weights", "trainer.batch_size=8", "trainer.epochs=2"),
    ),
    "accumulate": (
        *("model=lenet5", *SMALL, "augmentation.mixup={alpha: 0.2}", "optimizer=adamw", "optimizer.lr=0.001"),
        *("trainer.accumulate=2", "trainer.batch_size=16", "trainer.ema=0.95", "trainer.label_smoothing=0.1"),
        *("trainer.clip=1", "trainer.epochs=2"),
    ),
}
STUDIES: dict[str, tuple[str, ...]] = {
    "ablate": (
        "ablate",
        "model=lenet5",
        "remove=[[conv2],[fc4]]",
        "seeds=2",
        "trainer.epochs=2",
        "jobs=1",
        "device=cpu",
    ),
    "invariance": ("invariance", "run=lenet5", "warp=standard", "images=40", "figures=false", "device=cpu"),
    "compare": ("compare", "runs=[lenet5,accumulate]", "device=cpu"),
    "eval": ("eval", "run=lenet5", "tta=flip_shift", "device=cpu"),
}
NEEDED = ("weights of lenet5", "weights of accumulate")  # runs that studies read
PASSING = {  # keys of results that differ from one run to the next, or with the folder
    *(
        "seconds",
        "samples_per_second",
        "run_dir",
        "output",
        "output_dir",
        "folder",
        "record",
        "hardware",
        "started",
        "plan",
    ),
}


def output(*words: str, refusable: bool = False) -> str:
    """Return what a command line prints on standard output; it must succeed, or be `refusable`."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(io.StringIO()) as told:
        code = main(list(words))
    if code == 2 and refusable:
        return '{"refused": true}'
    if code:
        sys.exit(f"cnntrain {' '.join(words)} ended with {code}: {told.getvalue().strip()[-300:]}")
    return printed.getvalue()


def digest(value: object) -> str:
    """Return a short digest of text, or of what JSON writes of a value."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def lasting(value: Any) -> Any:
    """Return a result without what passes: times, folders, records of a machine."""
    if isinstance(value, dict):
        return {key: lasting(item) for key, item in value.items() if key not in PASSING}
    return [lasting(item) for item in value] if isinstance(value, list) else value


def weights(folder: Path) -> dict[str, str]:
    """Return a digest of every tensor in a run's last checkpoint."""
    state, found = torch.load(folder / "checkpoints" / "last.pt", weights_only=True), {}

    def add(name: str, value: object) -> None:
        if isinstance(value, torch.Tensor):
            bits = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            found[name] = hashlib.sha256(str((value.dtype, tuple(value.shape))).encode() + bits).hexdigest()
        elif isinstance(value, dict):
            for key, item in value.items():
                add(f"{name}.{key}", item)

    for part in ("model", "heads", "ema", "optimizer"):
        add(part, state.get(part))
    return found


def trained(name: str) -> str:
    """Train, and return a digest of the last weights and of every measured number."""
    output("fit", *TRAININGS[name], f"output_dir={name}")
    rows = [lasting(json.loads(line)) for line in (Path(name) / "metrics.jsonl").read_text().splitlines()]
    return digest([weights(Path(name)), rows])


def studied(name: str) -> str:
    """Run a study, and return a digest of its result."""
    return digest(lasting(json.loads(output(*STUDIES[name], "--json"))))


def described(model: str) -> str:
    """Return a digest of what is said of a network at three sizes, of which it may refuse some."""
    words = [("describe", f"model={model}", f"dataset={name}", "--json") for name in ("mnist", "cifar10", "imagenet")]
    return digest([lasting(json.loads(output(*line, refusable=True))) for line in words])


def composed(command: str, *words: str) -> str:
    """Return a digest of the configuration of a command, whatever the order of its keys."""
    return digest(yaml.safe_load(output(command, *words, "--cfg", "job")))


def checks() -> Iterator[tuple[str, Check]]:
    """Yield every check by name; trainings come first, since the studies read their runs."""
    for name in TRAININGS:
        yield f"weights of {name}", partial(trained, name)
    for name in STUDIES:
        yield f"result of {name}", partial(studied, name)
    conf = config_dir()
    for path in sorted((conf / "model").glob("*.yaml")):
        if path.stem not in ("timm", "torchvision"):  # other packages' networks
            yield f"describe {path.stem}", partial(described, path.stem)
    for command in sorted(COMMANDS):
        yield f"configuration of {command}", partial(composed, command)
    for path in sorted(conf.glob("*/*.yaml")):
        group = path.parent.name
        command = {"warp": "invariance", "study": "ablate"}.get(group, "fit")
        if group != "common":
            yield f"configuration of {group}={path.stem}", partial(composed, command, f"{group}={path.stem}")


def draw_images(root: Path) -> None:
    """Draw two classes of image files of unequal number."""
    noise = torch.Generator().manual_seed(0)
    for name, shade, number in (("dark", 60, 40), ("light", 190, 16)):
        (root / name).mkdir(parents=True)
        for place in range(number):
            pixels = (shade + 40 * torch.randn(40, 52, 3, generator=noise)).clamp(0, 255).to(torch.uint8)
            Image.fromarray(pixels.numpy()).save(root / name / f"{place:03}.png")


def found(only: str) -> dict[str, str]:
    """Return the digest of every check whose name matches `only`, and of those that it needs."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        draw_images(Path("images"))
        digests = {}
        for name, check in checks():
            if not re.search(only, name) and not (name in NEEDED and "result of" in only):
                continue
            digests[name] = check()
            print(f"{digests[name]}  {name}", flush=True)
    return digests


def run() -> int:
    """Keep the digests, or compare them with those that were kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("keep", "check"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", default="", help="a regular expression: the checks whose names it matches")
    typed = parser.parse_args()
    file = typed.file.absolute()
    before = json.loads(file.read_text()) if typed.what == "check" else {}
    now = found(typed.only)
    if typed.what == "keep":
        file.write_text(json.dumps(now, indent=1) + "\n")
        return 0
    names = {name for name in before.keys() | now.keys() if name in now or re.search(typed.only, name)}
    differing = [name for name in names if before.get(name) != now.get(name)]
    print(f"{len(names)} checks, {len(differing)} differ", *sorted(differing), sep="\n  ")
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(run())
