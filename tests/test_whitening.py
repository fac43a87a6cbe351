"""Weights made from images before training, and filters that begin by passing on their input."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cuts import agree, cut, last
from made import create_model
from torch import nn
from torch.nn import functional as F

from cnntrain.nn.calibration import IMAGES, calibrate
from cnntrain.nn.initialisers import dirac
from cnntrain.nn.whitening import Whitening

Call = Callable[..., dict[str, Any]]
SMALL = (
    *("model=airbench", "model.widths=[6,8,8]", "dataset.image_size=32", "dataset.channels=3", "optimizer=muon"),
    *("trainer.label_smoothing=0.2", "augmentation=crop_flip"),
)


def blobs(count: int = 600) -> torch.Tensor:
    """Images whose neighbouring pixels and channels are correlated, as in photographs."""
    rng = torch.Generator().manual_seed(0)
    return F.interpolate(
        torch.randn(count, 3, 6, 6, generator=rng), size=(12, 12), mode="bilinear"
    ) + 0.3 * torch.randn(count, 1, 12, 12, generator=rng)


def test_whitened_patches_are_uncorrelated_and_come_with_both_signs() -> None:
    x, layer = blobs(), Whitening(3, 2)
    layer.calibrate([x])
    maps = F.conv2d(x, layer.weight).transpose(0, 1).flatten(1)  # in the order of its variances
    covariance = maps[:12] @ maps[:12].T / maps.shape[1]
    expected = torch.linalg.eigvalsh(patch_covariance(x))
    torch.testing.assert_close(covariance.diag(), expected / (expected + 5e-4), rtol=1e-3, atol=1e-3)
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-3 and covariance.diag().min() > 0.9
    assert torch.equal(layer.weight[:12], -layer.weight[12:])
    assert not layer.weight.requires_grad and layer.bias.requires_grad


def patch_covariance(x: torch.Tensor) -> torch.Tensor:
    """Of all windows of 2×2 positions, one after the other."""
    windows = [x[:, :, i : i + 2, j : j + 2].flatten(1) for i in range(11) for j in range(11)]
    flat = torch.cat(windows)
    return flat.T @ flat / len(flat)


def test_calibration_reads_what_reaches_the_layer_and_asks_for_images_only_then() -> None:
    net = nn.Sequential()
    net.add_module("halved", nn.AvgPool2d(2))
    net.add_module("whiten", nn.Sequential(Whitening(3, 2), nn.GELU()))
    net.add_module("fc", nn.Linear(1, 1))  # cannot take what arrives: nothing beyond the last such layer runs
    calibrate(net, blobs)
    alone = Whitening(3, 2)
    alone.calibrate(F.avg_pool2d(blobs(), 2).split(IMAGES))
    assert torch.equal(net.whiten[0].weight, alone.weight) and net.training  # type: ignore[index, union-attr]
    calibrate(create_model("airbench", (3, 32, 32), 10, remove=["whiten"]), lambda: pytest.fail("asked for images"))


def test_filters_of_identity_pass_on_their_input_and_others_stay() -> None:
    for out in (4, 9):
        layer = nn.Conv2d(4, out, 3, padding=1, bias=False)
        drawn = layer.weight.detach().clone()
        dirac(layer)
        x = torch.randn(2, 4, 7, 7)
        torch.testing.assert_close(layer(x)[:, :4], x)
        assert torch.equal(layer.weight[4:], drawn[4:])
    even = nn.Conv2d(3, 4, 2)
    drawn = even.weight.detach().clone()
    dirac(even)
    assert torch.equal(even.weight, drawn)


def test_a_run_keeps_its_whitening_and_resumes_to_the_same_bits(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...]
) -> None:
    """Also held: Muon's state through a checkpoint, in bf16 and channels_last, with the moving average."""
    words = [word for word in tiny if not word.startswith(("model", "augmentation", "optimizer"))]
    words += [*SMALL, "trainer.ema=0.9", "trainer.precision=bf16"]
    steps = cnntrain("fit", *words, "output_dir=whole")["steps"]
    cut(*words, "output_dir=cut", nth=steps // 2)
    assert cnntrain("fit", *words, "output_dir=cut")["resumed_from"] == steps // 2
    agree(folder / "whole", folder / "cut")
    weight = last(folder / "whole")["model"]["whiten.conv.weight"]
    assert torch.equal(weight[:12], -weight[12:])
    assert torch.equal(weight, last(folder / "whole")["ema"]["whiten.conv.weight"])
    assert cnntrain("eval", "run=whole", "tta=flip_shift", "device=cpu")["n"] > 0
    cnntrain("fit", *words, "dataset.train_images=48", "trainer.epochs=1", "output_dir=others")
    assert not torch.equal(weight, last(folder / "others")["model"]["whiten.conv.weight"])


def test_weights_put_back_to_their_beginning_stay_whitened() -> None:
    from cnntrain.studies.networks import with_stages_of

    net, fresh = (create_model("airbench", (3, 12, 12), 10, remove=["pool4"], seed=seed) for seed in (0, 1))
    calibrate(net, blobs)
    found = with_stages_of(net, fresh, ["whiten", "conv1_1"]).state_dict()
    assert torch.equal(found["whiten.conv.weight"], net.state_dict()["whiten.conv.weight"])
    assert torch.equal(found["whiten.conv.bias"], fresh.state_dict()["whiten.conv.bias"])
    assert torch.equal(found["conv1_1.conv.weight"], fresh.state_dict()["conv1_1.conv.weight"])
