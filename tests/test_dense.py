"""What holds of label maps and boxes alike: on an imagined GPU no step waits for the device."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from steps import DENSE_NETWORKS, dense_step, every_augmentation, lying_on
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from cnntrain.data.augment.augmentations import Augmentation

CPU = torch.device("cpu")


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
    assert loader.index is not None and loader.store.flat is not None
    with FakeTensorMode(allow_non_fake_inputs=True):
        lying_on(gpu, loader, ("labels", "at", "index"))
        lying_on(gpu, loader.store, ("flat", "rows", "cols"))
        lying_on(gpu, loader.render.normalise, ("scale", "shift"))
        loader.store.device = torch.device(gpu)
        loader.drawn = {name: torch.empty_like(drawn, device=gpu) for name, drawn in loader.drawn.items()}
        for module in student.trained.net.modules():
            lying_on(gpu, module, [*module._parameters, *module._buffers])
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
