"""Pictures between a photograph's content and a painting's style: losses by their formulas, stages, the command."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cnntrain.cli.main import main
from cnntrain.commands import style as command
from cnntrain.data.storage.images import DatasetInfo
from cnntrain.models import MODELS
from cnntrain.nn.stages import BuildOptions
from cnntrain.studies.style import study
from cnntrain.studies.style.layers import map_shapes, paper_stages
from cnntrain.studies.style.losses import Weighting, content_difference, gram, losses, style_difference, targets
from cnntrain.studies.style.network import Features
from cnntrain.studies.style.options import Recipe
from cnntrain.studies.style.pictures import grey_pair, with_colours

Call = Callable[..., dict[str, Any]]
RECIPES: tuple[Recipe, ...] = get_args(Recipe)
NETWORK = ("model=convnet", "model.widths=[4,6]", "model.activation=tanh", "dataset=cifar10")
FEW = ("size=16", "steps=4")


@pytest.fixture
def features() -> Features:
    """Two smooth layers with content in the second and style in both, in float64."""
    torch.manual_seed(0)
    parts = {"one": nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()), "two": nn.Sequential(nn.Conv2d(4, 5, 3), nn.Tanh())}
    net = nn.Sequential(torch.nn.modules.container.OrderedDict(parts)).double().requires_grad_(False)
    info = DatasetInfo("none", (3, 8, 8), ("a",), (0.5,) * 3, (0.2,) * 3)
    return Features(net, info, ["two"], ["one", "two"])


@pytest.fixture
def pictures(folder: Path) -> Path:
    """A photograph and a painting, as files."""
    rng = np.random.default_rng(0)
    for name, shape in (("photo.png", (30, 40, 3)), ("painting.png", (36, 24, 3))):
        Image.fromarray(rng.integers(0, 255, shape).astype(np.uint8)).save(folder / name)
    return folder


def image(seed: int, height: int = 9, width: int = 10) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(1, 3, height, width)))


# Losses.


def test_a_gram_matrix_is_symmetric_positive_and_knows_no_positions() -> None:
    maps = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 6, 5, 7)))
    matrix = gram(maps)
    torch.testing.assert_close(matrix, matrix.T)
    assert torch.linalg.eigvalsh(matrix).min() > -1e-12
    mixed = maps.flatten(2)[:, :, torch.randperm(35)].view(maps.shape)
    torch.testing.assert_close(gram(mixed), matrix)
    expected = np.einsum("ihw,jhw->ij", maps[0].numpy(), maps[0].numpy()) / 35
    np.testing.assert_allclose(matrix, expected)


@pytest.mark.parametrize("recipe", RECIPES)
def test_identical_pictures_have_no_loss(features: Features, recipe: Recipe) -> None:
    x = image(0)
    parts = losses(features.net, x, targets(features, x, x), Weighting(recipe, 1.0, 1.0))
    assert [*parts] == [("style", "one"), ("content", "two"), ("style", "two")]
    assert all(loss.item() == 0 for loss in parts.values())


@pytest.mark.parametrize("recipe", RECIPES)
def test_gradients_are_those_of_finite_differences(features: Features, recipe: Recipe) -> None:
    wanted = targets(features, image(1), image(2, 12, 8))

    def loss(x: Tensor) -> Tensor:
        parts = losses(features.net, x, wanted, Weighting(recipe, 0.5, 2.0, 0.1))
        return torch.stack([*parts.values()]).sum()

    assert torch.autograd.gradcheck(loss, image(0).requires_grad_(True))


def test_the_recipes_are_the_formulas_of_paper_and_notebook(features: Features) -> None:
    x, content, style = image(0), image(1), image(2)
    wanted = targets(features, content, style)
    one = [features.net.one(each)[0].flatten(1).numpy() for each in (x, content, style)]
    two = [features.net(each)[0].flatten(1).numpy() for each in (x, content, style)]
    paper = losses(features.net, x, wanted, Weighting("paper", 3.0, 7.0))
    assert paper["content", "two"].item() == pytest.approx(3 * ((two[0] - two[1]) ** 2).sum() / 2)
    for name, maps in (("one", one), ("two", two)):
        n, m = maps[0].shape
        squares = (maps[0] @ maps[0].T - maps[2] @ maps[2].T) ** 2
        assert paper["style", name].item() == pytest.approx(7 / 2 * squares.sum() / (4 * n**2 * m**2))
        mean = ((maps[0] @ maps[0].T / m - maps[2] @ maps[2].T / m) ** 2).mean()
        notebook = losses(features.net, x, wanted, Weighting("notebook", 3.0, 1e3))
        assert notebook["style", name].item() == pytest.approx(1e3 / n**2 * mean)
    assert notebook["content", "two"].item() == pytest.approx(3 * ((two[0] - two[1]) ** 2).mean())


def test_relative_differences_do_not_know_the_scale_of_a_network(features: Features) -> None:
    wanted = targets(features, image(1), image(2))
    maps, target = features.net(image(0)), wanted.content["two"]
    difference = content_difference("relative", maps, target)
    torch.testing.assert_close(content_difference("relative", 9 * maps, 9 * target), difference)
    apart = style_difference("relative", gram(maps), gram(target), wanted)
    torch.testing.assert_close(style_difference("relative", gram(9 * maps), gram(9 * target), wanted), apart)


# Stages.


def test_stages_are_those_of_the_paper_in_either_form_of_vgg19() -> None:
    for name, options, content, styles in (
        ("vgg19", {}, "conv4_2", ["conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"]),
        ("torchvision", {"arch": "vgg19"}, "features_22", [f"features_{i}" for i in (1, 6, 11, 20, 29)]),
    ):
        net = MODELS[name]((3, 224, 224), 1000, BuildOptions(device="meta"), **options)
        assert paper_stages(net, map_shapes(net, (3, 256, 256))) == (content, styles)


def test_small_networks_have_stages_too() -> None:
    net = MODELS["lenet5"]((1, 28, 28), 10, BuildOptions(device="meta"))
    assert paper_stages(net, map_shapes(net, (1, 28, 28))) == ("conv2", ["conv1", "conv2"])


# Colours.


def test_colours_are_kept_and_brightness_is_painted() -> None:
    content, style = (torch.rand(1, 3, 8, 8) * 255 for _ in range(2))
    bright, other = grey_pair(content, style)
    assert other.mean().item() == pytest.approx(bright.mean().item(), rel=1e-4)
    assert other.std().item() == pytest.approx(bright.std().item(), rel=1e-3)
    change = with_colours(other, content) - content  # the same in all channels, so that no colour changes
    torch.testing.assert_close(change[:, :1].expand(-1, 3, -1, -1), change, rtol=0, atol=1e-4)
    torch.testing.assert_close(with_colours(bright, content), content)


# The command.


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_loss_falls_and_its_shares_are_told(cnntrain: Call, pictures: Path, recipe: str) -> None:
    words = ("style", "content=photo.png", "style=painting.png", *NETWORK, f"recipe={recipe}", "start=noise", "size=16")
    first = cnntrain(*words, "steps=1", "output=first.png")
    found = cnntrain(*words, "steps=12", "output=out.png")
    assert set(found) == {"output", "steps", "loss", "layers"} and found["steps"] == 12
    assert found["loss"] < 0.9 * first["loss"]
    assert {row["kind"] for row in found["layers"]} == {"content", "style"}
    assert sum(row["share"] for row in found["layers"]) == pytest.approx(1)
    with Image.open("out.png") as picture:
        assert picture.size == (16, 12)
    assert not Path("out.png.state.pt").exists()


def test_a_stopped_picture_goes_on_to_the_same_bits(
    cnntrain: Call, pictures: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(study, "AT_ONCE", 2)
    words = ["style", "content=photo.png", "style=painting.png", *NETWORK, "coarse=[10]", *FEW]
    whole = cnntrain(*words, "output=whole.png")
    signals, asked = command.Signals, []

    def stop(self: Any, *, last: bool = False) -> bool:
        asked.append(1)
        if len(asked) == 5:  # within the second size
            self.sent_stop = 15
        return bool(original(self, last=last))

    original = signals.stop
    monkeypatch.setattr(signals, "stop", stop)
    assert main([*words, "output=parts.png"]) == 143
    assert "parts.png" in capfd.readouterr().err and Path("parts.png.state.pt").exists()
    assert main([*words, "beta=5", "output=parts.png"]) == 2
    assert "beta" in capfd.readouterr().err
    photo = Path("photo.png").read_bytes()
    shutil.copy("painting.png", "photo.png")
    assert main([*words, "output=parts.png"]) == 2
    assert "another content" in capfd.readouterr().err
    Path("photo.png").write_bytes(photo)
    parts = cnntrain(*words, "output=parts.png")
    assert parts["loss"] == whole["loss"] and parts["steps"] == whole["steps"] == 8
    assert Path("parts.png").read_bytes() == Path("whole.png").read_bytes()


def test_of_two_commands_with_one_output_the_second_is_refused(
    cnntrain: Call, pictures: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["style", "content=photo.png", "style=painting.png", *NETWORK, *FEW, "output=out.png"]
    with command.alone(Path("out.png")):
        assert main(words) == 2
        assert "another command" in capfd.readouterr().err and not Path("out.png").exists()
    cnntrain(*words)
    assert not list(Path().glob("out.png.*"))


def test_a_picture_does_not_go_on_with_another_network(
    cnntrain: Call, pictures: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The name of a run may come to mean another one."""
    tiny = ["model=convnet", "model.widths=[4,4,4]", "dataset=synthetic", "dataset.train_images=64", "trainer.epochs=1"]
    tiny += ["dataset.test_images=16", "trainer.batch_size=16"]
    for seed in (0, 1):
        cnntrain("fit", *tiny, f"seed={seed}", f"output_dir=run{seed}")
    words = ["style", "content=photo.png", "style=painting.png", "run=mine", *FEW, "output=out.png"]
    shutil.copytree("run0", "mine")
    original = command.Signals.stop

    def stop(self: Any, *, last: bool = False) -> bool:
        self.sent_stop = 15
        return bool(original(self, last=last))

    with monkeypatch.context() as stopped:
        stopped.setattr(command.Signals, "stop", stop)
        assert main(words) == 143
    shutil.rmtree("mine")
    shutil.copytree("run1", "mine")
    capfd.readouterr()
    assert main(words) == 2
    assert "another run" in capfd.readouterr().err
    shutil.rmtree("mine")
    shutil.copytree("run0", "mine")
    cnntrain(*words)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["content=pipe.png"], "pipe.png"),
        (["content=nowhere.png"], "nowhere.png"),
        (["content=text.png"], "text.png"),
        (["output=photo.png"], "output=photo.png"),
        (["output=picture.gif"], ".png"),
        (["alpha=0", "beta=0"], "alpha=0"),
        (["style_stages=[conv3]"], "conv"),
        (["content_stages=[fc3]"], "fc3"),
        (["run=latest"], "run="),
        (["model=vgg99"], "vgg"),
        (["dataset=mnist", "keep_colours=true"], "keep_colours"),
        (["size=0"], "size"),
        (["size=2"], "size=2"),
        (["coarse=[1]"], "size=1"),
        (["style=line.png"], "line.png"),
        (["style_stages=[]"], "beta=0"),
    ],
)
def test_what_cannot_be_painted_is_refused(
    words: list[str], told: str, pictures: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("text.png").write_text("no picture")
    os.mkfifo("pipe.png")
    Image.new("RGB", (1, 500)).save("line.png")
    before = {path.name for path in pictures.iterdir()}
    given = {word.partition("=")[0] for word in words}
    usual = ["content=photo.png", "style=painting.png", *NETWORK, *FEW]
    assert main(["style", *(word for word in usual if word.partition("=")[0] not in given), *words]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert told in line
    assert {path.name for path in pictures.iterdir()} - {"runs"} == before


def test_what_memory_does_not_hold_is_refused(
    pictures: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "available", lambda: 10_000)
    monkeypatch.setattr(study, "read_picture", lambda *args: pytest.fail("pixels were read"))
    assert main(["style", "content=photo.png", "style=painting.png", *NETWORK, "size=64"]) == 2
    assert "size=64" in capfd.readouterr().err


def test_runs_and_grey_images_have_features_too(cnntrain: Call, pictures: Path) -> None:
    cnntrain("fit", "dataset.train_size=64", "trainer.epochs=1", "trainer.tensorboard=false", "output_dir=run")
    found = cnntrain("style", "content=photo.png", "style=painting.png", "run=run", "size=28", "steps=2", "alpha=0")
    assert {row["layer"] for row in found["layers"]} == {"conv1", "conv2"}
    with Image.open(found["output"]) as picture:
        assert picture.mode == "L" and Path(found["output"]).parts[:3] == ("runs", "style", "photo_painting")
    assert json.dumps(found)
