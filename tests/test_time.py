"""Times of steps and stages: what is measured, in what order, and what is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cnntrain.cli.main import main
from cnntrain.models import MODELS
from cnntrain.nn.geometry import geometry
from cnntrain.nn.stages import BuildOptions
from cnntrain.studies.timing import measure, report
from cnntrain.studies.timing.measure import TimedSubject, interleaved, peak_memory, spread, time_stages, time_step
from cnntrain.training.optimizers import sgd

Call = Callable[..., dict[str, Any]]


@pytest.fixture
def subject() -> TimedSubject:
    net = MODELS["lenet5"]((1, 28, 28), 10, BuildOptions())
    images, labels = torch.randn(4, 1, 28, 28), torch.arange(4)
    return TimedSubject(net, sgd(net, lr=0.1), images, labels, "fp32")


def test_a_step_trains_and_its_parts_take_time(subject: TimedSubject) -> None:
    before = [parameter.clone() for parameter in subject.net.parameters()]
    times = time_step(subject)
    assert min(times) > 0 and times.step == pytest.approx(sum(times))
    assert all(not torch.equal(a, b) for a, b in zip(before, subject.net.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in subject.net.parameters())


def test_stages_are_timed_in_order_and_leave_no_gradient(subject: TimedSubject) -> None:
    times = time_stages(subject)
    assert list(times) == [name for name, _ in subject.net.named_children()]
    assert all(part.forward > 0 and part.backward > 0 for part in times.values())
    assert all(parameter.grad is None for parameter in subject.net.parameters())


def test_networks_take_turns_and_the_first_turn_is_not_counted() -> None:
    done: list[str] = []
    works = {name: (lambda name=name: done.append(name)) for name in "ab"}
    seen = [name for name, _ in interleaved(works, seconds=0, least=3)]
    assert seen == list("ababab") and done == list("ab") + seen


def test_the_spread_is_the_median_and_the_quartiles() -> None:
    assert spread([5.0]) == (5.0, 5.0, 5.0, 1)
    assert spread([4.0, 1.0, 3.0, 2.0, 5.0]) == (3.0, 2.0, 4.0, 5)


def test_memory_on_a_cpu_is_counted(subject: TimedSubject) -> None:
    rows = geometry(subject.net, (1, 28, 28))
    weights = sum(row.params for row in rows)
    before = peak_memory(subject, 100)
    assert before == 4 * (2 * weights + 100 * 4)
    time_step(subject)  # momentum
    assert peak_memory(subject, 100) == before + 4 * weights


def test_the_rate_of_a_product_is_counted_by_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(measure.PRODUCT, "cpu", 64)
    assert measure.product_rate(torch.device("cpu"), "fp32") > 0


def test_networks_are_timed_in_turns(cnntrain: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(measure.PRODUCT, "cpu", 64)
    words = (
        "time",
        "models=[lenet5,torchvision/shufflenet_v2_x0_5]",
        "dataset=cifar10",
        "seconds=0.01",
        "output_dir=out",
    )
    found = cnntrain(*words)
    assert [row["model"] for row in found["rows"]] == ["lenet5", "torchvision/shufflenet_v2_x0_5"]
    assert Path("out/figures/torchvision_shufflenet_v2_x0_5_stages.png").exists()
    keys = {"model", "batch", "device", "precision", "n", "forward_ms", "backward_ms", "step_ms", "images_per_second"}
    assert keys | {"gmacs_per_second", "peak_memory_mib"} <= set(found["rows"][0])
    assert {"model", "stage", "forward_ms", "backward_ms", "macs"} == set(found["stages"][0])
    lenet = [row for row in found["stages"] if row["model"] == "lenet5"]
    assert [row["macs"] for row in lenet] == [row.macs for row in geometry(*(net_and_shape()))]


def net_and_shape() -> tuple[torch.nn.Sequential, tuple[int, int, int]]:
    return MODELS["lenet5"]((3, 32, 32), 10, BuildOptions(device="meta")), (3, 32, 32)


@pytest.mark.parametrize(
    ("rate", "told"), [(1000.0, "9.0 seconds"), (10.0, "15.0 minutes"), (1.0, "2.5 hours"), (0.01, "10.4 days")]
)
def test_a_training_is_told_in_a_fitting_unit(rate: float, told: str) -> None:
    row = report.NetworkRow("net", 1, "cpu", "fp32", 5, 1, 1, 1, 3, 3, 3, 1, rate, 1, 1, 1)
    assert report.training_cost(row, 100, 90, "image") == f"net: 90 epochs of 100 images take {told}"


def test_a_study_of_times_leaves_its_numbers_and_a_page(
    cnntrain: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(measure.PRODUCT, "cpu", 64)
    cnntrain("time", "model=softmax", "seconds=0.01", "batch=2", "output_dir=out")
    left = {path.name for path in (folder / "out").iterdir()}
    assert left == {"report.html", "report.md", "networks.csv", "stages.csv", "figures"}
    assert (folder / "out/figures/softmax_stages.png").exists() and "<svg" in (folder / "out/report.html").read_text()


@pytest.mark.parametrize("words", ["models=[]", "models=[lenet5,lenet5]", "seconds=inf", "batch=0"])
def test_what_cannot_be_timed_is_refused(words: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["time", words]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert words.partition("=")[0] in line
