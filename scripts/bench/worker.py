"""One contender in a process of its own: `python -m scripts.bench.worker '<json>'` does a task and prints its times."""

import importlib
import json
import os
import sys
from typing import Any, NamedTuple

from scripts.bench.health import HELP, IMPORT, TINY
from scripts.bench.work import Clock, Task


class Contender(NamedTuple):
    """A function of this package that does a task, what it is told besides, and what must be installed for it."""

    place: str  # module:function
    options: dict[str, Any] = {}  # noqa: RUF012 - never changed
    needs: tuple[str, ...] = ()


BEST = {"best": True}
CONTENDERS = {
    "cnntrain": Contender("ours:fit"),
    "cnntrain, idle machine": Contender("ours:fit"),
    "cnntrain, busy machine": Contender("ours:fit_busy"),
    "bare step": Contender("limit:bare", {"precision": "auto", "channels_last": True}),
    "bare step, fp32": Contender("limit:bare"),
    "bare step, fp32, channels_last": Contender("limit:bare", {"channels_last": True}),
    "bare step, bf16": Contender("limit:bare", {"precision": "bf16"}),
    "bare step, bf16, channels_last": Contender("limit:bare", {"precision": "bf16", "channels_last": True}),
    "own step": Contender("limit:steps"),
    "own step, deterministic": Contender("limit:steps", {"deterministic": True}),
    "own step, torch's kernels": Contender("limit:steps", {"equivalents": False}),
    "loop without data": Contender("limit:loop"),
    "1 process of 1 thread": Contender("ours:ranks", {"processes": 1, "threads": 1}),
    "2 processes of 1 thread": Contender("ours:ranks", {"processes": 2, "threads": 1}),
    "1 process of 2 threads": Contender("ours:ranks", {"processes": 1, "threads": 2}),
    "cnntrain, input alone": Contender("ours:images"),
    "plain PyTorch": Contender("plain:fit", {"workers": 0}),
    "plain PyTorch, 2 workers": Contender("plain:fit", {"workers": 2}),
    "plain PyTorch, best effort": Contender("plain:fit", {"workers": 2, **BEST}),
    "torchvision, input alone": Contender("plain:images", {"workers": 2}),
    "Lightning": Contender("lightning:fit", {"workers": 2}, ("lightning",)),
    "Lightning, best effort": Contender("lightning:fit", {"workers": 2, **BEST}, ("lightning",)),
    "timm": Contender("timm:fit", {"workers": 2}, ("timm",)),
    "timm, best effort": Contender("timm:fit", {"workers": 2, **BEST}, ("timm",)),
    "timm, input alone": Contender("timm:images", {"workers": 2}, ("timm",)),
    "Keras on torch": Contender("keras:fit", {"backend": "torch"}, ("keras",)),
    "Keras on JAX": Contender("keras:fit", {"backend": "jax"}, ("keras", "jax")),
    "Keras on JAX, best effort": Contender("keras:fit", {"backend": "jax", **BEST}, ("keras", "jax")),
    "cnntrain ablate": Contender("grid:ablate"),
    "a plain script a cell": Contender("grid:plain"),
    "cnntrain experiment=cifar10_fast": Contender("speedrun:experiment"),
    "airbench94_muon": Contender("speedrun:script"),
    "plain fp32 loop": Contender("speedrun:plain"),
    "evaluation": Contender("health:evaluate", {"views": "none"}),
    "evaluation, six views": Contender("health:evaluate", {"views": "flip_shift"}),
    "forward": Contender("health:forward", {"views": "none"}),
    "forward, six views": Contender("health:forward", {"views": "flip_shift"}),
    "synchronisations": Contender("health:synchronisations"),
    "resume": Contender("health:resume"),
    "help": Contender("health:process", {"words": HELP, "times": 9, "scale": 1000.0}),
    "a tiny fit": Contender("health:process", {"words": TINY, "times": 3}),
    "import torch": Contender("health:process", {"words": IMPORT, "times": 3}),
}


def main() -> None:
    """Do what the first argument asks for and print what came out as the last line of standard output."""
    asked = json.loads(sys.argv[1])
    out = os.dup(1)
    os.dup2(2, 1)  # a library's talk does not belong to the answer
    contender = CONTENDERS[asked["contender"]]
    module, _, name = contender.place.partition(":")
    clock = Clock()
    run = getattr(importlib.import_module(f"scripts.bench.{module}"), name)
    run(Task(**asked["task"]), clock, **contender.options)
    with os.fdopen(out, "w") as answer:
        print(json.dumps({"epochs": clock.epochs, **clock.facts}), file=answer)


if __name__ == "__main__":
    main()
