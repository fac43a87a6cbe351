"""Bad input: one line that names what was wrong and the nearest right thing, before anything is created."""

import contextlib
import math
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import pytest
from omegaconf import DictConfig
from torch import nn

from cnntrain.cli.main import main
from cnntrain.config.compose import plain_config
from cnntrain.config.read import read_config
from cnntrain.config.schema import Fit
from cnntrain.config.typed import as_typed
from cnntrain.config.validate import validated, validated_options
from cnntrain.models import MODELS
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.jsonfile import flat
from cnntrain.runtime.ranges import Count, Fraction, Positive

Refused = Callable[..., str]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("trainer.epoch=3", "trainer.epochs"),
        ("trainer.batchsize=3", "trainer.batch_size"),
        ("trainer.batch_sise=8", "trainer.batch_size"),
        ("trainer.precison=fp32", "trainer.precision"),
        ("trainer.lable_smoothing=0.1", "trainer.label_smoothing"),
        ("trainer.patient=3", "trainer.patience"),
        ("optimizer.lrr=0.1", "optimizer.lr"),
        ("optimizer.momentun=0.1", "optimizer.momentum"),
        ("optimizer.nestrov=true", "optimizer.nesterov"),
        ("optimizer.weightdecay=0", "optimizer.weight_decay"),
        ("lr=0.1", "optimizer.lr"),
        ("epochs=3", "trainer.epochs"),
        ("batch_size=3", "trainer.batch_size"),
        ("modle=resnet20", "model"),
        ("datset=mnist", "dataset"),
        ("sede=3", "seed"),
        ("devise=cpu", "device"),
        ("output=here", "output_dir"),
        ("dataset.val_sise=0.1", "dataset.val_size"),
        ("dataset.trainsize=100", "dataset.train_size"),
        ("dataset.class=[a]", "dataset.classes"),
        ("model.activaton=relu", "model.activation"),
        ("model.removed=[conv1]", "model.remove"),
        ("schedule.warm_up=1", "schedule.warmup"),
        ("augmentation.afine={}", "augmentation.affine"),
        ("+augmentation.crop.pading=2", "augmentation.crop.padding"),
        ("+trainer.epoch=3", "trainer.epochs"),
    ],
)
def test_f28_a_misspelt_key_is_named_with_the_one_that_was_meant(refused: Refused, word: str, meant: str) -> None:
    line = refused("fit", word)
    assert f"'{meant}'" in line and word.split("=")[0].removeprefix("+") in line


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("model=resnet21", ["'resnet21'", "'resnet20'"]),
        ("dataset=minst", ["'minst'", "'mnist'"]),
        ("optimizer=sdg", ["'sgd'"]),
        ("augmentation=cropflip", ["'crop_flip'"]),
        ("schedule=cosin", ["'cosine'"]),
        ("model.activation=rellu", ["model.activation=relu"]),
        ("model.pool=maks", ["max, avg, none"]),
        ("model.pool=off", ["model.pool"]),
        ("trainer.precision=fp23", ["trainer.precision=fp32"]),
        ("trainer.epochs=0", ["trainer.epochs=0", "at least 1"]),
        ("trainer.epochs=2.5", ["trainer.epochs=2.5", "whole number"]),
        ("trainer.epochs=many", ["trainer.epochs=many", "whole number"]),
        ("trainer.label_smoothing=1.5", ["at least 0 and at most 1"]),
        ("trainer.freeze=0.5", ["trainer.freeze", "'0.5'"]),
        ("trainer.freeze=conv", ["trainer.freeze", "'conv'", "conv1, pool1"]),
        ("trainer.freeze=[conv1,poll2]", ["'poll2'", "'pool2'"]),
        ("trainer.freeze={conv1: 2}", ["trainer.freeze.conv1=2", "at most 1"]),
        ("trainer.freeze={conv7: 0.5}", ["'conv7'", "conv1"]),
        ("trainer.resize=6", ["trainer.resize=6", "{a whole number: a number, …}"]),
        ("trainer.resize={six: 0.5}", ["trainer.resize=six", "a whole number"]),
        ("trainer.resize={6.5: 0.5}", ["trainer.resize=6.5", "a whole number"]),
        ("trainer.resize={0: 0.5}", ["trainer.resize=0", "at least 1"]),
        ("trainer.resize={20: 2}", ["trainer.resize.20=2", "at most 1"]),
        ("trainer.resize={28: 0.5}", ["trainer.resize", "28"]),
        ("trainer.resize={20: 0.5}", ["the network does not take images of 20 pixels", "global pooling"]),
        ("trainer.ema=1", ["trainer.ema=1", "at least 0 and below 1"]),
        ("optimizer.momentum=1", ["optimizer.momentum=1", "below 1"]),
        ("schedule.warmup=61", ["schedule.warmup=61", "trainer.epochs=60"]),
        ("model.remove=[conv2,conv2]", ["model.remove", "conv2"]),
        ("optimizer.lr=-1", ["optimizer.lr=-1", "above 0"]),
        ("optimizer.lr=fast", ["optimizer.lr=fast", "a number"]),
        ("optimizer.nesterov=3", ["true or false"]),
        ("model.remove=[conv7]", ["'conv7'", "conv1, pool1, conv2"]),
        ("model.remove=[fc5]", ["'fc5'"]),
        ("dataset.classes=[1,11]", ["'11'"]),
        ("dataset.train_size=0", ["dataset.train_size"]),
        ("dataset.train_size=1.5", ["dataset.train_size"]),
        ("dataset.val_size=-1", ["dataset.val_size"]),
        ("trainer.batch_size=5000", ["trainer.batch_size=5000", "1,257"]),
        ("device=gpu", ["device=gpu", "auto, cpu"]),
        ("dataset=folder", ["dataset.root"]),
        ("init_from=nowhere", ["nowhere"]),
        ("plugins=[no_such_module]", ["no_such_module"]),
        ("augmentation.crop.padding=40", ["40"]),
        ("seed=-1", ["seed=-1"]),
        ("schedule.milestones=[0.5]", ["schedule=onecycle", "schedule=step"]),
        ("model.hidden=30", ["model=lenet5", "model=mlp"]),
    ],
)
def test_f28_a_bad_value_is_refused_saying_what_it_may_be(refused: Refused, word: str, parts: list[str]) -> None:
    line = refused("fit", word)
    for part in parts:
        assert part in line, line


def test_f28_an_unknown_key_in_a_yaml_file_is_found_as_well(
    refused: Refused, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnntrain.cli import main as cli

    copy = folder / "conf"
    shutil.copytree(cli.config_dir(), copy)
    with (copy / "trainer" / "default.yaml").open("a") as sink:
        sink.write("epoch: 3\n")
    monkeypatch.setattr("cnntrain.cli.main.config_dir", lambda: copy)
    line = refused("fit")
    assert "'trainer.epoch'" in line and "'trainer.epochs'" in line


def test_a_missing_run_is_asked_for(refused: Refused) -> None:
    assert all(word in refused("eval") for word in ("run=<value>", "run=latest"))
    assert all(word in refused("predict") for word in ("run=<value>", "run=latest"))
    assert all(word in refused("predict", "run=x") for word in ("images=<value>", "sentences=<file>"))
    assert "'images'" in refused("predict", "run=x", "image=x")
    assert "nowhere" in refused("eval", "run=nowhere")
    assert "cnntrain fit" in refused("eval", "run=latest")


def sample(
    whole: Count = 1, share: Fraction = 0.5, *, kind: Literal["a", "b"] = "a", sizes: list[Positive] | None = None
) -> None:
    """A function with options."""


def test_values_are_held_against_annotations() -> None:
    assert validated_options("x", sample, {"whole": 3, "share": 1, "kind": "b", "sizes": [1, 2.5]}) == {
        "whole": 3,
        "share": 1.0,
        "kind": "b",
        "sizes": [1.0, 2.5],
    }
    assert validated_options("x", sample, {"sizes": None}) == {"sizes": None}
    for given, text in [
        ({"whole": True}, "x.whole=True"),
        ({"share": 2}, "x.share=2 .*at least 0 and at most 1"),
        ({"kind": "c"}, "x.kind=c"),
        ({"sizes": [1, 0]}, r"x.sizes\[1\]=0 .*above 0"),
        ({"sizes": 3}, "x.sizes=3"),
        ({"other": 1}, "'x.other'.*whole, share, kind, sizes"),
    ]:
        with pytest.raises(InputError, match=text):
            validated_options("x", sample, given)


def test_annotated_without_bounds_passes() -> None:
    assert validated(3, Annotated[int, "pixels"], "x") == 3


def test_null_takes_away_an_entry_of_a_mapping_or_all() -> None:
    """Hydra merges mappings, so that an experiment's entries stay when others are typed; typed names are text."""
    shares = dict[Count, Fraction]
    assert validated({24: 0.5, "24": 0.3, "16": 0.1}, shares, "x") == {24: 0.3, 16: 0.1}
    assert validated({24: 0.5, "24": None, 16: 0.1}, shares, "x") == {16: 0.1}
    assert validated(None, shares, "x") == {}
    assert validated({"flip": None}, dict[str, Any], "x") == {"flip": None}  # options may be null
    with pytest.raises(InputError, match=r"x\.24=2 "):
        validated({24: 2}, shares, "x")


def test_a_plugin_adds_a_model_and_is_never_imported_from_a_record(
    cnntrain: Callable[..., dict[str, object]], folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "my_parts.py").write_text(
        "from cnntrain.models import MODELS\n"
        "from cnntrain.models.perceptron import softmax\n"
        "def mine(in_shape, num_classes, build):\n    return softmax(in_shape, num_classes, build)\n"
        "MODELS['mine'] = mine\n"
    )
    from cnntrain.cli.main import main
    from cnntrain.models import MODELS

    try:
        words = [*tiny, "model=softmax", "model.name=mine", "output_dir=run"]
        assert cnntrain("fit", *words, "plugins=[my_parts]")["epochs"] == 2
        del MODELS["mine"]
        shutil.copytree("run", "a")
        for command in (
            ["eval", "run=run"],
            ["describe", "run=run"],
            ["export", "run=run"],
            ["compare", "runs=[run,a]"],
        ):
            assert main(command) == 2
            line = "this run was trained with 'plugins=[my_parts]'; add 'plugins=[my_parts]' (unknown model 'mine'"
            assert line in capfd.readouterr().err
    finally:
        MODELS.pop("mine", None)


@pytest.mark.parametrize(
    ("typed", "hint", "value", "text"),
    [
        ("2024", str, 2024, "2024"),
        ("007", str | None, 7, "007"),
        ("1e5", str | None, 1e5, "1e5"),
        ("TRUE", str, True, "TRUE"),
        ("-inf", str, -math.inf, "-inf"),
        ("null", str | None, None, None),
        ("[[]]", str, [[]], "[[]]"),
        ("{a:1}", str, {"a": 1}, "{a:1}"),
        (None, str, 2024, "2024"),  # from a file
        (None, str, 1.5, 1.5),
        (None, str, True, True),
        ("7", list[str], 7, ["7"]),
        ("word", list[str], "word", ["word"]),
        ("[01, 1e5,'a,b',true]", list[str], [1, 1e5, "a,b", True], ["01", "1e5", "a,b", "true"]),
        ("2024", list[str] | str, 2024, "2024"),
        ("[7,a]", list[str] | str, [7, "a"], ["7", "a"]),
        ("[1,2,yes,NO,1_0,true]", list[str | int] | Count | None, [1, 2, "yes", "NO", 10, True], None),
        ("100", list[str | int] | Count | None, 100, 100),
        ("3", Count, 3, 3),
        ("true", Literal["auto"] | bool, True, True),
        ("0.5", int | float | None, 0.5, 0.5),
    ],
)
def test_keys_of_text_hold_what_was_typed(typed: str | None, hint: Any, value: object, text: object) -> None:
    found = as_typed(value, typed, hint)
    expected = [1, 2, "yes", "NO", "1_0", "true"] if isinstance(value, list) and text is None else text
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["output_dir=true"], "output_dir", "true"),
        (["dataset.root=2024"], "dataset.root", "2024"),
        (["dataset.root=1e5"], "dataset.root", "1e5"),
        (["++dataset.root=~no_such_user"], "dataset.root", "~no_such_user"),
        (["model=torchvision", "model.weights=1e5"], "model.weights", "1e5"),
        (["dataset.classes=[1,2,yes,NO]"], "dataset.classes", [1, 2, "yes", "NO"]),
        (["dataset.classes=[1_0,true]"], "dataset.classes", ["1_0", "true"]),
        (["model.remove=pool1"], "model.remove", ["pool1"]),
        (["seed=7", "output_dir=${seed}"], "output_dir", "7"),
        (["output_dir=null"], "output_dir", None),
        (["model.name=7"], "model.name", "7"),
        (["optimizer.lr=1e-3"], "optimizer.lr", 1e-3),
    ],
)
def test_text_is_kept_in_the_configuration_that_a_run_records(
    monkeypatch: pytest.MonkeyPatch, folder: Path, words: list[str], key: str, value: object
) -> None:
    seen: list[dict[str, Any]] = []
    module = ModuleType("cnntrain.commands.fit")

    def run(composed: DictConfig) -> dict[str, Any]:
        with contextlib.suppress(InputError):  # an unknown model
            read_config(Fit, composed)
        seen.append(plain_config(composed))
        return {}

    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert main(["fit", *words]) == 0
    assert flat(seen[0])[key] == value


def test_a_folder_may_be_called_anything(cnntrain: Callable[..., dict[str, Any]], tiny: tuple[str, ...]) -> None:
    for name in ("2024", "true", "~nobody_at_all"):
        found = cnntrain("fit", *tiny, "trainer.epochs=1", f"output_dir={name}")
        assert found["run_dir"] == name and Path(name, "config.json").is_file()
        assert cnntrain("eval", f"run={name}")["run_dir"] == name
    made = cnntrain("ablate", *tiny, "trainer.epochs=1", "remove=pool1", "seeds=1", "jobs=1", "output_dir=7")
    assert made["study_dir"] == "7"


def test_a_sweep_is_checked_with_what_was_typed(refused: Refused) -> None:
    assert "folder 7" in refused("fit", "-m", "dataset=folder", "dataset.root=7,8", "seed=0")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("fit remove=conv1", "'model.remove'"),
        ("fit eval", "cnntrain eval"),
        ("train", "'fit'"),
        ("evaluate run=latest", "'eval'"),
        ("infer", "'predict'"),
        ("fit model.activation=swish", "relu, gelu, tanh"),
        ("ablate control=flops", "none, params, macs"),
        ("ablate mode=delete", "retrain, finetune, lesion"),
        ("eval run=latest split=x", "train, val, test"),
        ("fit trainer.precision=float32", "'trainer.precision=fp32'"),
        ("fit --epochs 5", "trainer.epochs=5"),
        ("fit --lr=0.1", "optimizer.lr=0.1"),
        ("fit --batch-size", "'trainer.batch_size=<value>'"),
        ("fit --p 1", "--help"),
        ("fit bs=32", "'trainer.batch_size'"),
        ("fit learning_rate=32", "'optimizer.lr'"),
        ("fit gpus=1", "'device'"),
        ("fit optimizer.epochs=3", "'trainer.epochs'"),
        ("fit modle.width=3", "'model'"),
        ("fit frobnicate=3", "augmentation, check_resume"),
        ("fit resume=nope", "resume=nope"),
        ("fit init_from=nope", "init_from=nope"),
        ("compare runs=[nope,nowhere]", "runs=nope"),
        ("eval run=a/checkpoints/best.pt", "folder, run=a"),
        ("predict run=a image=x", "'images'"),
        ("compare a b", "'runs=[a,b]'"),
        ("eval a", "run=a"),
        ("fit +model=mlp", " model=mlp"),
        ("fit digits", "dataset=digits"),
        ("fit epochs", "trainer.epochs=<value>"),
        ("fit --info --cfg job", "--cfg and --info"),
        ("fit --resolve", "--cfg job --resolve"),
        ("fit --cfg job --package nothere", "--package=nothere"),
        ("fit model.remove={conv1:1}", "'model.remove={conv1:1}'"),
        ("fit augmentation.flip=3", "augmentation.flip=3"),
        ("fit dataset=[digits,1_000]", "'1_000'"),
        ("fit ~model", "model=<name>"),
        ("fit help", "cnntrain fit --help"),
        ("fit experiment=cifar10_fast trainer.freeze=[whiten]", "'~trainer.freeze' 'trainer.freeze=[whiten]'"),
    ],
)
def test_a_hint_leads_to_what_was_meant(refused: Refused, folder: Path, typed: str, message: str) -> None:
    for name in ("a", "b"):
        (folder / name / "checkpoints").mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
        (folder / name / "checkpoints" / "best.pt").touch()
    assert message in refused(*typed.split())


def test_a_key_that_is_given_twice_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in ((["seed=1", "seed=2"], 1), (["seed=1", "seed=1"], 0)):
        assert main(["fit", *words, "--cfg", "job"]) == 0
        assert capsys.readouterr().err.count("seed is given twice; the last counts: seed=2") == said


def test_a_model_without_stages_is_refused_saying_what_to_return(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Net(nn.Module):
        pass

    monkeypatch.setitem(MODELS, "plain", lambda in_shape, num_classes, build: Net())
    for command in ("fit", "describe"):
        assert "model=plain" in refused(command, "model=softmax", "model.name=plain")


@pytest.mark.parametrize(
    ("word", "extra"),
    [
        ("hydra/launcher=joblib", "sweep"),
        ("hydra/launcher=submitit_slurm", "slurm"),
        ("hydra/launcher=ray", "ray"),
        ("hydra/sweeper=optuna", "optuna"),
    ],
)
def test_a_launcher_or_sweeper_that_is_not_installed_names_its_extra(refused: Refused, word: str, extra: str) -> None:
    if find_spec("hydra_plugins"):
        pytest.skip("some are installed")
    line = refused("fit", "-m", "seed=0,1", word)
    assert word in line and f"pip install 'cnntrain[{extra}]'" in line
