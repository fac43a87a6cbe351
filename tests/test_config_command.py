"""`cnntrain config` and the recipes."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cnntrain.cli import completion
from cnntrain.cli.main import COMMANDS, config_dir, main

Out = Callable[..., str]


@pytest.fixture
def out(folder: Path, capfd: pytest.CaptureFixture[str]) -> Out:
    """Run a command that must succeed, and return what it prints."""

    def call(*words: str) -> str:
        capfd.readouterr()
        code = main(list(words))
        printed, err = capfd.readouterr()
        assert code == 0, err
        return printed

    return call


def test_list_names_every_group_and_option_with_its_first_comment(out: Out) -> None:
    text = out("config", "list")
    rows, group = dict[tuple[str, str], str](), ""
    for line in text.splitlines():
        if line.startswith("  "):
            option, _, comment = line.strip().partition(" ")
            rows[group, option.rstrip("*")] = comment.strip()
        else:
            group = line
    files = [path for path in config_dir().glob("*/*.yaml") if path.parent.name != "common"]
    assert set(rows) == {(path.parent.name, path.stem) for path in files}
    for path in files:
        comment = rows[path.parent.name, path.stem]
        assert comment and f"# {comment}\n" in path.read_text()
    assert "  lenet5* " in text and "  onecycle* " in text
    assert out("config", "list", "schedule") in text
    assert "optimizer" not in out("config", "list", "schedule", "model")


def test_show_gives_the_file_itself(out: Out) -> None:
    own = (config_dir() / "optimizer" / "sgd.yaml").read_text()
    assert out("config", "show", "optimizer/sgd") == out("config", "show", "optimizer=sgd") == own
    assert out("config", "show", "fit") == (config_dir() / "fit.yaml").read_text()
    assert "val_size" in out("config", "show", "common/dataset")


def test_a_copy_can_be_changed_and_then_comes_first(out: Out, refused: Callable[..., str], folder: Path) -> None:
    assert "--config-dir conf" in out("config", "copy", "optimizer/sgd")
    copy = folder / "conf" / "optimizer" / "sgd.yaml"
    assert copy.read_text() == (config_dir() / "optimizer" / "sgd.yaml").read_text()
    copy.write_text(copy.read_text().replace("0.05", "0.07"))
    assert "exists already" in refused("config", "copy", "optimizer/sgd")
    assert "0.07" in copy.read_text()
    composed = yaml.safe_load(out("fit", "--config-dir", "conf", "--cfg", "job"))
    assert composed["optimizer"]["lr"] == 0.07 and composed["model"]["name"] == "lenet5"
    assert "lr: 0.07" in out("fit", "--config-dir=conf", "--help")
    (folder / "conf" / "optimizer" / "own.yaml").write_text("# Mine.\nname: sgd\n")
    assert re.search(r"  own +Mine\.", out("config", "list", "optimizer", "--config-dir", "conf"))
    out("config", "copy", "model=mlp", "elsewhere")
    assert (folder / "elsewhere" / "model" / "mlp.yaml").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shwo"], "'show'"),
        (["list", "modle"], "'model'"),
        (["show"], "cnntrain config show"),
        (["show", "model"], "cnntrain config list model"),
        (["show", "modle/mlp"], "'model'"),
        (["show", "model/mpl"], "'mlp'"),
        (["show", "fti"], "'fit'"),
        (["copy", "fit"], "cnntrain config copy"),
        (["copy", "model/mpl"], "'mlp'"),
        (["list", "--confg-dir", "x"], "'--config-dir'"),
        (["list", "--config-dir", "nowhere"], "nowhere"),
        (["check", "trainer.epoch=3"], "'trainer.epochs'"),
        (["check", "model.remove=[conv9]"], "'conv9'"),
        (["check", "trainer.epochs=0"], "at least 1"),
        (["check", "nowhere.yaml"], "nowhere.yaml"),
        (["check", "seed=1,2", "-m"], "leave -m out"),
        (["check", "dataset=folder"], "dataset.root"),
        (["show", "resnet20"], "model/resnet20"),
        (["list", "cifar10"], "dataset/cifar10"),
        (["list", "--config-dir"], "--config-dir"),
        (["check", "."], ". is a folder"),
        (["check", "experiment=digits_lenet"], "'digits_lenet5'"),
        (["check", "experiment=null"], "'experiment=null'"),
        (["check", "seed=1,"], "'seed=1,'"),
    ],
)
def test_bad_words_are_named_with_the_nearest_right_one(
    refused: Callable[..., str], words: list[str], message: str
) -> None:
    assert message in refused("config", *words)


def test_check_takes_words_experiments_keys_and_lists_and_makes_nothing(
    out: Out, refused: Callable[..., str], folder: Path
) -> None:
    (folder / "mine" / "experiment").mkdir(parents=True)
    (folder / "mine" / "experiment" / "a.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: mlp\ntrainer: {epochs: 3}\n"
    )
    (folder / "mine" / "optimizer").mkdir()
    (folder / "mine" / "optimizer" / "fast.yaml").write_text("name: sgd\nlr: 0.9\n")
    (folder / "keys.yaml").write_text("trainer:\n  epochs: 4\noptimizer: {lr: 0.3}\n")
    (folder / "words.yaml").write_text("- model=resnet20\n- model.shortcut=B\n")
    (folder / "torn.yaml").write_text("a: [\n")
    (folder / "wrong.yaml").write_text("trainer:\n  epoch: 4\n")
    (folder / "number.yaml").write_text("3\n")
    before = sorted(folder.rglob("*"))
    assert "lenet5 (61,706 parameters) on digits (1×28×28, 10 classes)" in out("config", "check")
    assert "mlp" in out("config", "check", "mine/experiment/a.yaml")
    assert "5 epochs" in out("config", "check", "mine/experiment/a.yaml", "trainer.epochs=5")
    assert "4 epochs" in out("config", "check", "keys.yaml")
    assert json.loads(out("config", "check", "words.yaml", "--json"))["config"]["model"]["shortcut"] == "B"
    found = json.loads(out("config", "check", "mine/optimizer/fast.yaml", "--json"))
    assert found["config"]["optimizer"] == {"name": "sgd", "lr": 0.9}
    assert sorted(folder.rglob("*")) == before
    assert "torn.yaml" in refused("config", "check", "torn.yaml")
    assert "'trainer.epochs'" in refused("config", "check", "wrong.yaml")
    assert "number.yaml holds neither" in refused("config", "check", "number.yaml")


def test_usage_and_completion_know_the_words(out: Out, capfd: pytest.CaptureFixture[str]) -> None:
    assert "cnntrain config check" in out("config", "--help") == out("config", "list", "--help")
    assert main(["config"]) == 2
    assert "usage: cnntrain config" in capfd.readouterr().err

    def after(line: str) -> list[str]:
        words = shlex.split(line) + ([""] if line.endswith(" ") else [])
        return completion.candidates(words, list(COMMANDS), config_dir())

    assert after("conf") == ["config"]
    assert after("config ") == ["check", "copy", "list", "show"]
    assert after("config list sche") == ["schedule"]
    assert after("config show schedule/o") == ["schedule/onecycle"]
    assert after("config show fi") == ["fit"] and after("config copy fi") == []
    assert after("config check optimizer=ada") == ["optimizer=adadelta", "optimizer=adam", "optimizer=adamw"]
    assert after("config check optimizer.lr") == ["optimizer.lr="]
    assert after("config copy schedule/step ") == []


def test_reading_imports_neither_hydra_nor_torch() -> None:
    code = "import sys; from cnntrain.cli.main import main; main(['config', 'list']); main(['config', 'show', 'fit']);"
    code += "sys.exit(bool({'torch', 'hydra', 'omegaconf', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


RECIPES = sorted(path.stem for path in (config_dir() / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_compose_state_their_result_and_leave_the_last_word_to_the_line(name: str, out: Out) -> None:
    text = (config_dir() / "experiment" / f"{name}.yaml").read_text()
    lines, said = text.splitlines(), yaml.safe_load(text)["optimizer"]
    assert lines[0] == "# @package _global_"
    for line, word in zip(lines[2:5], ("command", "cost", "result"), strict=True):
        assert line.startswith(f"#   {word}") and len(line) > 12
    assert f"experiment={name}" in lines[2]
    if "root:" not in text and "override /dataset: folder" not in text:  # whose images are a person's own
        assert out("config", "check", f"experiment={name}")
    words = ("model=mlp", "optimizer=adam", "optimizer.lr=0.5", "trainer.epochs=7")
    composed = yaml.safe_load(out("fit", f"experiment={name}", *words, "--cfg", "job"))
    assert composed["model"]["name"] == "mlp" and composed["optimizer"] == {
        **{
            "name": "adam",
            "beta1": 0.9,
            "beta2": 0.999,
            "weight_decay": 0.0,
            "decay_all": False,
            "bias_factor": 1.0,
            "l1": 0,
            "max_norm": 0,
            "layer_decay": 1.0,
            "factors": {},
        },
        **said,
        "lr": 0.5,
    }
    assert composed["trainer"]["epochs"] == 7 and "shortcut" not in composed["model"]


def test_the_recipes_that_are_promised_exist() -> None:
    assert {"digits_lenet5", "mnist_lenet5", "cifar10_resnet20"} <= set(RECIPES)
