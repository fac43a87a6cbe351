"""A step as a program of the device: its numbers in tables, its loader at fixed addresses, its recording, its saves.

What a GPU alone can show is in `tests/gpu`.
"""

import contextlib
import json
import re
import types
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from cuts import Call, agree, cut, fill, last
from steps import lay_out, step_of
from test_loader import resident
from test_loop import CPU, INFO, loader, network, stripes, train_step
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from cnntrain.cli.main import main
from cnntrain.data.augment.augmentations import AUGMENTATIONS
from cnntrain.data.datasets.grammar import Grammar
from cnntrain.data.loading.loader import ResidentLoader
from cnntrain.models.text_cnn import text_cnn
from cnntrain.nn.blocks import conv, dense, linear
from cnntrain.nn.stages import BuildOptions, assemble
from cnntrain.runs import saves
from cnntrain.runtime.errors import CnntrainError
from cnntrain.tasks.classification import Classification
from cnntrain.training import cuda_graph, step_program
from cnntrain.training.async_checkpoints import AsyncSaver
from cnntrain.training.cuda_graph import WAITING, WARM_UP, CudaGraph
from cnntrain.training.optimizers import adadelta
from cnntrain.training.step import TrainStep

# --- numbers in tables


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_numbers_read_from_tables_on_the_device_are_those_of_the_host(optimizer: str) -> None:
    """Rates, the average's decay and the number of a bad step; to float32, in which the device reads them."""
    rates = [0.05 / (1 + step) for step in range(20)]
    students = []
    for tabled in (False, True):
        student = train_step(network(), optimizer=optimizer, ema=0.9, clip=1.0)
        program = student.program
        program.rates = rates
        program.tables = program.tabulated() if tabled else None
        data = loader()
        for step in range(12):
            student.update(data, step)
        students.append(student)
    host, device = (student.trained for student in students)
    assert all(isinstance(group["lr"], torch.Tensor) for group in device.optimizer.param_groups)
    assert host.average and device.average
    for one, other in zip(
        (*host.parameters, *host.average.averaged), (*device.parameters, *device.average.averaged), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    program.task = Classification((), torch.tensor([float("nan"), 1.0]))
    student.update(data, 12)
    assert int(program.bad_step) == 12


# --- an imagined GPU


def steps_on_an_imagined_gpu(
    monkeypatch: pytest.MonkeyPatch, net: nn.Sequential, loader: ResidentLoader, make: Callable[[], TrainStep]
) -> TrainStep:
    """Take two steps with all tensors of a training on a GPU that is not there, but for the backward pass."""
    gpu = "cuda:0"
    loader.seek(0, 1)
    with FakeTensorMode(allow_non_fake_inputs=True):
        lay_out(gpu, net, loader)
        student = make()
        monkeypatch.setattr(
            *(student.program, "backward"),
            lambda loss: [setattr(p, "grad", torch.empty_like(p).detach()) for p in student.trained.parameters],
        )
        for step in range(2):
            student.update(loader, step)
    assert all(group["lr"].is_cuda for group in student.trained.optimizer.param_groups)
    return student


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_a_step_on_a_gpu_has_all_its_tensors_there_and_looks_at_none(
    optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors without memory say where they lie and what would need a value, in all of a step but the backward pass."""
    taken = []
    makers = {"conv1": conv(4, 3, norm=True), "fc2": dense(8, dropout=0.3), "fc3": linear(3)}
    net = assemble(makers, (3, 12, 10), out_shape=(3,))

    def fused(*tensors: object, lr: Any, found_inf: Any, **settings: Any) -> None:
        taken.append((lr.device.type, lr.shape, lr.dtype, found_inf.device.type))

    for name in ("sgd", "adam", "adamw"):  # which know no tensors without memory
        monkeypatch.setattr(torch, f"_fused_{name}_", fused)
    settings: dict[str, Any] = {
        "optimizer": optimizer,
        "ema": 0.9,
        "clip": 1.0,
        "label_smoothing": 0.1,
        "gradients": True,
    }
    make = partial(train_step, net, **settings)
    student = steps_on_an_imagined_gpu(monkeypatch, net, resident(3, "everything"), make)
    groups = sum(not group.get("orthogonal", False) for group in student.trained.optimizer.param_groups)
    assert taken[-1] == ("cuda", (), torch.float32, "cuda") and len(taken) >= 2 * groups


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_a_step_on_sentences_has_all_its_tensors_on_the_gpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Grammar(Path(), train_images=40).read()
    net = text_cnn(dataset.info.shape, 2, BuildOptions(words=dataset.info.words), dim=6, maps=4, tables="both")
    data = ResidentLoader(dataset.train, dataset.info, batch_size=8, parts={}, seed=0, device=CPU)
    make = lambda: step_of(net, adadelta(net, max_norm=3.0), [1.0] * 9)  # noqa: E731
    student = steps_on_an_imagined_gpu(monkeypatch, net, data, make)
    kept = [tensor for state in student.trained.optimizer.state.values() for tensor in state.values()]
    assert len(kept) == 2 * len(student.trained.parameters) and all(tensor.is_cuda for tensor in kept)


# --- a loader at fixed addresses


def test_every_batch_goes_on_to_the_next_place_and_epochs_lie_where_the_first_lay() -> None:
    parts = {"crop": AUGMENTATIONS["crop"](padding=2), "mixup": AUGMENTATIONS["mixup"](alpha=0.4)}
    one, other = (ResidentLoader(stripes(), INFO, batch_size=8, parts=parts, seed=0, device=CPU) for _ in range(2))
    one.seek(0, 2)
    addresses = [tensor.data_ptr() for tensor in (one.index, *one.drawn.values(), one.at) if tensor is not None]
    for epoch in (0, 1):
        one.seek(epoch, 2)
        for place in (2, 3, 4):
            other.seek(epoch, place)
            assert all(torch.equal(a, b) for a, b in zip(one.batch(), other.batch(), strict=True))
    assert addresses == [t.data_ptr() for t in (one.index, *one.drawn.values(), one.at) if t is not None]


# --- the recording, with a GPU that only counts


class Graph:
    """Repeats what was called while it was recorded."""

    def __init__(self) -> None:
        self.taken: list[object] = []

    def replay(self) -> None:
        calls.extend(("repeated", inputs) for inputs in self.taken)


calls: list[tuple[str, object]] = []


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., CudaGraph]:
    """A recorder whose GPU notes calls; recording may fail."""
    under_way: list[Graph] = []
    calls.clear()

    @contextlib.contextmanager
    def graph(made: Graph, **settings: object) -> Iterator[None]:
        assert settings["capture_error_mode"] == "thread_local"
        under_way.append(made)
        try:
            yield
        finally:
            under_way.clear()

    stream = types.SimpleNamespace(device=CPU, wait_stream=lambda other: None)
    fake = types.SimpleNamespace(
        Stream=lambda device: stream,
        current_stream=lambda device: stream,
        stream=lambda which: contextlib.nullcontext(),
        get_sync_debug_mode=lambda: 0,
        set_sync_debug_mode=lambda mode: None,
        CUDAGraph=Graph,
        graph=graph,
    )
    monkeypatch.setattr(cuda_graph.torch, "cuda", fake)

    def program(inputs: str) -> None:
        if "waits" in inputs:
            warnings.warn(WAITING, stacklevel=1)
        if under_way and "breaks" in inputs:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        if under_way:
            under_way[0].taken.append(inputs)
        else:
            calls.append(("run", inputs))

    def made(*, required: bool = False) -> Any:
        return partial(CudaGraph(CPU, required=required), program)

    return made


def test_a_program_runs_three_times_and_is_then_repeated_until_its_inputs_change(gpu: Callable[..., Any]) -> None:
    take = gpu()
    assert [take(inputs) for inputs in ["a"] * 6 + ["b"] * 4] == [""] * 10
    run = [("run", "a")] * WARM_UP + [("repeated", "a")] * 3
    assert calls == run + [("run", "b")] * WARM_UP + [("repeated", "b")]


@pytest.mark.filterwarnings("ignore:called a sync")
@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ("waits", "synchronises"),
        ("breaks", "operation not permitted"),
    ],
)
def test_a_program_that_cannot_be_recorded_is_told_with_its_reason(
    gpu: Callable[..., Any], inputs: str, reason: str
) -> None:
    take = gpu()
    assert [take(inputs) for _ in range(WARM_UP)] == [""] * WARM_UP
    assert reason in take(inputs) and calls == [("run", inputs)] * WARM_UP
    take = gpu(required=True)
    with pytest.raises(CnntrainError, match=rf"trainer\.graph=true.*{reason}"):
        for _ in range(WARM_UP + 1):
            take(inputs)


def test_a_step_that_cannot_be_recorded_is_taken_all_the_same(capfd: pytest.CaptureFixture[str]) -> None:
    plain, refused, data = train_step(network()), train_step(network()), loader()
    refused.graph = lambda program, inputs: "since it is a test"  # type: ignore[assignment]
    for step in range(3):
        plain.update(data, step)
        refused.update(data, step)
    assert all(torch.equal(a, b) for a, b in zip(plain.trained.parameters, refused.trained.parameters, strict=True))
    assert capfd.readouterr().err.count("since it is a test") == 1


def test_what_cannot_be_done_here_is_refused(
    refused: Callable[..., str], tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert re.search("trainer.graph=true .*device=cpu", refused("fit", *tiny, "trainer.graph=true"))
    assert re.search("trainer.graph=maybe .*auto or true or false", refused("fit", *tiny, "trainer.graph=maybe"))
    monkeypatch.setenv("PATH", "")
    assert "C++ compiler" in refused("fit", *tiny, "trainer.compile=true")


# --- merged operators


def merged(monkeypatch: pytest.MonkeyPatch, **backend: object) -> None:
    """Train with and without `compile`, and hold losses and names of weights against each other."""
    compiled = torch.compile
    monkeypatch.setattr(
        step_program.torch, "compile", lambda call, mode, dynamic: compiled(call, dynamic=dynamic, **backend)
    )
    found = []
    for compile in (False, True):
        student, data = train_step(network(dropout=0.0), compile=compile, label_smoothing=0.1, ema=0.9), loader()
        losses = []
        for step in range(5):
            student.update(data, step)
            losses.append(student.read(step + 1)["loss"])
        found.append((losses, list(student.state_dict()["model"]), student.evaluated(data.batch().images).detach()))
    (plain, names, logits), (other, others, answers) = found
    assert names == others and other == pytest.approx(plain, abs=1e-4)
    torch.testing.assert_close(answers, logits, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_traced_forward_pass_gives_the_same_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    merged(monkeypatch, backend="eager", fullgraph=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_forward_pass_gives_the_same_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    merged(monkeypatch)


# --- saves beside the training


def test_saves_beside_the_training_are_those_made_at_once(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*tiny, "trainer.checkpoint_seconds=0", "trainer.ema=0.9", "trainer.epochs=3", "trainer.keep_every=2"]
    cnntrain("fit", *words, "output_dir=whole")
    monkeypatch.setattr(saves, "AsyncSaver", lambda beside: AsyncSaver(beside=True))
    cut(*words, "output_dir=cut", nth=8)
    assert last(folder / "cut")["progress"]["step"] == 8
    assert cnntrain("fit", *words, "output_dir=cut")["resumed_from"] == 8
    agree(folder / "whole", folder / "cut")
    names = [{path.name for path in (folder / run / "checkpoints").iterdir()} for run in ("whole", "cut")]
    assert names[0] == names[1] == {"last.pt", "previous.pt", "best.pt", "epoch_0002.pt"}


def test_a_save_beside_the_training_that_fails_is_said_at_the_next(
    folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saves, "AsyncSaver", lambda beside: AsyncSaver(beside=True))
    fill(monkeypatch)
    words = [*tiny, "trainer.checkpoint_seconds=0", "dataset.val_size=0"]
    assert main(["fit", *words, "trainer.epochs=5", "output_dir=run"]) == 1
    err = capfd.readouterr().err
    assert len(re.findall(r"\.pt .*disk is full", err)) == 3 and "3 saves" in err
    rows = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["epoch"] == 4  # the third failure is known at the fourth save


def test_a_state_is_copied_before_the_next_step_changes_it() -> None:
    written: list[Any] = []
    saver, weight = AsyncSaver(beside=True), torch.zeros(3)
    saver.save(written.append, {"model": {"weight": weight}, "rows": [weight], "step": 1})
    weight.add_(1)
    saver.settle()
    saver.close()
    assert torch.equal(written[0]["model"]["weight"], torch.zeros(3)) and not written[0]["rows"][0].any()
