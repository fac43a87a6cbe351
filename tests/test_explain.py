"""`cnntrain explain`: attributions against arithmetic and captum, and what a study leaves."""

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made import Page, picture
from PIL import Image
from torch import Tensor, nn

from cnntrain.cli.main import main
from cnntrain.data.storage.images import DatasetInfo
from cnntrain.runtime.errors import InputError
from cnntrain.studies.explain.cam import class_cells
from cnntrain.studies.explain.occlusion import occluded, patches
from cnntrain.studies.explain.question import Subject, Targets
from cnntrain.studies.explain.tiles import scale_of

Call = Callable[..., dict[str, Any]]


def stages(**parts: nn.Module) -> nn.Sequential:
    """A network of named stages with weights from a fixed seed."""
    net = nn.Sequential(OrderedDict(parts)).eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=rng) / tensor[0].numel() ** 0.5)
    return net


def pooled_net() -> nn.Sequential:
    return stages(
        conv1=nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()),
        conv2=nn.Sequential(nn.Conv2d(6, 8, 3, stride=2), nn.ReLU()),
        pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        fc=nn.Linear(8, 4),
    )


def flat_net() -> nn.Sequential:
    return stages(
        conv1=nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()),
        pool=nn.MaxPool2d(2),
        fc=nn.Sequential(nn.Flatten(), nn.Linear(6 * 36, 4)),
    )


def subject_of(net: nn.Sequential, side: int = 12) -> Subject:
    info = DatasetInfo("made", ("a", "b", "c", "d"), (3, side, side), (0.5,) * 3, (0.25,) * 3)
    return Subject(Path(), net, info, {}, torch.device("cpu"))


def images(count: int = 3, side: int = 12) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def targets_of(count: int, quantity: Any = "logit") -> Targets:
    return Targets(torch.arange(count) % 4, quantity)


# --- attributions


def test_a_class_activation_map_is_the_logit_in_parts() -> None:
    subject, x, targets = subject_of(pooled_net()), images(), targets_of(3)
    cells, bias, logits = class_cells(subject, x, targets)
    features = subject.net[:2](x)
    weight: Tensor = subject.net.fc.weight  # type: ignore[union-attr, assignment]
    assert torch.allclose(cells, torch.einsum("nc,ncij->nij", weight[targets.classes], features), atol=1e-5)
    assert torch.allclose(cells.mean(dim=(1, 2)) + bias, subject.net(x)[range(3), targets.classes], atol=1e-6)
    assert torch.equal(logits, subject.net(x)[range(3), targets.classes])


def test_a_network_without_global_pooling_has_no_class_activation_map() -> None:
    with pytest.raises(InputError, match="gradcam"):
        class_cells(subject_of(flat_net()), images(), targets_of(3))


def test_patches_cover_every_pixel_and_end_at_the_border() -> None:
    covered = np.zeros((11, 7), dtype=int)
    for window in patches((11, 7), 4, 3):
        covered[window] += 1
    assert covered.min() >= 1 and covered[0, 0] == 1 and covered[3, 3] == 4


def test_occlusion_is_the_mean_fall_over_the_patches_that_cover_a_pixel() -> None:
    subject, x, target = subject_of(flat_net()), images(1), targets_of(1)
    grey = torch.full_like(x[0], 0.3)
    values = occluded(subject, x[0], target, grey, patches((12, 12), 5, 3), batch_size=4)
    row, column, falls = 6, 4, []
    for top in (0, 3, 6, 9):
        for left in (0, 3, 6, 9):
            if top <= row < top + 5 and left <= column < left + 5:
                covered = x.clone()
                covered[:, :, top : top + 5, left : left + 5] = 0.3
                falls.append(float((subject.net(x) - subject.net(covered))[0, 0]))
    assert len(falls) == 4 and float(values[row, column]) == pytest.approx(np.mean(falls), abs=1e-5)


def test_occlusion_agrees_with_captum() -> None:
    captum = pytest.importorskip("captum.attr")
    subject, x, target = subject_of(flat_net()), images(2), targets_of(2)
    theirs = captum.Occlusion(subject.net).attribute(
        x, (3, 5, 5), strides=(3, 3, 3), baselines=0.3, target=target.classes
    )
    grey = torch.full_like(x[0], 0.3)
    for i in range(2):
        ours = occluded(subject, x[i], target.take(slice(i, i + 1)), grey, patches((12, 12), 5, 3), batch_size=7)
        assert torch.allclose(ours, theirs[i, 0], atol=1e-5)


# --- colours


def test_zero_is_zero_and_what_lies_beyond_the_colours_is_said() -> None:
    values = np.linspace(-1, 3, 1000)
    scale = scale_of(values, "x", signed=True)
    assert 2.9 < scale.limit < 3 and scale.above and not scale.below
    assert scale_of(values, "x", signed=True, limit=0.5).below
    assert scale_of(np.zeros(3), "x", signed=False).limit == 1
    assert not scale_of(values, "x", signed=True, limit=4).above


# --- the command


@pytest.fixture
def run(cnntrain: Call, tiny: tuple[str, ...]) -> str:
    cnntrain("fit", *tiny, "trainer.epochs=1", "output_dir=run")
    return "run=run"


def test_a_study_leaves_a_page_pictures_tables_and_results(cnntrain: Call, run: str, folder: Path) -> None:
    found = cnntrain("explain", run, "what=occlusion", "images=3", "occlusion.stride=7", "output_dir=out")
    assert {"run_dir", "output_dir", "what", "pictures", "scores", "sanity"} <= set(found)
    assert found["what"] == "occlusion" and len(found["pictures"]) == 3
    assert all(Path(path).is_file() for path in found["pictures"])
    assert json.loads((folder / "out/results.json").read_text())["rows"]["occlusion"] == found["rows"]["occlusion"]
    assert (folder / "out/occlusion.csv").read_text().count("\n") == 4
    assert len(Page(folder / "out/report.html").all("svg")) == 3
    assert list((folder / "out/tensorboard").iterdir())


def test_one_picture_of_a_file_goes_where_it_is_asked_for(cnntrain: Call, run: str, folder: Path) -> None:
    picture(3, 20, 30).save("photo.png")
    found = cnntrain("explain", run, "what=occlusion", "images=photo.png", "output=map.png", "figures=slide")
    assert found["output_dir"] is None and found["pictures"] == ["map.png"]
    with Image.open(folder / "map.png") as written:
        assert written.size == (1920, 1080)
    assert found["rows"]["occlusion"][0]["true"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["what=ocllusion"], "'occlusion'"),
        (["what=[]"], "occlusion"),
        (["what=cam"], "gradcam"),
        (["what=cam", "quantity=probability"], "quantity=logit"),
        (["what=occlusion", "target=true", "images=photo.png"], "target=predicted"),
        (["what=occlusion", "target=nothing"], "predicted"),
        (["what=occlusion", "images=no.png"], "no.png"),
        (["what=occlusion", "images=text.png"], "text.png"),
        (["what=occlusion", "occlusion.patch=28"], "14"),
        (["what=occlusion", "occlusion.patch=3", "occlusion.stride=4"], "3"),
        (["what=occlusion", "output=map.gif"], ".png"),
        (["what=occlusion", "output=map.png"], "images=1"),
        (["what=occlusion", "output=map.png", "output_dir=out"], "output_dir"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    words: list[str], said: str, run: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    picture(3, 20, 30).save("photo.png")
    (folder / "text.png").write_text("no image")
    before = sorted(folder.rglob("*"))
    capfd.readouterr()
    assert main(["explain", run, *words]) == 2
    assert said in capfd.readouterr().err
    assert sorted(folder.rglob("*")) == before
