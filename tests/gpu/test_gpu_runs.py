"""Runs on a GPU by the command line, which needs Hydra: saved beside the training, resumed there and on a CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("hydra")

from cuts import Call, agree, cut, last

WORDS = ("device=cuda", "deterministic=true", "trainer.checkpoint_seconds=0", "trainer.epochs=3", "trainer.ema=0.9")


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
