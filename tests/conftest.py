"""What all tests share: one thread each, a folder of their own, and a command line in this process."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made import TINY

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes of two threads on two cores are 25 times slower


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _without_waiting_for_the_disk() -> Iterator[None]:
    """What has to be forced to the disk, and in which order, has tests of its own."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CNNTRAIN_DATA", raising=False)
    return tmp_path


@pytest.fixture
def cnntrain(folder: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Run a command in this process with `--json`, and return the object it prints; it must succeed."""
    from cnntrain.cli.main import main

    def call(*words: str) -> dict[str, Any]:
        capfd.readouterr()
        code = main([*words, "--json"])
        out, err = capfd.readouterr()
        assert code == 0, err
        found: dict[str, Any] = json.loads(out)
        return found

    return call


@pytest.fixture
def refused(folder: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must end with exit code 2, one line and nothing created; return the line."""
    from cnntrain.cli.main import main

    def call(*words: str) -> str:
        before = sorted(folder.rglob("*"))
        capfd.readouterr()
        code = main(list(words))
        out, err = capfd.readouterr()
        lines = [line for line in err.splitlines() if line and "is given twice; the last counts" not in line]
        assert code == 2, err
        assert out == "" and len(lines) == 1, (out, err)
        assert sorted(folder.rglob("*")) == before
        return lines[0]

    return call


@pytest.fixture(scope="session")
def trains() -> Callable[..., bool]:
    """Say whether a network on the meta device forwards and back-propagates to every parameter and to its images.

    A chain does if each of its stages does with the shape that reaches it; stages that were tried are remembered.
    """
    import torch
    from torch import nn

    tried: dict[object, tuple[int, ...]] = {}

    def attempt(stage: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
        x = torch.empty(2, *shape, device="meta", requires_grad=True)
        out: torch.Tensor = stage(x)
        out.sum().backward()
        learnt = [x, *(p for p in stage.parameters() if p.requires_grad)]
        return tuple(out.shape[1:]) if all(p.grad is not None for p in learnt) else ()

    def call(net: nn.Sequential, shape: tuple[int, ...]) -> bool:
        for stage in net:
            key = shape, str(stage), *(parameter.shape for parameter in stage.parameters())
            if key not in tried:
                tried[key] = attempt(stage, shape)
            shape = tried[key]
            if not shape:
                return False
        return True

    return call


@pytest.fixture
def no_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no text of a figure be set as a formula."""

    def refuse(self: object, text: str, *_: object, **__: object) -> None:
        raise AssertionError(f"{text!r} is set as a formula")

    monkeypatch.setattr("matplotlib.mathtext.MathTextParser.parse", refuse)


@pytest.fixture
def lenet_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let LeNet-5 train with an auxiliary head that has batch norm and dropout."""
    from cnntrain.models import AUXILIARY
    from cnntrain.nn.auxiliary import AuxiliaryClassifiers, attach
    from cnntrain.nn.blocks import conv, dense, linear, sequence

    def heads(net: Any, in_shape: Any, num_classes: int, build: Any) -> AuxiliaryClassifiers:
        head = sequence(conv=conv(2, 3, stride=2, norm=True), fc1=dense(8, dropout=0.5), fc2=linear(num_classes))
        return attach(net, in_shape, num_classes, ["conv1", "pool1"], {"head": ("pool1", head)}, 0.5, build)

    monkeypatch.setitem(AUXILIARY, "lenet5", heads)


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """Words that train in a second."""
    return TINY
