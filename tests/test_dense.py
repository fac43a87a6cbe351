"""What holds of label maps and boxes alike: no step waits for an imagined GPU, and two processes train as one does."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cuts import Call, agree, each_at_once, rows
from made import create_model, tree
from steps import DENSE_NETWORKS, dense_data, dense_step, every_augmentation, lay_out
from test_distributed import become, fit, free_port
from test_masks import masked
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from cnntrain.cli.main import main
from cnntrain.data.augment.augmentations import Augmentation
from cnntrain.data.storage.images import Dataset
from cnntrain.models import MODELS
from cnntrain.nn.blocks import conv, linear, pooling
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, assemble
from cnntrain.runs.setup import TrainingSetup
from cnntrain.runtime import distributed
from cnntrain.stats import detection
from cnntrain.tasks import task_for

CPU = torch.device("cpu")


# --- an imagined GPU


class Copies(TorchDispatchMode):
    """Notes the operators that bring numbers from the host to a GPU, for which the host would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = list[str]()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        into = isinstance(out, Tensor) and out.is_cuda
        if into and any(isinstance(x, Tensor) and not x.is_cuda and not scalar(func, x) for x in flat(args)):
            self.seen.append(str(func))
        return out


def scalar(func: Any, x: Tensor) -> bool:
    """Say whether a tensor is a number of the host that an operator takes with it, which no copy does."""
    return x.dim() == 0 and "copy" not in str(func)


def flat(args: Any) -> list[Any]:
    return [inner for arg in args for inner in flat(arg)] if isinstance(args, (list, tuple)) else [args]


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("model", DENSE_NETWORKS)
@pytest.mark.parametrize("parts", [{}, every_augmentation()], ids=["plain", "augmented"])
def test_a_step_on_a_gpu_has_all_its_tensors_there_and_brings_none(model: str, parts: dict[str, Augmentation]) -> None:
    """Batch, forward pass, loss and sums, with tensors that have no memory but know where they lie."""
    gpu = "cuda:0"
    student, loader = dense_step(model, parts, CPU)
    loader.seek(0, 1)
    with FakeTensorMode(allow_non_fake_inputs=True):
        lay_out(gpu, student.trained.net, loader)
        task, weights = student.task, getattr(student.task, "class_weights", None)
        if weights is not None:
            object.__setattr__(task, "class_weights", torch.empty_like(weights, device=gpu))
        with Copies() as copies:
            images, target, labels = loader.batch()
            answer = student.trained.net(images)
            loss, counts = task.loss(answer, target), task.counts(answer, labels)
            weight = task.weight(target)
        assert all(x.is_cuda for x in (images, target, labels, loss, weight, *counts.values()))
        assert not copies.seen


# --- several processes


def dense_score(model: str, size: int) -> Any:
    """Return what the processes together say of a network on so many validation images."""
    data = dense_data(model)
    cfg: Any = SimpleNamespace(trainer=SimpleNamespace(eval_batch_size=4), dataset={"workers": 0})
    some = data.train.take(np.arange(size))
    step: Any = SimpleNamespace(task=task_for(data.info))
    dataset: Any = Dataset(data.info, data.train, some, None)
    built = TrainingSetup(cfg, CPU, "fp32", dataset, step, *[None] * 2)  # type: ignore[arg-type]
    net = create_model(model, (3, 32, 32), len(data.info.classes), **DENSE_NETWORKS[model])
    stop = distributed.Largest()
    return built.validate(net, lambda: bool(stop(0)[0]))


def score_here(rank: int, world: int, port: int, folder: Path) -> None:
    become(rank, world, port)
    with distributed.joined():
        found = [dense_score(model, size) for model in ("unet", "yolo_v1") for size in (1, 2, 7)]
    if rank == 0:
        (folder / "scores.json").write_text(json.dumps(found))


def test_a_validation_of_three_processes_is_that_of_one_even_where_one_has_no_image(folder: Path) -> None:
    port = free_port()
    with each_at_once(score_here, [(rank, 3, port, folder) for rank in range(3)]) as processes:
        pass
    assert [process.exitcode for process in processes] == [0, 0, 0]
    expected = [dense_score(model, size) for model in ("unet", "yolo_v1") for size in (1, 2, 7)]
    for found, alone in zip(json.loads((folder / "scores.json").read_text()), expected, strict=True):
        assert found.pop("loss") == pytest.approx(alone.pop("loss"), rel=1e-6)
        assert found == alone


TRAININGS = {
    "maps": (
        *("model=unet", "model.width=4", "model.depth=2", "model.dropout=0"),  # which each process draws for itself
        *("trainer.border_weight=10", "dataset.balance=weights"),
    ),
    "boxes": (  # batch norm, which is of a process's own images, is frozen with the backbone
        *("model=yolo_v1", "model.backbone=resnet20", "model.grid=4", "model.width=8", "trainer.freeze=backbone"),
        "dataset.targets=boxes",
    ),
}
WORDS = (
    *("fit", "dataset=shapes", "dataset.image_size=16", "dataset.train_images=40", "dataset.test_images=4"),
    *("dataset.val_size=3", "optimizer.lr=1e-4", "trainer.epochs=3", "trainer.batch_size=8", "trainer.accumulate=2"),
    *("augmentation=elastic", "device=cpu", "trainer.tensorboard=false", "trainer.precision=fp32"),
    *("trainer.log_every=1", "trainer.checkpoint_seconds=0"),
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRAININGS)
def test_two_processes_train_as_one_does_and_go_on_to_the_bit(folder: Path, kind: str) -> None:
    words = [*WORDS, *TRAININGS[kind]]
    assert fit(folder, *words, "output_dir=one", world=1)[0] == [0]
    assert fit(folder, *words, "output_dir=two")[0] == [0, 0]
    for one, two in zip(rows(folder / "one"), rows(folder / "two"), strict=True):
        assert one.keys() == two.keys()
        numbers = {key: value for key, value in one.items() if isinstance(value, float)}
        assert {key: two[key] for key in numbers} == pytest.approx(numbers, rel=1e-3, abs=1e-5)
    codes, err = fit(folder, *words, "output_dir=cut", fault="SIGTERM", at=1)
    assert codes == [143, 143], err
    assert fit(folder, *words, "output_dir=cut")[0] == [0, 0]
    agree(folder / "two", folder / "cut")


# --- which task a network answers


@pytest.mark.parametrize("kind", ["maps", "boxes", "classes"])
def test_what_a_plugins_network_gives_is_seen_by_its_answers(
    cnntrain: Call, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def mine(in_shape: Shape, num_classes: int, build: BuildOptions) -> nn.Sequential:
        out = {"maps": (num_classes, *in_shape[1:]), "boxes": (5 + num_classes, 4, 4), "classes": (num_classes,)}[kind]
        grid = {"pool": pooling("max", in_shape[1] // 4)} if kind == "boxes" else {}
        last = linear(num_classes) if kind == "classes" else conv(out[0], 1, activation="none")
        return assemble({"conv1": conv(4, 3, padding=1), **grid, "last": last}, in_shape, out_shape=out, build=build)

    monkeypatch.setitem(MODELS, "mine", mine)
    data = {
        "maps": ["dataset=shapes"],
        "boxes": ["dataset=shapes", "dataset.targets=boxes"],
        "classes": ["dataset=synthetic"],
    }
    words = ["model=softmax", "model.name=mine", "dataset.image_size=16", "augmentation=none", "optimizer.lr=1e-4"]
    words += ["trainer.epochs=1", "trainer.batch_size=8", "dataset.train_images=40", "device=cpu"]
    for other, chosen in data.items():
        if other == kind:
            assert cnntrain("fit", *words, *chosen, "output_dir=run")["epochs"] == 1
        else:
            assert "mine answers" in refused("fit", *words, *chosen)


def test_a_folder_is_called_by_its_name_and_sentences_are_no_images(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tree(folder / "insects")
    words = ["augmentation=none", "trainer.epochs=1", "trainer.batch_size=4", "device=cpu", "trainer.tensorboard=false"]
    assert main(["fit", "model=softmax", "dataset=folder", "dataset.root=insects", *words, "output_dir=one"]) == 0
    assert " on insects: " in capfd.readouterr().err
    (folder / "words.tsv").write_text("label\ttext\n" + "good\tfine film\nbad\tdull film\n" * 20)
    of_words = ["dataset=sentences", "dataset.root=words.tsv", "output_dir=two"]
    assert main(["fit", "model=text_cnn", "model.maps=4", *of_words, *words]) == 0
    out, err = capfd.readouterr()
    assert " on words: " in err and "validation sentences" in err and "sentences/s" in out and "images" not in out + err
    for run, noun in (("one", "images"), ("two", "sentences")):
        assert main(["report", f"run={run}", "split=val"]) == 0
        assert f"training {noun}" in (folder / run / "report.html").read_text()


# --- groups of images


def test_intervals_are_over_the_groups_of_a_table_and_few_are_warned_of(
    cnntrain: Call, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    masked(folder / "data", 24)
    names = [f"images/{path.name}" for path in sorted((folder / "data" / "images").iterdir())]
    lines = [f"{name.removeprefix('images/')},film{place % 4}" for place, name in enumerate(names)]
    (folder / "films.csv").write_text("\n".join(["file,group", *lines, ""]))
    words = ["model=unet", "model.width=4", "model.depth=2", "dataset=segmentation_folder", "dataset.root=data"]
    words += ["dataset.groups=films.csv", "trainer.epochs=1", "trainer.batch_size=4", "augmentation=none", "device=cpu"]
    cnntrain("fit", *words, "trainer.tensorboard=false", "output_dir=run")
    assert cnntrain("eval", "run=run", "split=train")["groups"] in (1, 2, 3)
    assert main(["eval", "run=run", "split=train", "output_dir=again"]) == 0
    assert "intervals are too narrow" in capfd.readouterr().out


def test_boxes_of_groups_that_are_all_alike_say_no_more_than_one_of_them() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 40, (12, 3, 2))
    objects = np.concatenate((rng.integers(0, 2, (12, 3, 1)), corners, corners + 12, np.zeros((12, 3, 1))), axis=2)
    off = objects[..., 1:5] + rng.normal(0, 3, (12, 3, 4))
    found = np.concatenate((objects[..., :1], rng.uniform(0, 1, (12, 3, 1)), off), axis=2)
    alone = detection.detection(found, objects, ("a", "b"))
    repeated = detection.detection(found.repeat(5, 0), objects.repeat(5, 0), ("a", "b"), np.arange(12).repeat(5))
    assert (repeated["n"], repeated["groups"], alone["groups"]) == (60, 12, None)
    for key in ("map50", "map50_low", "map50_high"):
        assert repeated[key] == pytest.approx(alone[key])
    better = found.copy()
    better[..., 2:] = objects[..., 1:5]
    one = detection.paired(found, better, objects)
    same = detection.paired(*(each.repeat(5, 0) for each in (found, better, objects)), np.arange(12).repeat(5))
    assert (same.delta, same.low, same.p) == pytest.approx((one.delta, one.low, one.p))
