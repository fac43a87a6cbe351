"""Which precision is chosen: by the network and the device alone, and by what a run began with."""

from pathlib import Path

import pytest
import torch
from cuts import Call, cut

from cnntrain.cli.main import main
from cnntrain.config.build import build_model
from cnntrain.data.storage.images import DatasetInfo
from cnntrain.nn import precision
from cnntrain.nn.precision import gains, precision_for
from cnntrain.runs import records
from cnntrain.runtime import devices

DIGITS, COLOUR = (1, 28, 28), (3, 32, 32)
CPU = torch.device("cpu")


def info(shape: tuple[int, int, int]) -> DatasetInfo:
    return DatasetInfo("none", tuple("0123456789"), shape, (0.5,) * shape[0], (0.5,) * shape[0])


@pytest.fixture(params=[False, True], ids=["without_tiles", "with_tiles"])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A processor that computes in bf16, and whether it multiplies tiles."""
    monkeypatch.setattr(devices, "cpu_computes_in_bf16", lambda: True)
    monkeypatch.setattr(precision, "cpu_multiplies_tiles", lambda: request.param)
    return bool(request.param)


@pytest.fixture
def with_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that multiplies tiles of bf16."""
    monkeypatch.setattr(devices, "cpu_computes_in_bf16", lambda: True)
    monkeypatch.setattr(precision, "cpu_multiplies_tiles", lambda: True)


@pytest.mark.parametrize(
    ("name", "shape", "chosen", "with_tiles"),
    [
        ("softmax", DIGITS, "fp32", "fp32"),
        ("mlp", DIGITS, "bf16", "fp32"),
        ("lenet5", DIGITS, "bf16", "fp32"),
        ("lenet5", COLOUR, "bf16", "fp32"),
        ("mobilenet_v1", COLOUR, "fp32", "fp32"),
        ("resnet20", COLOUR, "bf16", "bf16"),
        ("alexnet", COLOUR, "bf16", "bf16"),
        ("vgg11", COLOUR, "bf16", "bf16"),
    ],
)
def test_bf16_is_for_networks_of_some_size_without_depthwise_convolutions(
    name: str, shape: tuple[int, int, int], chosen: str, with_tiles: str, tiles: bool
) -> None:
    net = build_model({"name": name}, info(shape), device="meta")
    chosen = with_tiles if tiles else chosen
    assert precision_for("auto", CPU, (net, shape)) == chosen
    assert precision_for("fp32", CPU, (net, shape)) == "fp32" and precision_for("bf16", CPU, (net, shape)) == "bf16"


@pytest.mark.usefixtures("with_tiles")
def test_several_networks_share_a_precision_that_pays_for_all() -> None:
    nets = [(build_model({"name": name}, info(COLOUR), device="meta"), COLOUR) for name in ("resnet20", "lenet5")]
    assert precision_for("auto", CPU, nets[0]) == "bf16" and precision_for("auto", CPU, *nets) == "fp32"


def test_a_processor_without_bf16_computes_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "cpu_computes_in_bf16", lambda: False)
    net = build_model({"name": "resnet20"}, info(COLOUR), device="meta")
    assert precision_for("auto", CPU, (net, COLOUR)) == "fp32"


def test_multiply_adds_are_counted_without_weights_and_with_them(tiles: bool) -> None:
    """A filter of 3×3 reads 3 channels at 32×32 places: 27,648 multiply-adds; 36 of them are less than a million."""
    for filters, pays in ((36, False), (37, True)) if tiles else ((3, False), (4, True)):
        net = torch.nn.Sequential(torch.nn.Conv2d(3, filters, 3, padding=1))
        assert gains(net, COLOUR) is pays and gains(net.to("meta"), COLOUR) is pays
    assert not gains(torch.nn.Sequential(torch.nn.Conv2d(3, 120, 3, padding=1, groups=3)), COLOUR)


@pytest.mark.usefixtures("with_tiles")
def test_a_run_keeps_the_precision_that_it_began_with(
    cnntrain: Call,
    folder: Path,
    tiny: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as before:
        before.setattr(precision, "SMALL", {True: 0})
        cut(*tiny, "output_dir=run", nth=5)
    capfd.readouterr()
    assert main(["fit", *tiny, "output_dir=run"]) == 0
    assert "precision was" not in capfd.readouterr().err
    assert records.record(folder / "run")["precision"] == "bf16"
    cnntrain("fit", *tiny, "output_dir=another")
    assert records.record(folder / "another")["precision"] == "fp32"
