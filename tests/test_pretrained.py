"""Pretrained weights of torchvision and timm: what of them is kept, and the images that they expect."""

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import pytest
import torch
import torchvision.models
from cuts import agree, cut
from made import create_model
from PIL import Image
from torch import nn
from torchvision.models._api import BUILTIN_MODELS, Weights, WeightsEnum
from torchvision.transforms._presets import ImageClassification

from cnntrain.cli.main import main
from cnntrain.config import pretrained, schema
from cnntrain.data.datasets.registry import DATASETS
from cnntrain.data.storage.images import DatasetInfo
from cnntrain.models import PRETRAINED
from cnntrain.models.external import Preprocessing, fill, remarks
from cnntrain.runtime.errors import InputError

Call = Callable[..., dict[str, Any]]
SHAPE = (3, 20, 20)
WORDS = (
    *("model=torchvision", "model.arch=tinynet", "dataset=synthetic", "dataset.channels=3", "dataset.train_images=40"),
    *("dataset.test_images=20", "augmentation=none", "trainer.epochs=1", "trainer.batch_size=16", "device=cpu"),
    "trainer.tensorboard=false",
)


class TinyNet(nn.Module):
    """A chain of five parts; `skip` makes it none."""

    def __init__(self, num_classes: int, skip: bool = False) -> None:
        super().__init__()
        self.conv, self.relu, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        self.fc, self.skip = nn.Linear(4, num_classes), skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.conv(x))
        return self.fc(torch.flatten(self.pool(y + y if self.skip else y), 1))


@pytest.fixture
def source(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of torchvision with pretrained weights for seven classes, which its own code fetches from a file."""
    where = tmp_path_factory.mktemp("pretrained")
    torch.manual_seed(0)
    torch.save(TinyNet(7).state_dict(), where / "new.pth")
    digest = hashlib.sha256((where / "new.pth").read_bytes()).hexdigest()[:8]
    path = (where / "new.pth").rename(where / f"tinynet-{digest}.pth")
    images = partial(ImageClassification, crop_size=20, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))

    class TinyWeights(WeightsEnum):
        V1 = Weights(url=path.as_uri(), transforms=images, meta={})
        DEFAULT = V1

    for name, skip in (("tinynet", False), ("skipnet", True)):

        def build(*, weights: Optional[TinyWeights] = None, num_classes: int = 7, skip: bool = skip) -> TinyNet:  # noqa: UP045
            return TinyNet(num_classes, skip)

        build.__module__ = "torchvision.models.tiny"
        monkeypatch.setitem(BUILTIN_MODELS, name, build)
    monkeypatch.setenv("TORCH_HOME", str(where / "hub"))
    return path


def test_a_pretrained_network_is_trained_and_used_on_the_images_it_expects(
    cnntrain: Call, folder: Path, source: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*WORDS, "model.weights=default", "output_dir=run"]
    assert main(["fit", *words]) == 0
    said = capfd.readouterr().err
    assert re.search(r"torchvision's tinynet\W.*all but fc\.weight, fc\.bias", said)
    assert "20×20" in said
    assert "mean 0.100, 0.200, 0.300 and deviation 0.400, 0.500, 0.600" in said
    data = json.loads((folder / "run" / "run.json").read_text())["data"]
    assert (data["shape"], data["mean"], data["std"]) == ([3, 20, 20], [0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    assert cnntrain("fit", *words)["steps"] == 1  # the same run: there is nothing left to do

    cut(*words[:-1], "output_dir=cut")
    source.unlink()
    shutil.rmtree(source.parent / "hub")  # a run has weights of its own
    assert cnntrain("fit", *words[:-1], "output_dir=cut")["resumed_from"] == 1
    agree(folder / "run", folder / "cut")
    assert cnntrain("eval", "run=run")["n"] == 20
    Image.new("RGB", (20, 20)).save("image.png")
    assert cnntrain("predict", "run=run", "images=image.png")["n"] == 1
    exported = cnntrain("export", "run=run", "format=safetensors")
    assert exported["max_difference"] == 0 and json.loads(facts(exported["output"])["mean"]) == [0.1, 0.2, 0.3]
    assert cnntrain("describe", "run=run")["in_shape"] == [3, 20, 20]


def facts(path: str) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def test_weights_come_from_the_network_once_and_then_from_the_disk(source: Path) -> None:
    saved = torch.load(source)
    net = create_model("torchvision", SHAPE, 4, arch="tinynet", weights="default")
    assert torch.equal(net.state_dict()["conv.weight"], saved["conv.weight"])
    assert net.state_dict()["fc.weight"].shape == (4, 4)
    source.unlink()
    net = create_model("torchvision", SHAPE, 7, arch="tinynet", weights="default")
    assert all(torch.equal(value, saved[key]) for key, value in net.state_dict().items())
    assert str(net.pretrained).endswith("torchvision's tinynet: all")


@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_a_download_that_fails_is_one_line_before_anything_is_made(
    folder: Path, source: Path, harm: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if harm == "gone":
        source.unlink()
    else:
        source.write_bytes(source.read_bytes()[:-9])
    assert main(["fit", *WORDS, "model.weights=default"]) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line and not line.startswith("Downloading")]
    assert len(lines) == 1 and "model.weights=default (" in lines[0]
    assert re.search(
        f"{source.as_uri()} .*{source.parent}/hub/hub/checkpoints\\W.*model.weights=.*cnntrain\\[pretrained\\]",
        lines[0],
    )
    assert not list(folder.iterdir())


def test_a_size_that_was_typed_or_cannot_be_changed_stays(
    cnntrain: Call, source: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = [*WORDS[:4], "model.weights=default"]
    assert cnntrain("describe", *model)["in_shape"] == [3, 20, 20]
    assert main(["describe", *model, "dataset.image_size=28"]) == 0
    captured = capfd.readouterr()
    assert "for 3×28×28 images" in captured.out
    assert re.search("28×28.* 20×20", captured.err)
    assert cnntrain("describe", *WORDS[:4])["in_shape"] == [3, 28, 28]  # drawn weights expect nothing

    monkeypatch.setitem(DATASETS, "fixed", lambda root: None)  # type: ignore[arg-type, return-value]
    options = {"name": "torchvision", "arch": "tinynet", "weights": "default", "remove": []}
    cfg = schema.Describe("cpu", [], None, None, options, {"name": "fixed"}, "", "text")
    assert pretrained.with_expected_size(cfg).dataset == {"name": "fixed"}
    info = pretrained.with_expected_statistics(
        DatasetInfo("fixed", ("a", "b"), (3, 9, 9), (0.0,) * 3, (1.0,) * 3), options
    )
    assert info.mean == (0.1, 0.2, 0.3)


def test_a_model_of_one_stage_says_why_and_refuses_removal(
    refused: Callable[..., str], source: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [word.replace("tinynet", "skipnet") for word in WORDS]
    for command in (["fit", *words], ["describe", *words[:4]]):
        assert main(command) == 0
        assert re.search("one stage.*add reads relu, relu", capfd.readouterr().err)
    line = refused("fit", *words, "model.remove=[relu]")
    assert re.search("skipnet .*one stage.*add reads", line)


def test_weights_from_a_file_fit_but_for_the_head(tmp_path: Path) -> None:
    original = torchvision.models.squeezenet1_0(num_classes=9)
    state = original.state_dict()
    torch.save(state, tmp_path / "nine.pt")
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "wrapped.pt")
    for name in ("nine.pt", "wrapped.pt"):
        net = create_model("torchvision", (3, 40, 40), 4, arch="squeezenet1_0", weights=str(tmp_path / name))
        found = list(net.state_dict().values())
        assert all(torch.equal(a, b) for a, b in zip(found[:-2], list(state.values())[:-2], strict=True))
        assert found[-1].shape == (4,)
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "text.pt").write_text("no weights")
    for name in ("list.pt", "text.pt"):
        with pytest.raises(InputError, match=name):
            create_model("torchvision", (3, 40, 40), 4, arch="squeezenet1_0", weights=str(tmp_path / name))
    with pytest.raises(InputError, match=r"gone.pt does not exist.*model.weights=package.*cnntrain\[pretrained\]"):
        create_model("torchvision", (3, 40, 40), 4, arch="squeezenet1_0", weights=str(tmp_path / "gone.pt"))
    with pytest.raises(InputError, match=r"squeezenet1_0\W.* 47 more"):
        fill(original, "squeezenet1_0", {})


def test_stages_that_are_widened_are_new_among_loaded_ones(tmp_path: Path) -> None:
    state = torchvision.models.mobilenet_v2(num_classes=9).state_dict()
    torch.save(state, tmp_path / "nine.pt")
    options: dict[str, Any] = {"arch": "mobilenet_v2", "weights": str(tmp_path / "nine.pt")}
    net = create_model("torchvision", (3, 40, 40), 4, widen={"features_18_0": 0.5}, **options)
    assert str(net.pretrained).endswith("all but features_18_0, features_18_1, classifier_1, which are new")
    assert torch.equal(net.state_dict()["features_0_0.weight"], state["features.0.0.weight"])


def test_torchvisions_models_say_what_images_they_expect() -> None:
    wants = PRETRAINED["torchvision"](arch="resnet18", weights="default")
    assert wants == Preprocessing(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert wants.for_channels(1).mean == (pytest.approx(0.449),)
    assert PRETRAINED["torchvision"](arch="resnet18") is None
    with pytest.raises(InputError, match="'resnet18'"):
        PRETRAINED["torchvision"](arch="resnet19", weights="default")


def test_googlenets_own_change_of_the_normalisation_is_in_what_it_expects(tmp_path: Path) -> None:
    original = torchvision.models.googlenet(num_classes=5, aux_logits=False, init_weights=False, transform_input=True)
    torch.save(original.state_dict(), tmp_path / "five.pt")
    options = {"arch": "googlenet", "weights": str(tmp_path / "five.pt")}
    net = create_model("torchvision", (3, 40, 40), 5, **options)
    pixels = torch.rand(2, 3, 40, 40)

    def normalised(mean: Any, std: Any) -> torch.Tensor:
        return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    wants = PRETRAINED["torchvision"](**options)
    assert wants is not None
    theirs = original.eval()(normalised((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(net.eval()(normalised(wants.mean, wants.std)), theirs)


def test_timms_weights_come_by_its_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"num_classes": 7, "classifier": "fc", "input_size": (3, 24, 24), "mean": (0.1,) * 3, "std": (0.2,) * 3}
    known |= {"hf_hub_id": "timm/tinynet.a1", "hf_hub_filename": None}

    def timms_own(arch: str, *, num_classes: int, in_chans: int, pretrained: bool = False) -> nn.Module:
        if pretrained and arch == "tinynet.none":
            raise RuntimeError("no weights there")
        net = TinyNet(num_classes)
        net.pretrained_cfg = known  # type: ignore[assignment]
        nn.init.constant_(net.conv.weight, float(pretrained))
        nn.init.normal_(net.fc.weight, std=9.0)  # as wide as some are drawn
        return net

    def configuration(arch: str) -> SimpleNamespace:
        if arch == "tinynet.odd":
            raise RuntimeError("Invalid pretrained tag (odd) for tinynet.")
        return SimpleNamespace(**known)

    fake = SimpleNamespace(list_models=lambda: ["tinynet"], create_model=timms_own, get_pretrained_cfg=configuration)
    monkeypatch.setitem(sys.modules, "timm", fake)
    for classes, new in ((4, r"all but fc\.weight, fc\.bias\b.*"), (7, "all")):
        net = create_model("timm", SHAPE, classes, arch="tinynet", weights="default")
        assert (net.get_submodule("conv").weight == 1).all() and len(net) == 5
        assert re.fullmatch(f".*timm's tinynet: {new}", str(net.pretrained))
        widest = net.get_submodule("fc").weight.abs().max().item()
        assert widest <= 4**-0.5 if classes == 4 else widest > 5  # torch's bound for a layer of four inputs
        again = (create_model("timm", SHAPE, classes, arch="tinynet", weights="default", seed=seed) for seed in (0, 1))
        heads = [model.get_submodule("fc").weight for model in (net, *again)]
        assert torch.equal(heads[0], heads[1]) and (classes == 7 or not torch.equal(heads[0], heads[2]))
    assert not create_model("timm", SHAPE, 4, arch="tinynet").get_submodule("conv").weight.any()
    wants = PRETRAINED["timm"](arch="tinynet", weights="default")
    assert wants == Preprocessing(24, (0.1,) * 3, (0.2,) * 3) and PRETRAINED["timm"](arch="tinynet") is None
    assert " 24×24" in list(remarks(net, wants, SHAPE))[-1]
    supply = r"\(no weights there\).* https://huggingface\.co/timm/tinynet\.a1/resolve/main/model\.safetensors "
    with pytest.raises(InputError, match=supply):
        create_model("timm", SHAPE, 4, arch="tinynet.none", weights="default")
    with pytest.raises(InputError, match="Invalid pretrained tag"):
        PRETRAINED["timm"](arch="tinynet.odd", weights="default")
    with pytest.raises(InputError, match=r"model\.arch"):
        create_model("timm", SHAPE, 4, arch="mininet")


def test_a_study_of_a_pretrained_network_sees_the_images_it_expects(cnntrain: Call, folder: Path, source: Path) -> None:
    words = [*WORDS, "model.weights=default", "remove=[relu]", "seeds=1", "jobs=1", "output_dir=study"]
    assert cnntrain("ablate", *words)["complete"]
    records = list(folder.glob("study/cells/*/*/run.json"))
    data = [json.loads(path.read_text())["data"] for path in records]
    assert [(one["shape"], one["mean"]) for one in data] == [([3, 20, 20], [0.1, 0.2, 0.3])] * 2
