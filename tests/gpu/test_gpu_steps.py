"""Steps on a GPU: recorded, compiled and streamed ones are the plain ones, and nothing in them waits for the device."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from made import create_model
from steps import no_waiting, step_of
from torch import Tensor, nn

from cnntrain.data.augment.augmentations import AUGMENTATIONS, Augmentation
from cnntrain.data.datasets.grammar import Grammar
from cnntrain.data.loading.loader import Loader, ResidentLoader, StreamedLoader, eval_batches
from cnntrain.data.storage.images import DatasetInfo, Pixels, Split
from cnntrain.models.text_cnn import text_cnn
from cnntrain.nn.blocks import conv, dense, linear, pooling
from cnntrain.nn.stages import BuildOptions, assemble
from cnntrain.runtime.devices import prepare
from cnntrain.training.cuda_graph import WARM_UP
from cnntrain.training.evaluate import outputs
from cnntrain.training.optimizers import OPTIMIZERS, adadelta
from cnntrain.training.step import TrainStep

GPU, CPU = torch.device("cuda"), torch.device("cpu")
INFO = DatasetInfo("noise", ("a", "b", "c"), (3, 16, 16), (0.4, 0.5, 0.6), (0.2, 0.3, 0.1))
STEPS, PLANNED = 20, 200
HALFWAY = STEPS / PLANNED / 2
TOGETHER: dict[bool, dict[str, Any]] = {False: {}, True: {"together": 2}}  # batches that a worker reads at once


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    prepare(deterministic=True)
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = tf32
    prepare(deterministic=False)


def noise(count: int = 96) -> Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 16, 16, 3), dtype=torch.uint8, generator=generator)
    return Split(Pixels(images), torch.randint(3, (count,), generator=generator))


def everything() -> dict[str, Augmentation]:
    return {
        "flip": AUGMENTATIONS["flip"](),
        "crop": AUGMENTATIONS["crop"](padding=2),
        "affine": AUGMENTATIONS["affine"](shift=0.1, rotate=10.0, zoom=0.1),
        "colour": AUGMENTATIONS["colour"](brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1),
        "cutout": AUGMENTATIONS["cutout"](size=4),
        "mixup": AUGMENTATIONS["mixup"](alpha=0.4),
    }


def loader(
    device: torch.device = GPU, parts: dict[str, Augmentation] | None = None, streamed: bool = False, **more: Any
) -> Any:
    settings: dict[str, Any] = {"batch_size": 8, "seed": 0, "device": device, **more}
    settings["parts"] = everything() if parts is None else parts
    return (
        StreamedLoader(noise(), INFO, workers=2, **settings) if streamed else ResidentLoader(noise(), INFO, **settings)
    )


def network(device: torch.device = GPU, dropout: float = 0.3) -> nn.Sequential:
    pool = pooling("avg", 14, ceil=True)  # of all positions, whatever their number
    makers = {"conv1": conv(8, 3, norm=True), "pool1": pool, "fc2": dense(16, dropout=dropout), "fc3": linear(3)}
    net = assemble(makers, (3, 16, 16), out_shape=(3,), build=BuildOptions(seed=0))
    return net.to(device).to(memory_format=torch.channels_last)


def train_step(optimizer: str = "sgd", device: torch.device = GPU, **settings: Any) -> TrainStep:
    net = network(device, settings.pop("dropout", 0.3))
    rates = [0.05 / (1 + step / 10) for step in range(PLANNED)]
    options = {"ema": 0.9, "clip": 1.0, "label_smoothing": 0.1, "accumulate": 2}
    return step_of(net, OPTIMIZERS[optimizer](net, lr=0.05), rates, **options | settings)


def take(student: TrainStep, data: Loader, steps: int = STEPS, first: int = 0) -> TrainStep:
    for step in range(first, steps):
        student.update(data, step)
    return student


def state(student: TrainStep) -> list[Tensor]:
    trained, sums = student.trained, student.program.sums.tensors.values()
    assert trained.average
    kept = [*trained.net.state_dict().values(), *trained.average.averaged, *sums]
    return [t.cpu() for t in (*kept, *(t for kept in trained.optimizer.state.values() for t in kept.values()))]


def equal(one: TrainStep, other: TrainStep) -> bool:
    return all(torch.equal(a, b) for a, b in zip(state(one), state(other), strict=True))


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("changing", [{}, {"freeze": {"conv1": HALFWAY}, "resize": {8: HALFWAY}}])
def test_recorded_steps_are_the_plain_ones_to_the_bit(
    optimizer: str, precision: str, streamed: bool, changing: dict[str, Any]
) -> None:
    found = []
    for graph in (False, True):
        data = loader(streamed=streamed, **TOGETHER[streamed])
        found.append(take(train_step(optimizer, precision=precision, graph=graph, **changing), data))
        data.close()
    plain, recorded = found
    assert recorded.graph is not None and recorded.graph.graph is not None
    assert equal(plain, recorded) and plain.read(STEPS) == recorded.read(STEPS)


def test_streamed_batches_are_the_resident_ones_to_the_bit_with_one_and_several_a_step() -> None:
    for together in (1, 2, 5):
        resident, streamed = loader(), loader(streamed=True, together=together)
        for epoch, place in ((0, 0), (0, together), (1, 3), (0, 5)):
            resident.seek(epoch, place)
            streamed.seek(epoch, place)
            for _ in range(together):
                pairs = zip(resident.batch(), streamed.batch(), strict=True)
                assert all(torch.equal(a, b) for a, b in pairs), (together, epoch, place)
        streamed.close()


def test_a_fast_host_overtakes_no_slot() -> None:
    """Many batches are sent before the device, busy with products, has seen the first."""
    data, plain = loader(streamed=True, parts={}), loader(CPU, parts={})
    busy, seen = torch.randn(2048, 2048, device=GPU), []
    for place in range(data.batches):
        data.seek(0, place)
        for _ in range(20):
            busy = torch.tanh(busy @ busy)
        seen.append(data.batch().images)
    for place, images in enumerate(seen):
        plain.seek(0, place)
        torch.testing.assert_close(images.cpu(), plain.batch().images)
    data.close()


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
def test_no_step_waits_for_the_device(optimizer: str, graph: bool, streamed: bool) -> None:
    data = loader(streamed=streamed, **TOGETHER[streamed])
    student = take(train_step(optimizer, graph=graph), data, WARM_UP + 2)
    with no_waiting():
        take(student, data, WARM_UP + 2 + STEPS, WARM_UP + 2)  # over the ends of epochs
    assert student.read(STEPS)["loss"] > 0
    data.close()


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("model", ["lenet5", "lenet5_1998", "resnet20", "nin", "airbench", "googlenet"])
def test_networks_are_recorded(model: str) -> None:
    net = create_model(model, (3, 32, 32), 10).to(GPU).to(memory_format=torch.channels_last)
    info = DatasetInfo("noise", tuple("abcdefghij"), (3, 32, 32), (0.4, 0.5, 0.6), (0.2, 0.3, 0.1))
    images = torch.randint(256, (32, 32, 32, 3), dtype=torch.uint8)
    data = ResidentLoader(
        Split(Pixels(images), torch.arange(32) % 10), info, batch_size=8, seed=0, device=GPU, parts={}
    )
    prepare(deterministic=False)
    student = step_of(net, OPTIMIZERS["sgd"](net, lr=0.01), [0.01] * 99, precision="bf16", graph=True)
    take(student, data, WARM_UP + 1)
    with no_waiting():
        take(student, data, STEPS, WARM_UP + 1)
    assert student.read(STEPS)["loss"] > 0


def sentence_step(precision: str, *, graph: bool) -> tuple[TrainStep, Loader]:
    """Kim's network with Kim's optimizer, on a batch of more than 3,072 words: torch then adds gradients by sorting."""
    dataset = Grammar(Path(), train_images=1000).read()
    net = text_cnn(dataset.info.shape, 2, BuildOptions(words=dataset.info.words), dim=16, maps=8, tables="both")
    net.to(GPU).to(memory_format=torch.channels_last)
    data = ResidentLoader(dataset.train, dataset.info, batch_size=200, seed=0, device=GPU, parts={})
    student = step_of(net, adadelta(net, max_norm=3.0), [1.0] * 99, precision=precision, graph=graph, ema=0.9)
    return student, data


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recorded_steps_on_sentences_are_the_plain_ones_to_the_bit(precision: str) -> None:
    plain, recorded = (take(*sentence_step(precision, graph=graph)) for graph in (False, True))
    assert recorded.graph is not None and recorded.graph.graph is not None
    assert equal(plain, recorded) and plain.read(STEPS) == recorded.read(STEPS)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("graph", [False, True])
def test_no_step_on_sentences_waits_for_the_device(graph: bool) -> None:
    student, data = sentence_step("fp32", graph=graph)
    take(student, data, WARM_UP + 2)
    with no_waiting():
        take(student, data, STEPS, WARM_UP + 2)  # over the ends of epochs
    assert student.read(STEPS)["loss"] > 0


class Waits(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * float(x.mean() > -1e9)


def test_a_network_that_looks_at_a_value_is_trained_without_a_recording(capfd: pytest.CaptureFixture[str]) -> None:
    students = []
    for graph in (False, "auto"):
        student = train_step(graph=graph)
        student.trained.net.append(Waits())
        students.append(take(student, loader()))
    assert students[1].graph is None and "synchronises" in capfd.readouterr().err
    assert equal(*students)


def test_a_cut_and_resumed_recording_goes_on_to_the_bit() -> None:
    whole = take(train_step(graph=True), loader())
    kept = torch.utils._pytree.tree_map_only(
        Tensor, torch.clone, take(train_step(graph=True), loader(), 11).state_dict()
    )
    resumed = train_step(graph=True)
    resumed.load_state_dict(kept)
    assert equal(whole, take(resumed, loader(), first=11))


def test_loading_a_state_begins_a_new_recording() -> None:
    whole = take(train_step(graph=True), loader())
    student = take(train_step(graph=True), loader(), 11)
    kept = torch.utils._pytree.tree_map_only(Tensor, torch.clone, student.state_dict())
    take(student, loader(), 17, 11)
    student.load_state_dict(kept)
    assert equal(whole, take(student, loader(), first=11))


@pytest.mark.filterwarnings("ignore")
def test_compiled_steps_learn_the_same() -> None:
    losses = []
    choices: list[dict[str, Any]] = [{}, {"compile": True}, {"compile": True, "graph": True}]
    for settings in choices:
        student = take(train_step(dropout=0.0, **settings), loader(), 10)
        losses.append(student.read(10)["loss"])
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-3)


def test_the_gpu_sees_the_crops_and_draws_of_the_cpu() -> None:
    one, other = loader(), loader(CPU)
    for epoch, place in ((0, 0), (2, 3)):
        for data in (one, other):
            data.seek(epoch, place)
        assert one.index is not None and torch.equal(one.index.cpu(), other.index)
        assert all(torch.equal(one.drawn[name].cpu(), other.drawn[name]) for name in other.drawn)
        for a, b in zip(one.batch(), other.batch(), strict=True):
            torch.testing.assert_close(a.cpu(), b, rtol=1e-3, atol=1e-2)


def test_steps_on_the_gpu_are_those_on_the_cpu_but_for_rounding() -> None:
    parts = {"crop": AUGMENTATIONS["crop"](padding=2)}
    one, other = (
        take(train_step(device=device, dropout=0.0), loader(device, parts), 5).trained.net.state_dict()
        for device in (GPU, CPU)
    )
    for key, tensor in other.items():
        torch.testing.assert_close(one[key].cpu(), tensor, rtol=1e-3, atol=1e-4)


def test_bf16_stays_finite_and_learns() -> None:
    student = train_step(precision="bf16", graph=True, dropout=0.0)
    data = loader(parts={})
    first = take(student, data, 6).read(6)["loss"]
    assert take(student, data, 120, 6).read(120)["loss"] < first


def test_an_evaluation_counts_every_image_once() -> None:
    net, device = network(), GPU
    found = outputs(net, eval_batches(noise(50), INFO, batch_size=16, device=device), precision="fp32")
    again = outputs(network(CPU), eval_batches(noise(50), INFO, batch_size=50, device=CPU), precision="fp32")
    assert len(found.labels) == 50 and torch.equal(found.labels, again.labels)
    torch.testing.assert_close(found.logits, again.logits, rtol=1e-3, atol=1e-3)


def test_a_bad_step_is_noted_by_its_number_in_a_recording() -> None:
    student, data = train_step(graph=True), loader(parts={})
    take(student, data, WARM_UP + 2)
    before = [p.detach().clone() for p in student.trained.parameters]
    with torch.no_grad():
        kept = student.program.sums.loss.clone()
        data.render.normalise.shift.fill_(float("nan"))
    take(student, data, WARM_UP + 6, WARM_UP + 2)
    assert int(student.program.bad_step) == WARM_UP + 2 and kept.isfinite()
    assert all(torch.equal(a, b) for a, b in zip(before, student.trained.parameters, strict=True))
