"""Auxiliary heads: what is trained with them, and that nothing but the training knows of them."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from steps import step_of
from torch import nn
from torch.nn import functional as F

from cnntrain.cli.main import main
from cnntrain.data.augment.augmentations import AUGMENTATIONS
from cnntrain.data.loading.loader import ResidentLoader
from cnntrain.data.storage.images import DatasetInfo, Pixels, Split
from cnntrain.nn.auxiliary import AuxiliaryClassifiers, attach
from cnntrain.nn.blocks import conv, dense, linear, pooling
from cnntrain.nn.stages import assemble
from cnntrain.training import checkpoints
from cnntrain.training.optimizers import sgd
from cnntrain.training.step import TrainStep

Call = Callable[..., dict[str, Any]]
INFO = DatasetInfo("noise", ("one", "two"), (1, 8, 8), (0.5,), (0.5,))
GOOGLENET = (
    *("model=googlenet", "dataset=synthetic", "dataset.image_size=8", "dataset.train_images=48", "device=cpu"),
    *("dataset.test_images=20", "dataset.num_classes=2", "augmentation=none", "trainer.epochs=1"),
    *("trainer.batch_size=16", "trainer.tensorboard=false", "trainer.precision=fp32"),
    "model.remove=[inception_3a,inception_3b,inception_4b,inception_4c,inception_4d,inception_4e,inception_5a]",
)


def auxiliary() -> AuxiliaryClassifiers:
    """A small network with a head on its first stage, whose ReLU a max pooling follows."""
    makers = {"conv1": conv(4, 3), "pool1": pooling("max", 2), "fc2": dense(8), "fc3": linear(2)}
    net = assemble(makers, (1, 8, 8), out_shape=(2,))
    return attach(net, (1, 8, 8), 2, list(makers), {"head": ("conv1", linear(2))}, 0.3)


def loader(**parts: Any) -> ResidentLoader:
    images = torch.randint(256, (32, 8, 8, 1), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    split = Split(Pixels(images), torch.arange(32) % 2)
    return ResidentLoader(split, INFO, batch_size=16, parts=parts, seed=0, device=torch.device("cpu"))


def train_step(both: AuxiliaryClassifiers, **settings: Any) -> TrainStep:
    return step_of(both.net, sgd(both, lr=0.05), [0.05] * 10, auxiliary=both, **settings)


@pytest.mark.parametrize("parts", [{}, {"mixup": AUGMENTATIONS["mixup"](alpha=0.5)}])
def test_the_weighted_losses_of_all_logits_are_trained_and_the_networks_own_is_reported(parts: Any) -> None:
    both = auxiliary()
    net, head = copy.deepcopy((both.net, both.heads["head"]))
    weights, data = torch.tensor([1.0, 3.0]), loader(**parts)
    student = train_step(both, label_smoothing=0.1, clip=0.01, class_weights=weights)
    student.update(data, 0)
    data.seek(0, 0)
    x, y, _ = data.batch()

    def loss(logits: torch.Tensor) -> torch.Tensor:
        found = F.cross_entropy(logits, y, weights, label_smoothing=0.1)
        return found * len(y) / (y @ weights).sum() if parts else found  # torch divides by the images if y are shares

    parameters = [*net.parameters(), *head.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 5e-4},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True)
    own = loss(net(x))
    (own + 0.3 * loss(head(net[0](x)))).backward()
    nn.utils.clip_grad_norm_(parameters, 0.01)
    optimizer.step()
    for a, b in zip(both.parameters(), parameters, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert student.read(1)["loss"] == pytest.approx(own.item(), rel=1e-5)


def test_a_head_that_overflows_stops_the_training_before_the_update() -> None:
    both = auxiliary()
    with torch.no_grad():
        next(both.heads.parameters()).fill_(float("inf"))
    before = copy.deepcopy(both.net.state_dict())
    student = train_step(both)
    student.update(loader(), 0)
    assert int(student.program.bad_step) == 0
    assert all(torch.equal(before[key], value) for key, value in both.net.state_dict().items())


def test_the_moving_average_and_what_is_evaluated_are_the_network_alone() -> None:
    both = auxiliary()
    student = train_step(both, ema=0.9)
    student.update(loader(), 0)
    assert student.trained.average and student.evaluated.state_dict().keys() == both.net.state_dict().keys()
    assert set(student.state_dict()) == {"model", "heads", "ema", "optimizer", "sums"}
    assert train_step(both).evaluated is both.net


def test_googlenet_is_trained_with_its_heads_and_used_without(
    cnntrain: Call, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *GOOGLENET, "output_dir=run"]) == 0
    said = capfd.readouterr().err
    assert "auxiliary classifiers after inception_4a, inception_4a: 4,3" in said
    assert "parameters, loss weight 0.3, gone at evaluation" in said
    last, best = (checkpoints.load(folder / "run" / "checkpoints" / f"{name}.pt") for name in ("last", "best"))
    assert {key.split(".")[0] for key in last["heads"]} == {"head_4a", "head_4d"}
    assert "heads" not in best and best["model"].keys() == last["model"].keys()
    assert not any("head" in key for key in best["model"])
    assert cnntrain("eval", "run=run")["n"] == 20


def test_no_command_but_fit_knows_of_heads(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], lenet_heads: None
) -> None:
    cnntrain("fit", *tiny, "trainer.epochs=1", "output_dir=run")
    assert cnntrain("eval", "run=run")["n"] == 48
    Image.new("L", (28, 28)).save("image.png")
    assert cnntrain("predict", "run=run", "images=image.png")["n"] == 1
    assert cnntrain("export", "run=run", "format=safetensors")["max_difference"] == 0
    cnntrain("fit", *tiny, "trainer.epochs=1", "init_from=run", "output_dir=again")
    assert json.loads((folder / "again" / "run.json").read_text())["init_from"]["new"] == []
    assert len(cnntrain("compare", "runs=[run,again]")["runs"]) == 2


def test_the_proof_of_an_exact_resume_covers_the_heads(
    cnntrain: Call, tiny: tuple[str, ...], lenet_heads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = cnntrain("fit", *tiny, "check_resume=true")
    assert set(found["compared"]) == {"model", "heads", "optimizer", "sums"}
    load = TrainStep.load_state_dict

    def forgetful(self: TrainStep, state: Any) -> None:
        load(self, state | {"heads": self.auxiliary.heads.state_dict()})  # type: ignore[union-attr]

    monkeypatch.setattr(TrainStep, "load_state_dict", forgetful)
    assert main(["fit", *tiny, "check_resume=true"]) == 1


def test_describe_counts_the_heads_apart(cnntrain: Call, capfd: pytest.CaptureFixture[str]) -> None:
    found = cnntrain("describe", "model=googlenet", "dataset=imagenet")
    assert found["params"] == 6_998_552
    at = {"head_4a": "inception_4a", "head_4d": "inception_4d"}
    assert found["heads"] == {"params": 6_379_728, "weight": 0.3, "at": at}
    assert main(["describe", "model=googlenet", "model.auxiliary=0.5", "model.remove=[inception_4d]"]) == 0
    out = capfd.readouterr().out
    assert "auxiliary classifiers after inception_4a, inception_4c: 4,3" in out and "loss weight 0.5" in out
    assert cnntrain("describe", "model=googlenet", "model.auxiliary=0")["heads"] is None
    assert cnntrain("describe", "model=lenet5")["heads"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model=googlenet", "model.auxiliary=-1"), "model.auxiliary=-1"),
        (("model=googlenet", "model.auxilary=1"), "'model.auxiliary'"),
        (("model=lenet5", "model.auxiliary=1"), "'model.auxiliary'"),
        (
            (
                "model=googlenet",
                "model.remove=[conv1,norm1,conv2_reduce,conv2,norm2,pool2,inception_3a,inception_3b,pool3,inception_4a]",
            ),
            "model.auxiliary=0",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    refused: Callable[..., str], words: tuple[str, ...], message: str
) -> None:
    assert message in refused("fit", *words, "dataset=digits")
