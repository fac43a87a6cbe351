"""Runs on a GPU by the command line, which needs Hydra: saved beside the training, resumed there and on a CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("hydra")

from cuts import Call, agree, cut, last
from made import picture

WORDS = ("device=cuda", "deterministic=true", "trainer.checkpoint_seconds=0", "trainer.epochs=3", "trainer.ema=0.9")
DENSE = {
    "maps": ("model=unet", "model.width=4", "model.depth=2", "dataset=shapes", "trainer.border_weight=10"),
    "boxes": (
        *("model=yolo_v1", "model.backbone=resnet20", "model.grid=4", "model.width=8"),
        *("dataset=shapes", "dataset.targets=boxes"),
    ),
}
SHAPES = (
    *("dataset.image_size=32", "dataset.train_images=80", "dataset.test_images=16", "augmentation=elastic"),
    *("trainer.batch_size=8", "trainer.precision=fp32", "optimizer=adamw", "optimizer.lr=1e-3"),
)


@pytest.mark.parametrize("more", [(), ("dataset.workers=1", "trainer.accumulate=2")], ids=["resident", "streamed"])
def test_a_cut_run_goes_on_to_the_bit(cnntrain: Call, folder: Path, tiny: tuple[str, ...], more: tuple[str]) -> None:
    words = [*(word for word in tiny if word != "device=cpu"), *WORDS, *more]
    cnntrain("fit", *words, "output_dir=whole")
    cut(*words, "output_dir=cut", nth=5)
    assert cnntrain("fit", *words, "output_dir=cut")["resumed_from"] == 5
    agree(folder / "whole", folder / "cut")


def test_a_recorded_run_is_the_plain_one(cnntrain: Call, folder: Path, tiny: tuple[str, ...]) -> None:
    words = [*(word for word in tiny if word != "device=cpu"), *WORDS]
    for name, graph in (("recorded", "true"), ("plain", "false")):
        cnntrain("fit", *words, f"trainer.graph={graph}", f"output_dir={name}")
    agree(folder / "recorded", folder / "plain")


def test_a_recorded_run_on_sentences_is_the_plain_one_and_goes_on_to_the_bit(cnntrain: Call, folder: Path) -> None:
    words = [
        *("model=text_cnn", "model.dim=16", "model.maps=8", "dataset=grammar", "dataset.train_images=600"),
        *("dataset.test_images=60", "augmentation=none", "optimizer=adadelta", "optimizer.max_norm=3"),
        *("schedule=constant", "trainer.batch_size=50", "trainer.tensorboard=false", *WORDS),
    ]
    for name, graph in (("recorded", "true"), ("plain", "false")):
        cnntrain("fit", *words, f"trainer.graph={graph}", f"output_dir={name}")
    agree(folder / "recorded", folder / "plain")
    cut(*words, "output_dir=cut", nth=5)
    cnntrain("fit", *words, "output_dir=cut")
    agree(folder / "recorded", folder / "cut")


def test_a_checkpoint_of_a_gpu_goes_on_on_a_cpu(
    cnntrain: Callable[..., dict[str, Any]], folder: Path, tiny: tuple[str, ...]
) -> None:
    words = [*(word for word in tiny if word != "device=cpu"), *WORDS[1:]]
    cut(*words, "device=cuda", "output_dir=run", nth=5)
    assert all(not tensor.is_cuda for tensor in last(folder / "run")["model"].values())
    found = cnntrain("fit", *words, "device=cpu", "trainer.precision=fp32", "output_dir=run")
    assert found["resumed_from"] == 5 and found["epochs"] == 3
    assert 0 <= found["best"]["top1"] <= 1


@pytest.mark.parametrize("kind", DENSE)
def test_a_run_is_trained_recorded_evaluated_reported_and_used(
    cnntrain: Callable[..., dict[str, Any]], folder: Path, kind: str
) -> None:
    for name, graph in (("recorded", "true"), ("plain", "false")):
        cnntrain("fit", *DENSE[kind], *SHAPES, *WORDS, f"trainer.graph={graph}", f"output_dir={name}")
    agree(folder / "recorded", folder / "plain")
    cut(*DENSE[kind], *SHAPES, *WORDS, "output_dir=cut", nth=5)
    assert cnntrain("fit", *DENSE[kind], *SHAPES, *WORDS, "output_dir=cut")["resumed_from"] == 5
    agree(folder / "plain", folder / "cut")
    on_gpu, on_cpu = (
        cnntrain("eval", "run=plain", f"device={device}", "precision=fp32", f"output_dir=on_{device}")
        for device in ("cuda", "cpu")
    )
    assert on_gpu["n"] == on_cpu["n"] == 16 and on_gpu["loss"] == pytest.approx(on_cpu["loss"], rel=1e-2)
    cnntrain("report", "run=plain", "device=cuda")
    (folder / "images").mkdir()
    for number in range(3):
        picture(number, 32, 32).save(folder / "images" / f"{number}.png")
    assert cnntrain("predict", "run=plain", "images=images", "device=cuda", "output_dir=found")["n"] == 3
    compared = cnntrain("compare", "runs=[plain,recorded]", "device=cuda", "figures=false", "output_dir=side")
    assert compared["over_images"][0]["delta"] == 0
