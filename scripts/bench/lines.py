"""The lines: what is compared with what, on which work, and the ratio to reach."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from scripts.bench.work import Task

ClockName = Literal["warm", "cold", "first"]
BARE = tuple(f"bare step, {precision}{layout}" for precision in ("fp32", "bf16") for layout in ("", ", channels_last"))


@dataclass(frozen=True)
class Line:
    """A `subject` beside its `rivals`: how many times as fast it is to be (None: shown only), by which clock.

    The rival "limit" is the fastest of the steps in `BARE`, which all run wherever it does. A line without rivals has a
    `most` for the value that its subject reports.
    """

    title: str
    task: Task
    rivals: dict[str, float | None] = field(default_factory=dict)
    subject: str = "cnntrain"
    clock: ClockName = "warm"
    most: float | None = None
    unit: str = ""
    rounds: int = 5

    @property
    def decisive(self) -> list[str]:
        """The rivals that there is a target for; all where there is none."""
        return [rival for rival, target in self.rivals.items() if target is not None] or list(self.rivals)


LENET = Task()
RESNET = Task("resnet20", "cifar10", augmentation="crop_flip", images=12800, epochs=2, lr=0.1)
JPEGS = Task(data="hymenoptera", augmentation="resized_crop", images=1920, batch_size=64, epochs=3)
STEPS = Task("resnet20", "cifar10", images=6400, epochs=2)
EVALUATED = Task("resnet20", "cifar10", images=4000, batch_size=500)
PLAIN = {"plain PyTorch": 3.5, "plain PyTorch, 2 workers": 3.5, "plain PyTorch, best effort": None}
ONE: dict[str, float | None] = {"1 process of 1 thread": None, "1 process of 2 threads": None}
BUSY: dict[str, Any] = {"rivals": {"cnntrain, idle machine": 0.3}, "subject": "cnntrain, busy machine", "rounds": 3}


def lenet(augmentation: str) -> Task:
    """Return an epoch of LeNet-5 on MNIST."""
    return Task(augmentation=augmentation)


LINES = {
    "lenet5": Line(
        "LeNet-5, MNIST, no augmentation",
        lenet("none"),
        {
            "limit": 0.9,
            "own step": None,
            **PLAIN,
            **dict.fromkeys(("Lightning", "Lightning, best effort", "timm", "timm, best effort")),
            **dict.fromkeys(("Keras on torch", "Keras on JAX", "Keras on JAX, best effort")),
        },
    ),
    "lenet5_crop": Line("LeNet-5, MNIST, crop", lenet("crop"), {"limit": 0.9, "own step": None, **PLAIN}),
    "lenet5_affine": Line("LeNet-5, MNIST, affine", lenet("affine"), {"limit": 0.9, "own step": None, **PLAIN}),
    "resnet20": Line(
        "ResNet-20, CIFAR-10, crop and flip",
        RESNET,
        {
            "limit": 0.95,
            "own step": None,
            **{"plain PyTorch": 2.5, "plain PyTorch, 2 workers": 2.5, "plain PyTorch, best effort": None},
            **{"Lightning": 2.1, "Lightning, best effort": None},
            **dict.fromkeys(
                ("timm", "timm, best effort", "Keras on torch", "Keras on JAX", "Keras on JAX, best effort")
            ),
        },
    ),
    "cifar10_fast": Line(
        "the 94 % recipe on CIFAR-10's JPEG copies, training and six-view evaluation",
        Task("airbench", "cifar10", images=50000, batch_size=2000),
        {"airbench94_muon": 1.18, "plain fp32 loop": 3.5},
        "cnntrain experiment=cifar10_fast",
        "cold",
        rounds=3,
    ),
    "input_first": Line(
        "JPEG files to normalised 224-pixel crops, first epoch (pack included)",
        JPEGS,
        {"torchvision, input alone": 1.1, "timm, input alone": 1.1},
        "cnntrain, input alone",
        "first",
    ),
    "input_later": Line(
        "JPEG files to normalised 224-pixel crops, later epochs",
        JPEGS,
        {"torchvision, input alone": 8.0, "timm, input alone": 8.0},
        "cnntrain, input alone",
    ),
    "resnet18": Line(
        "ResNet-18 at 64 pixels, tiny-imagenet-20 from JPEG files, crop and flip",
        Task("resnet18", "tiny-imagenet-20", augmentation="crop_flip", images=3200, batch_size=64, epochs=2, lr=0.05),
        {
            "limit": None,
            "own step": None,
            "plain PyTorch": 1.25,
            "plain PyTorch, 2 workers": 1.25,
            "timm": None,
            "timm, best effort": None,
        },
    ),
    "grid": Line(
        "48 short trainings of LeNet-5, with start-up",
        Task(images=10000, epochs=2),
        {"a plain script a cell": 4.0},
        "cnntrain ablate",
        "first",
        rounds=3,
    ),
    "ranks_lenet5": Line(
        "torchrun, LeNet-5, MNIST", replace(LENET, images=12800), ONE, "2 processes of 1 thread", rounds=3
    ),
    "ranks_resnet20": Line(
        "torchrun, ResNet-20, CIFAR-10", replace(RESNET, images=2560), ONE, "2 processes of 1 thread", rounds=3
    ),
    "busy_lenet5": Line("LeNet-5, MNIST, beside one foreign process a core", replace(LENET, images=25600), **BUSY),
    "busy_resnet20": Line(
        "ResNet-20, CIFAR-10, beside one foreign process a core", replace(RESNET, images=2560), **BUSY
    ),
    "evaluation": Line("evaluation, ResNet-20", EVALUATED, {"forward": 0.9}, "evaluation"),
    "evaluation_tta": Line("evaluation, six views", EVALUATED, {"forward, six views": 0.9}, "evaluation, six views"),
    "loop": Line("the loop without data, ResNet-20", STEPS, {"bare step": 0.97}, "loop without data"),
    "deterministic": Line("deterministic=true, ResNet-20", STEPS, {"own step": None}, "own step, deterministic"),
    "small_maps": Line(
        "convolutions over small maps as products, ResNet-18 at 64 pixels",
        Task("resnet18", "tiny-imagenet-20", images=1280, batch_size=64, epochs=2, lr=0.05),
        {"own step, torch's kernels": None},
        "own step",
    ),
    "start": Line("a fit of two steps, whole process", Task(), {"import torch": 0.86}, "a tiny fit", "first"),
    "help": Line("cnntrain --help", Task(), subject="help", most=60.0, unit="ms"),
    "syncs": Line("host synchronisations a step", STEPS, subject="synchronisations", most=0.0, rounds=1),
    "resume": Line("a cut training differs (check_resume)", Task(), subject="resume", most=0.0, rounds=1),
}
