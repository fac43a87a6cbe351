"""The public Python interface: it does what the commands do, without a command line."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import cnntrain as ct
from cnntrain.runtime.errors import InputError

TINY = {
    "dataset": "synthetic",
    "dataset.train_images": 96,
    "dataset.test_images": 48,
    "augmentation": "none",
    "trainer.epochs": 2,
    "trainer.batch_size": 16,
    "device": "cpu",
    "trainer.tensorboard": False,
}


@pytest.fixture
def run(folder: Path) -> ct.Run:
    return ct.load_run(ct.train({**TINY, "output_dir": "run"})["run_dir"])


def test_importing_cnntrain_imports_nothing_heavy() -> None:
    code = "import sys, cnntrain; print([m for m in ('torch', 'hydra', 'numpy', 'cnntrain.api') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there_and_documented() -> None:
    assert set(ct.__all__) <= set(dir(ct))
    for name in ct.__all__:
        assert getattr(ct, name).__doc__, name
    with pytest.raises(AttributeError):
        _ = ct.nothing


def test_a_network_is_built_by_name() -> None:
    net = ct.build_model("lenet5", (1, 28, 28), 10)
    assert sum(row.params for row in ct.describe(net, (1, 28, 28))) == 61_706  # LeCun et al. 1998, all maps connected
    assert [row.name for row in ct.describe(net, (1, 28, 28))] == [name for name, _ in net.named_children()]
    again, other = (ct.build_model("lenet5", (1, 28, 28), 10, seed=seed) for seed in (0, 1))
    assert torch.equal(net.conv1[0].weight, again.conv1[0].weight)
    assert not torch.equal(net.conv1[0].weight, other.conv1[0].weight)
    assert "conv2" not in dict(ct.build_model("lenet5", (1, 28, 28), 10, remove=["conv2"]).named_children())
    with pytest.raises(InputError, match="lenet5"):
        ct.build_model("lenet55", (1, 28, 28), 10)


def test_training_is_that_of_the_command(cnntrain: Callable[..., dict[str, Any]], tiny: tuple[str, ...]) -> None:
    cnntrain("fit", *tiny, "output_dir=typed")
    settings = {**TINY, "model": "lenet5", "optimizer.lr": 0.05, "output_dir": "called"}
    assert ct.train(settings)["run_dir"] == "called"
    typed, called = ct.load_run("typed"), ct.load_run("called")
    assert called.settings == typed.settings | {"output_dir": "called"}
    for key, weight in typed.net.state_dict().items():
        assert torch.equal(called.net.state_dict()[key], weight)


def test_a_run_is_measured_on_its_own_images(run: ct.Run, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    found = ct.evaluate(run.folder, {"split": "val"})
    assert capfd.readouterr().out == ""
    settings = run.settings
    val = ct.load_dataset(**settings["dataset"], seed=settings["seed"], data_root=settings["data_root"]).val
    assert val is not None
    logits = ct.features(run, val, list(dict(run.net.named_children()))[-1])
    assert found["top1"] == (logits.argmax(dim=1) == val.labels).double().mean().item()


def test_features_are_what_leaves_a_stage_of_normalised_images(run: ct.Run) -> None:
    pixels = ct.load_dataset("synthetic", test_images=20).test.source.read(range(20))
    x = (pixels.permute(0, 3, 1, 2) / 255 - run.info.mean[0]) / run.info.std[0]
    names = [name for name, _ in run.net.named_children()]
    expected = nn.Sequential(*list(run.net)[:3])(x)
    found = ct.features(run, pixels, names[2], batch_size=7)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ct.tail(run.net, names[2])(found), run.net(x), rtol=1e-4, atol=1e-4)


def test_a_dataset_has_the_defaults_of_the_command_line(folder: Path) -> None:
    digits = ct.load_dataset("digits")
    assert [len(split) for split in (digits.train, digits.val, digits.test)] == [1257, 180, 360]
    assert ct.load_dataset("digits", val_size=0).val is None
    for name, options, meant in (("digitss", {}, "'digits'"), ("digits", {"vall_size": 1}, "val_size")):
        with pytest.raises(InputError, match=meant):
            ct.load_dataset(name, **options)


def test_studies_return_their_rows(run: ct.Run) -> None:
    ct.train({**TINY, "seed": 1, "output_dir": "other"})
    compared = ct.compare([run.folder, "other"])
    assert [row["run_dir"] for row in compared["runs"]] == [str(run.folder), "other"]
    settings = {"mode": "reinit", "remove": ["conv1"], "runs": ["run", "other"], "jobs": 1}
    rows = ct.ablate(settings)["rows"]
    assert {row["seed"] for row in rows} == {0, 1}
    found = ct.invariance(run.folder, {"warp": "translate_y", "images": 20, "figures": False, "tensorboard": False})
    assert found["split"] == "test"


def test_what_is_wrong_is_raised(folder: Path) -> None:
    for settings in ({"model": "lenet55"}, {"trainer.epoch": 1}, {"trainer.epochs": "many"}, {"seed": -1}):
        with pytest.raises(InputError, match="lenet5|trainer.epochs|seed"):
            ct.train(settings)
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ct.train(None),
        lambda: ct.train("model=lenet5"),
        lambda: ct.evaluate("run", [1]),
        lambda: ct.compare(None),
        lambda: ct.compare("run"),
        lambda: ct.build_model("lenet5", 28, 10),
        lambda: ct.build_model("lenet5", (1, 28, 28), 0),
        lambda: ct.build_model("lenet5", (1, 28, 28), ["a", "b"]),
        lambda: ct.build_model("lenet5", (1, 28, 28), 10, seed="x"),
        lambda: ct.describe(ct.build_model("lenet5", (1, 28, 28), 10), (3, 28, 28)),
        lambda: ct.load_run("run", "nope"),
    ],
)
def test_wrong_arguments_are_one_line(wrong: Callable[[], object]) -> None:
    with pytest.raises(InputError) as raised:
        wrong()
    assert str(raised.value) and "\n" not in str(raised.value)
