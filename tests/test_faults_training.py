"""Faults within a training, each by its number in `docs/guarantees.md`: scores, losses and memory that go wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cnntrain.cli.main import main
from cnntrain.commands import export
from cnntrain.data.loading.loader import Loader, plan_epoch
from cnntrain.runs import evaluation, predictions, setup
from cnntrain.runtime.errors import InputError
from cnntrain.tasks import classification
from cnntrain.tasks.classification import Classification
from cnntrain.training import checkpoints, loop


def scripted(scores: list[float], epochs: int, patience: int, cut: int | None = None) -> tuple[list[Any], list[str]]:
    """Run the loop on made-up validations, stopping once after `cut` epochs; return its records and its saves."""

    class TrainStep:
        accumulate = 1
        evaluated = None
        task = Classification

        def update(self, loader: Loader, step: int) -> None:
            pass

        def read(self, step: int) -> dict[str, float]:
            return {"loss": 1.0, "top1": 0.5}

    class Batches:
        batches, batch_size = 2, 4

    at, saves, records = loop.TrainProgress(), list[str](), list[Any]()
    for limit in (cut, None) if cut else (None,):
        records += loop.train(
            TrainStep(),  # type: ignore[arg-type]
            Batches(),  # type: ignore[arg-type]
            lambda net: {"loss": 1.0, "top1": scores[at.step // 2 - 1]},
            at=at,
            epochs=epochs,
            save=lambda which: saves.append(f"{which} {at.step}"),
            patience=patience,
            stop=lambda limit=limit: limit is not None and at.step >= 2 * limit,
        )
    return [(r["kind"], r["step"], r.get("best")) for r in records], [s for s in saves if s.startswith("best")]


@pytest.mark.parametrize("bad", [None, 0, 1, 2, 3, 4])
def test_f06_early_stopping_and_best_survive_a_cut_whatever_the_scores(bad: int | None) -> None:
    scores = [0.2, 0.5, 0.4, 0.3, 0.6]
    if bad is not None:
        scores[bad] = float("nan")
    for patience in (2, 3):
        whole = scripted(scores, 5, patience)
        assert all(scripted(scores, 5, patience, cut=cut) == whole for cut in (1, 2, 3, 4))
        assert not any(best and scores[step // 2 - 1] != scores[step // 2 - 1] for kind, step, best in whole[0])


BROKEN: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "a loss of nan": lambda logits, loss: loss * float("nan"),
    "a loss of infinity": lambda logits, loss: loss + float("inf"),
    "an infinite gradient": lambda logits, loss: logits.register_hook(lambda grad: grad * float("inf")) and loss,
}


@pytest.mark.parametrize("fault", list(BROKEN))
def test_f23_a_loss_or_gradient_that_is_no_number_stops_before_the_update(
    folder: Path,
    tiny: tuple[str, ...],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    calls, entropy = [0], classification.F.cross_entropy
    weights: list[dict[str, torch.Tensor]] = []

    def broken(logits: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        calls[0] += 1
        loss = entropy(logits, *args, **kwargs)
        return BROKEN[fault](logits, loss) if calls[0] == 7 else loss

    def read(self: loop.TrainStep, step: int) -> dict[str, float]:
        weights.append({key: value.clone() for key, value in self.trained.net.state_dict().items()})
        return looked(self, step)

    looked = loop.TrainStep.read
    monkeypatch.setattr(loop.TrainStep, "read", read)
    monkeypatch.setattr(classification.F, "cross_entropy", broken)
    words = [*tiny, "trainer.checkpoint_seconds=0", "dataset.val_size=0", "trainer.log_every=2"]
    assert main(["fit", *words, "output_dir=run"]) == 3
    assert "infinite at step 7" in capfd.readouterr().err
    record = json.loads((folder / "run" / "run.json").read_text())
    batch = plan_epoch(np.arange(96) % 10, 16, seed=0, epoch=1, balanced=False).index[0]
    assert record["bad_batch"] == {"step": 7, "epoch": 2, "images": batch.tolist()}
    assert all(torch.equal(weights[-1][key], value) for key, value in weights[-2].items())  # steps 6 and 8
    state = checkpoints.load(folder / "run" / "checkpoints" / "last.pt")
    assert state["progress"]["step"] == 6 and all(tensor.isfinite().all() for tensor in checkpoints.tensors(state))


SPENT = {
    "gpu": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
    "host": MemoryError(),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried"),
}


@pytest.mark.parametrize("error", list(SPENT.values()), ids=list(SPENT))
def test_f24_out_of_memory_names_batch_precision_and_remedies_and_tries_once(
    folder: Path,
    tiny: tuple[str, ...],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    calls = []

    def full(*args: Any) -> None:
        calls.append(args)
        raise error

    monkeypatch.setattr(loop.TrainStep, "update", full)
    assert main(["fit", *tiny, "trainer.precision=fp32"]) == 1
    line = capfd.readouterr().err.splitlines()[-1]
    for word in ("trainer.batch_size=16", "fp32", "trainer.accumulate", "trainer.precision=bf16", "dataset.image_size"):
        assert word in line
    assert len(calls) == 1


def explained_otherwise(*args: Any, **settings: Any) -> None:
    try:
        raise SPENT["cpu"]
    except RuntimeError as error:
        raise InputError("the network takes no such images") from error


FIT = "out of memory with trainer.batch_size=16, trainer.accumulate=1, trainer.eval_batch_size=500"
EVAL = "out of memory with batch_size="
MOMENTS: dict[str, tuple[object, str, list[str], str]] = {
    "images": (setup, "load_data", [], FIT),
    "the network": (setup, "build_model", [], FIT),
    "the first batch": (setup.ResidentLoader, "batch", [], FIT),
    "a validation": (setup, "answers", [], FIT),
    "eval": (evaluation, "answers_of", ["eval", "run=run"], EVAL),
    "predict": (predictions, "outputs", ["predict", "run=run", "images=image.png"], EVAL),
    "export": (export, "load_run", ["export", "run=run", "format=safetensors"], "out of memory; this helps: a machine"),
}


def test_f24_out_of_memory_is_one_line_in_the_same_words_wherever_it_happens(
    folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *tiny, "output_dir=run"]) == 0
    Image.new("L", (28, 28)).save("image.png")
    for moment, (owner, name, words, line) in MOMENTS.items():
        capfd.readouterr()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(owner, name, explained_otherwise)
            assert main(words or ["fit", *tiny]) == 1, moment
        assert capfd.readouterr().err.splitlines()[-1].startswith(f"cnntrain: {line}"), moment
