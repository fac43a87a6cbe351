"""Steps for label maps and boxes on a GPU: recorded ones are the plain ones, and none waits for the device."""

from collections.abc import Iterator

import pytest
import torch
from steps import DENSE_NETWORKS, dense_data, dense_step, every_augmentation, no_waiting
from torch import Tensor, nn

from cnntrain.data.loading.loader import eval_batches
from cnntrain.runtime.devices import prepare
from cnntrain.training.cuda_graph import WARM_UP
from cnntrain.training.evaluate import answers
from cnntrain.training.step import TrainStep

GPU, CPU = torch.device("cuda"), torch.device("cpu")
STEPS = 12


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    prepare(deterministic=True)
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = tf32
    prepare(deterministic=False)


def state(student: TrainStep) -> list[Tensor]:
    return [t.cpu() for t in (*student.trained.net.state_dict().values(), *student.program.sums.tensors.values())]


@pytest.mark.parametrize("model", DENSE_NETWORKS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recorded_steps_are_the_plain_ones_to_the_bit(model: str, precision: str) -> None:
    states, scores = [], []
    for graph in (False, True):
        student, loader = dense_step(model, every_augmentation(), GPU, precision=precision, graph=graph)
        for step in range(STEPS):
            student.update(loader, step)
        states.append(state(student))
        scores.append(student.read(STEPS))
        assert not graph or (student.graph is not None and student.graph.graph is not None)
    assert all(torch.equal(one, other) for one, other in zip(*states, strict=True))
    assert scores[0] == scores[1] and scores[0]["loss"] > 0


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("model", DENSE_NETWORKS)
@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("deterministic", [False, True])
def test_no_step_waits_for_the_device(model: str, augmented: bool, deterministic: bool) -> None:
    prepare(deterministic=deterministic)
    student, loader = dense_step(model, every_augmentation() if augmented else {}, GPU, precision="fp32")
    for step in range(WARM_UP):
        student.update(loader, step)
    with no_waiting():
        for step in range(WARM_UP, WARM_UP + STEPS):
            student.update(loader, step)
    assert student.read(STEPS)["loss"] > 0


@pytest.mark.parametrize("model", ["unet", "segnet", "yolo_v1"])
def test_steps_and_answers_on_the_gpu_are_those_on_the_cpu_but_for_rounding(model: str) -> None:
    losses, validated = [], []
    for device in (GPU, CPU):
        student, loader = dense_step(model, {}, device, precision="fp32")
        for layer in student.trained.net.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0  # a GPU draws other masks
        for step in range(3):
            student.update(loader, step)
        losses.append(student.read(3)["loss"])
        data = dense_data(model)
        assert data.test is not None
        batches = eval_batches(data.test, data.info, batch_size=5, device=device)
        validated.append(student.task.validate(answers(student.evaluated, batches, precision="fp32")))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert validated[0]["n"] == validated[1]["n"] == 12
    assert validated[0]["loss"] == pytest.approx(validated[1]["loss"], rel=1e-2)
