"""Names of earlier versions: a plugin that imports them works, and hears where they are now."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

from cnntrain.config import moved
from cnntrain.config.build import build_model
from cnntrain.config.plugins import import_plugins
from cnntrain.config.validate import option_hints, signature
from cnntrain.data.storage.images import DatasetInfo
from cnntrain.models import MODELS
from cnntrain.models.perceptron import softmax

PLUGIN = """
from cnntrain.models import HEADS
from cnntrain.models.blocks import chain, conv
from cnntrain.data.datasets import DATASETS, Split
from cnntrain.data.sources import Card
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("old_names.py").write_text(PLUGIN)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.delitem(sys.modules, "old_names", raising=False)
    return "old_names"


def test_a_plugin_with_old_names_gets_the_new_things(plugin: str, capsys: pytest.CaptureFixture[str]) -> None:
    import_plugins([plugin])
    module, said = sys.modules[plugin], capsys.readouterr().err
    for name, place in {
        "HEADS": "models.AUXILIARY",
        "chain": "nn.composite.chain",
        "conv": "nn.blocks.conv",
        "DATASETS": "data.datasets.registry.DATASETS",
        "Card": "data.storage.images.DatasetInfo",
    }.items():
        home, _, attribute = place.rpartition(".")
        assert getattr(module, name) is getattr(importlib.import_module(f"cnntrain.{home}"), attribute)
        assert re.search(rf"\.{name} .*cnntrain\.{place}\W.*version 0\.2\n", said)


def test_a_dataset_of_two_functions_is_read_as_before(plugin: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(f"{plugin}.py").write_text(
        """
from cnntrain.data.datasets import DATASETS, DatasetEntry

def info(root, *, image_size: int = 12):
    return DATASETS["synthetic"](root, image_size=image_size).info()

def read(root, *, image_size: int = 12):
    return DATASETS["synthetic"](root, image_size=image_size).read()

ENTRY = DatasetEntry(info, read)
"""
    )
    import_plugins([plugin])
    assert "info and read" in capsys.readouterr().err
    entry = sys.modules[plugin].ENTRY
    assert option_hints(entry) == {"image_size": int} and signature(entry)["image_size"].default == 12
    reader = entry(Path(), image_size=14)
    assert reader.info().shape == (1, 14, 14) == reader.read().info.shape


def test_every_old_name_leads_somewhere() -> None:
    for old, new in moved.MODULES.items():
        importlib.import_module(f"cnntrain.{new}")
        assert old not in moved.NAMES or moved.NAMES[old]
    for names in moved.NAMES.values():
        for place in names.values():
            module, _, name = place.rpartition(".")
            assert hasattr(importlib.import_module(f"cnntrain.{module}"), name), place


def test_a_name_that_never_was_is_an_error(plugin: str) -> None:
    moved.install()
    with pytest.raises(ImportError, match="nothing_such"):
        from cnntrain.models.blocks import nothing_such  # noqa: F401
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("cnntrain.models.nothing_such")


def test_a_model_function_that_hands_on_its_keywords_is_still_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "old", lambda in_shape, classes, **build: softmax(in_shape, classes, **build))
    info = DatasetInfo("noise", ("one", "two"), (1, 4, 4), (0.5,), (0.5,))
    old, new = (build_model({"name": name, "remove": []}, info, seed=3) for name in ("old", "softmax"))
    assert torch.equal(old.get_submodule("fc1.linear").weight, new.get_submodule("fc1.linear").weight)  # type: ignore[arg-type]


def test_a_module_that_a_plugin_brings_by_the_old_names_is_still_built(
    plugin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(f"{plugin}.py").write_text(
        """
from torch import nn
from cnntrain.models.foreign import drawn, finished

def mine(in_shape, num_classes, **build):
    net = drawn(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, num_classes)), "mine", build)
    return finished(net, "mine", in_shape, num_classes, build)
"""
    )
    import_plugins([plugin])
    monkeypatch.setitem(MODELS, "mine", sys.modules[plugin].mine)
    info = DatasetInfo("noise", ("one", "two"), (1, 4, 4), (0.5,), (0.5,))
    one, same, other = (build_model({"name": "mine"}, info, seed=seed).state_dict() for seed in (3, 3, 4))
    key = next(key for key in one if key.endswith("weight"))
    assert torch.equal(one[key], same[key]) and not torch.equal(one[key], other[key])
