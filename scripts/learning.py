"""Every network's 32×32 build trained briefly on a few thousand small images: a proof that it learns, not a result.

    python scripts/learning.py --data-root data/cifar10 --output runs/learning        # all, cheap ones first
    python scripts/learning.py --data-root data/cifar10 --output runs/learning vgg11 googlenet

`--data-root` holds train/<class>/* and test/<class>/*. Each network learns from 5,000 training images, or from 1,000
where an image costs over a billion multiplications, by `cnntrain fit`, and is measured on 2,000 test images by
`cnntrain eval`. It has learnt if the interval of its accuracy lies above 20 %, twice what guessing gives. The same
command goes on where it was stopped; finished networks are read, not trained again.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from cnntrain.models import MODELS
from cnntrain.nn.geometry import geometry
from cnntrain.nn.stages import BuildOptions
from cnntrain.runtime.jsonfile import read_json
from cnntrain.runtime.tables import percent, render

TRAIN, TEST, CLASSES = 5_000, 2_000, 10
FEW, COSTLY = 1_000, 10**9  # so many images of networks with more multiplications than that an image
BOUND = 0.2

COMMON = (
    "dataset=folder dataset.val_size=0 augmentation=none trainer.tensorboard=false "
    "optimizer=adamw optimizer.lr=1e-3 trainer.batch_size=50 trainer.epochs=6"
)
# What differs from that: costly networks take fewer epochs of smaller batches, plain deep ones a smaller rate.
ONE, TWO, FOUR = "trainer.epochs=1 trainer.batch_size=25", "trainer.epochs=2 trainer.batch_size=20", "trainer.epochs=4"
PLAIN = "optimizer.lr=3e-4"
RECIPES: dict[str, str] = {
    "softmax": "",
    "mlp": "",
    "lenet5": "",
    "lenet5_1998": "",
    "locally_connected": "",
    "locally_connected model.shared=true": "",
    "convnet": FOUR,
    "caltech_convnet": FOUR,
    "mobilenet_v1": FOUR,
    "resnet20": ONE,
    "lm_resnet20": ONE,
    "maxout": f"{ONE} trainer.epochs=2",
    "alexnet": f"{ONE} {PLAIN}",
    "vgg11": f"{ONE} {PLAIN}",
    "nin": f"{ONE} {PLAIN}",
    "all_cnn": f"{ONE} {PLAIN}",
    "zfnet": f"{ONE} {PLAIN}",
    "wrn_40_4": TWO,
    "preact_resnet164": ONE,
    "resnet18": ONE,
    "resnet50": TWO,
    "googlenet": f"{ONE} {PLAIN}",
    "alexnet_dense": f"{ONE} {PLAIN}",
    "vgg11 model.batch_norm=true": ONE,
    "resnet32": ONE,
    "lm_resnet32": ONE,
    "maxout model.rotated=true": f"{ONE} trainer.epochs=2",
    "resnet44": ONE,
    "lm_resnet44": ONE,
    "resnet56": ONE,
    "lm_resnet56": ONE,
    "vgg13": f"{ONE} {PLAIN} trainer.epochs=2",
    "resnet34": TWO,
    "wrn_16_8": TWO,
    "vgg16": f"{ONE} {PLAIN} trainer.epochs=2",
    "resnet110": ONE,
    "lm_resnet110": ONE,
    "vgg19": f"{ONE} {PLAIN} trainer.epochs=2",
    "resnet101": TWO,
    "preact_resnet1001": TWO,
    "resnet152": TWO,
    "wrn_28_10": TWO,
}


def cnntrain(*words: str) -> None:
    """Run a command as a user would, its progress on this terminal."""
    subprocess.run([sys.executable, "-m", "cnntrain", *words], check=True, stdout=subprocess.DEVNULL)


def subset(data: Path, output: Path) -> Path:
    """Return a folder of links to the first images of every class."""
    for split, images in (("train", TRAIN), ("test", TEST)):
        for folder in sorted(path for path in (data / split).iterdir() if path.is_dir()):
            linked = output / split / folder.name
            linked.mkdir(parents=True, exist_ok=True)
            for image in sorted(folder.iterdir())[: images // CLASSES]:
                if not (linked / image.name).exists():
                    (linked / image.name).symlink_to(image.resolve())
    return output


def cost(model: str) -> tuple[int, int]:
    """Return the parameters of a network for 32×32 images and its multiplications an image."""
    name, *options = model.split()
    values = {key.removeprefix("model."): value == "true" for key, value in (option.split("=") for option in options)}
    rows = geometry(MODELS[name]((3, 32, 32), CLASSES, BuildOptions(device="meta"), **values), (3, 32, 32))
    return sum(row.params for row in rows), sum(row.macs for row in rows)


def learn(model: str, images: Path, folder: Path) -> dict[str, Any]:
    """Train and measure a network, or read what an earlier call found; return its row."""
    params, macs = cost(model)
    words = [*COMMON.split(), f"dataset.root={images}", f"dataset.train_size={FEW if macs > COSTLY else TRAIN}"]
    fitted, tested = folder / "results.json", folder / "eval" / "test_last" / "results.json"
    if not fitted.exists():
        cnntrain("fit", *f"model={model}".split(), *words, *RECIPES[model].split(), f"output_dir={folder}")
    if not tested.exists():
        cnntrain("eval", f"run={folder}", "weights=last")
    fit, test = read_json(fitted), read_json(tested)
    return {
        "model": model,
        "parameters": params,
        "million MACs": round(macs / 1e6, 1),
        "images": FEW if macs > COSTLY else TRAIN,
        "epochs": fit["epochs"],
        "seconds": round(fit["seconds"]),
        "test top-1": f"{percent(test['top1'], 1)} ({100 * test['top1_low']:.1f} … {percent(test['top1_high'], 1)})",
        "learnt": test["top1_low"] >= BOUND,
    }


def main() -> None:
    """Learn one network after the other and print each row as it is there, then all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"of: {', '.join(RECIPES)}")
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/learning"))
    given = parser.parse_args()
    images, rows = subset(given.data_root, given.output / "images"), []
    for model in given.models or RECIPES:
        rows.append(learn(model, images, given.output / re.sub(r"[ =.]", "-", model)))
        print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
    print(render(rows, "markdown"))


if __name__ == "__main__":
    main()
