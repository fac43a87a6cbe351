"""Operations on many small tensors as one each: the same bits as one by one, fewer kernels, and no trace afterwards."""

from collections import Counter
from typing import Any

import pytest
import torch
from made import create_model
from steps import step_of
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from cnntrain.nn.shapes import Shape
from cnntrain.runtime.devices import autocast
from cnntrain.training.foreach import converted_layers, converted_together, counted_layers, counted_together
from cnntrain.training.optimizers import sgd


class Odd(nn.Module):
    """A layer called twice, one that rests, one that nothing calls, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.rests = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 4, 1)
        self.unused, self.norm, self.out = nn.Linear(2, 2), nn.BatchNorm2d(4), nn.Linear(4, 2)
        self.rests.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.rests(self.twice(self.twice(self.first(x)).relu())))
        return self.out(x.mean(dim=(2, 3)))


def gradients(*, together: bool) -> dict[str, Tensor | None]:
    torch.manual_seed(0)
    net, x = Odd(), torch.randn(8, 3, 6, 6)
    layers = converted_layers(net) if together else []
    with autocast("bf16", torch.device("cpu")), converted_together(layers):
        assert net.first.weight.dtype == (torch.bfloat16 if together else torch.float32)
        answer = net(x)
    F.cross_entropy(answer.float(), torch.arange(8) % 2).backward()
    assert net.first.weight.dtype == torch.float32 and [*vars(net.first)] == [*vars(nn.Conv2d(3, 4, 3))]
    return {"answer": answer.detach(), **{name: p.grad for name, p in net.named_parameters()}}


def test_weights_converted_together_give_the_bits_of_those_converted_one_by_one() -> None:
    one, other = gradients(together=False), gradients(together=True)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert (value is None) == (other[name] is None), name
        assert value is None or (torch.equal(value, other[name]) and value.stride() == other[name].stride()), name
    assert one["rests.weight"] is None and one["unused.weight"] is None and one["twice.weight"] is not None


def test_batches_counted_together_are_those_counted_one_by_one() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3, momentum=None), nn.BatchNorm2d(3).eval())
    x = torch.randn(4, 3, 5, 5)
    for batch in range(3):
        with counted_together(counted_layers(net)):
            net(x)
        assert [int(norm.num_batches_tracked) for norm in net] == [batch + 1, batch + 1, 0]
    assert [*net.state_dict()] == [*nn.Sequential(*(nn.BatchNorm2d(3) for _ in range(3))).state_dict()]


def test_a_pass_that_fails_leaves_the_network_as_it_was() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with (
        pytest.raises(ZeroDivisionError),
        counted_together(counted_layers(net)),
        converted_together(converted_layers(net)),
    ):
        _ = 1 / 0
    assert isinstance(net[0].weight, nn.Parameter) and int(net[1].num_batches_tracked) == 0


class Operations(TorchDispatchMode):
    """Counts what a device is asked to compute: operators that give no view and do more than find memory."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counter[str]()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in operator._schema.returns)
        if not view and not any(word in str(operator) for word in ("empty", "detach", "profiler")):
            self.counts[str(operator)] += 1
        return operator(*args, **(kwargs or {}))


class OneBatch:
    """A loader that gives the same batch at every place."""

    batches, batch_size = 8, 16

    def __init__(self, shape: Shape) -> None:
        self.x, self.y = torch.randn(self.batch_size, *shape), torch.arange(self.batch_size) % 10

    def seek(self, epoch: int, place: int) -> None: ...

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.x, self.y, self.y


@pytest.mark.parametrize(("name", "shape", "most"), [("lenet5", (1, 28, 28), 57), ("resnet20", (3, 32, 32), 176)])
def test_a_step_asks_for_few_operations(name: str, shape: Shape, most: int) -> None:
    """As a step on a GPU does, in bf16, of a network that has trained a step already."""
    net, data = create_model(name, shape, 10), OneBatch(shape)
    step = step_of(net, sgd(net), [0.1] * 8, precision="bf16")
    step.program.converted = converted_layers(net)
    step.update(data, 0)  # type: ignore[arg-type]
    with Operations() as found:
        step.update(data, 1)  # type: ignore[arg-type]
    assert found.counts.total() <= most, found.counts.most_common()
