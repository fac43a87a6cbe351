"""Records of another shape: whatever a hand or another version made of them, a command ends in one line or works."""

import copy
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NotRequired, get_args, get_type_hints, is_typeddict

import numpy as np
import pytest
from cuts import FULL
from made import TINY
from PIL import Image

from cnntrain.cli.main import main
from cnntrain.config.build import SELECTION
from cnntrain.config.schema import Trainer
from cnntrain.runs import records
from cnntrain.runs.folder import CONFIG, METRICS, RECORD, RESULTS
from cnntrain.runtime.errors import InputError
from cnntrain.tasks.classification import EvalNumbers, TrainNumbers, ValNumbers

GONE = object()
VALUES: list[Any] = [GONE, None, True, 7, -1, 0.5, "text", "", [], [[]], ["text"], {}, {"name": {}}, {"a": [1]}]
Way = tuple[str | int, ...]  # the keys that lead to a value
EVALUATION = "eval/test_best/results.json"
FILES = {
    CONFIG: lambda run: records.settings(run),
    RECORD: lambda run: records.record(run),
    RESULTS: lambda run: records.read_record(run / RESULTS, records.ResultRecord),
    EVALUATION: lambda run: records.evaluation((run / EVALUATION).parent),
}
READING = [
    ("eval", "run=run"),
    ("report", "run=run"),
    ("export", "run=run", "format=safetensors"),
    ("describe", "run=run"),
    ("compare", "runs=[run,other]"),
    ("invariance", "run=run", "warp=translate_y", "warp.translate_y.amounts=[0,1]", "images=4", "figures=false"),
    ("ablate", "mode=reinit", "runs=[run]", "remove=[conv1]", "plan=true"),
    ("predict", "run=run", "images=image.png"),
    ("fit", *TINY, "trainer.epochs=1", "output_dir=run"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs in a folder, with evaluations and an image beside them, not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    for name in ("run", "other"):
        assert main(["fit", *TINY, "trainer.epochs=1", f"output_dir={folder / name}", f"seed={len(name)}"]) == 0
        assert main(["eval", f"run={folder / name}"]) == 0
    Image.new("L", (28, 28)).save(folder / "image.png")
    return folder


def test_an_option_that_had_another_name_keeps_its_value(trained: Path, tmp_path: Path) -> None:
    """NiN's `classifier` was its `head`, which is now another option of every model."""
    config = records.settings(trained / "run")
    model = {"name": "nin", "head": "dense", "remove": [], "widen": {}, "antialias": False}
    (tmp_path / CONFIG).write_text(json.dumps(config | {"model": model}))
    read = records.settings(tmp_path)["model"]
    assert (read["classifier"], read["head"]) == ("dense", None)
    (tmp_path / CONFIG).write_text(json.dumps(config | {"model": read | {"head": "new"}}))
    again = records.settings(tmp_path)["model"]
    assert (again["classifier"], again["head"]) == ("dense", "new")


def ways(value: Any, way: Way = ()) -> Iterator[Way]:
    """Yield the ways to all values within a value, of a list to the first and the last."""
    if way:
        yield way
    inner = value.items() if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    for key, item in inner if isinstance(value, dict) else inner[:1]:
        yield from ways(item, (*way, key))


def changed(value: Any, way: Way, new: Any) -> Any:
    """Return a copy of a value with another at the end of a way, or none."""
    found = holder = copy.deepcopy(value)
    for key in way[:-1]:
        holder = holder[key]
    if new is GONE:
        del holder[way[-1]]
    else:
        holder[way[-1]] = new
    return found


def wrongs(run: Path, name: str) -> list[tuple[Way, Any]]:
    """Return every way of a run's file with every value that is not the one there."""
    whole = json.loads((run / name).read_text())
    return [(way, new) for way in ways(whole) for new in VALUES if new is GONE or type(new) is not type(at(whole, way))]


def at(value: Any, way: Way) -> Any:
    """Return the value at the end of a way."""
    for key in way:
        value = value[key]
    return value


@pytest.mark.parametrize("name", FILES)
def test_f37_a_record_is_read_whole_or_refused_with_its_file(trained: Path, folder: Path, name: str) -> None:
    """Every key at every depth, gone or of another type."""
    path, run = folder / "run" / name, folder / "run"
    path.parent.mkdir(parents=True)
    whole, refused = json.loads((trained / "run" / name).read_text()), 0
    cases = wrongs(trained / "run", name)
    draw = np.random.default_rng(0)
    for way, new in cases if FULL else [cases[place] for place in draw.choice(len(cases), 200, replace=False)]:
        path.write_text(json.dumps(changed(whole, way, new)))
        try:
            FILES[name](run)
        except InputError as error:
            refused += 1
            assert str(error).startswith(f"{path}: "), (way, new)
            named = way[0] in str(error) or "confusion" in str(error)  # which has a row for each class
            assert "\n" not in str(error) and (named or new is None), (way, new, error)
    assert refused > 50


def strange(value: Any, shape: Any, key: str = "") -> Iterator[str]:
    """Yield the keys within a value of which its shape says nothing."""
    if is_typeddict(shape):
        hints = get_type_hints(shape)
        yield from (f"{key}.{name}" for name in value if name not in hints)
        for name in value.keys() & hints.keys():
            yield from strange(value[name], hints[name], f"{key}.{name}")
    elif isinstance(value, list) and get_args(shape):
        yield from (found for item in value for found in strange(item, get_args(shape)[0], f"{key}[]"))
    elif value is not None and any(map(is_typeddict, get_args(shape))):
        yield from strange(value, get_args(shape)[0], key)


class BestNumbers(ValNumbers):
    """Of the best epoch of a classifier."""

    epoch: NotRequired[int]


class WrittenResults(records.ResultRecord):
    """What a training of a classifier writes."""

    train: TrainNumbers  # type: ignore[misc]
    val: BestNumbers  # type: ignore[misc]
    best: BestNumbers  # type: ignore[misc]


class WrittenEvaluation(records.EvaluationRecord, EvalNumbers):
    """What an evaluation of a classifier writes."""


@pytest.mark.parametrize(
    ("name", "shape"), [(RECORD, records.RunRecord), (RESULTS, WrittenResults), (EVALUATION, WrittenEvaluation)]
)
def test_every_key_that_is_written_has_its_shape(trained: Path, name: str, shape: Any) -> None:
    assert list(strange(json.loads((trained / "run" / name).read_text()), shape)) == []


@pytest.fixture
def run(trained: Path, folder: Path) -> Path:
    """A copy of the runs in the working folder."""
    for name in ("run", "other"):
        shutil.copytree(trained / name, folder / name)
    shutil.copy(trained / "image.png", folder)
    return folder / "run"


@pytest.mark.parametrize("words", READING, ids=lambda words: words[0])
def test_f37_a_command_that_reads_a_changed_record_works_or_ends_in_one_line(
    run: Path, trained: Path, words: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    """Every command on a sample of all changes, those of a line of the metrics among them."""
    draw = np.random.default_rng(READING.index(words))
    words = (*words, "seed=3") if words[0] == "fit" else words
    for _ in range(60 if FULL else 1):
        shutil.rmtree(run)
        shutil.copytree(trained / "run", run)
        name = [*FILES, METRICS][draw.integers(len(FILES) + 1)]
        first, *rest = (run / name).read_text().splitlines() if name == METRICS else [(run / name).read_text()]
        whole = json.loads(first)
        found = list(ways(whole))
        way, new = found[draw.integers(len(found))], VALUES[draw.integers(len(VALUES))]
        (run / name).write_text("\n".join([json.dumps(changed(whole, way, new)), *rest]))
        capfd.readouterr()
        code, err = main(list(words)), capfd.readouterr().err
        shutil.rmtree("predict", ignore_errors=True)
        assert code in (0, 2, 4), (name, way, new, err)
        assert "CNNTRAIN_TRACEBACK" not in err, (name, way, new, err)


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        (CONFIG, "", "is not JSON"),
        (CONFIG, "[1]", ".*JSON object"),
        (CONFIG, '{"model": ' * 10_000 + "1" + "}" * 10_000, ".*nested"),
        (CONFIG, '{"model": ' * 100 + "1" + "}" * 100, ".*nested"),
        (RECORD, "{}", "argv "),
        (RECORD, b"\xff", "is not JSON"),
    ],
)
def test_f37_a_file_that_is_no_record_is_named(
    run: Path, refused: Callable[..., str], name: str, text: str | bytes, line: str
) -> None:
    (run / name).write_bytes(text.encode() if isinstance(text, str) else text)
    assert re.search(rf"run/{re.escape(name)}:? {line}", refused("describe", "run=run"))


def test_a_run_that_was_made_before_some_keys_is_opened_and_resumed(run: Path, cnntrain: Callable[..., Any]) -> None:
    config = json.loads((run / CONFIG).read_text())
    for group, keys in (("trainer", records.TRAINER), ("dataset", SELECTION), ("model", records.MODEL)):
        for key in keys:
            del config[group][key]
    for key in records.BEFORE:
        del config[key]
    (run / CONFIG).write_text(json.dumps(config))
    record = json.loads((run / RECORD).read_text())
    for key in ("processes", "sessions", "seconds", "init_from"):
        del record[key]
    (run / RECORD).write_text(json.dumps(record))
    assert cnntrain("eval", "run=run")["n"] == 48 and cnntrain("report", "run=run")["n"] == 48
    (run / RESULTS).unlink()
    assert cnntrain("fit", *TINY, "trainer.epochs=1", "seed=3", "output_dir=run")["resumed_from"] == 5


def test_what_a_trainer_key_meant_before_there_was_one_is_known() -> None:
    first = "epochs batch_size accumulate precision label_smoothing clip ema validate_every patience log_every"
    first += " checkpoint_seconds keep_every eval_batch_size tensorboard"
    assert {key.name for key in fields(Trainer)} == {*first.split(), *records.TRAINER}


def test_keys_of_a_newer_version_stay_as_they_are(run: Path, cnntrain: Callable[..., Any]) -> None:
    for name in (CONFIG, RECORD):
        (run / name).write_text(json.dumps(json.loads((run / name).read_text()) | {"newer": {"key": 1}}))
    assert records.settings(run)["newer"] == records.record(run)["newer"] == {"key": 1}
    assert cnntrain("eval", "run=run")["n"] == 48


def test_an_evaluation_that_was_damaged_is_made_again(
    run: Path, cnntrain: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    place = run / "eval" / "test_best"
    predictions = (place / "predictions.npz").read_bytes()
    for name, data in (("predictions.npz", predictions[:1000]), ("results.json", b"{}")):
        (place / name).write_bytes(data)
        assert main(["compare", "runs=[run,other]"]) == 0
        assert f"warning: run/eval/test_best/{name}" in capfd.readouterr().err
        assert records.read_record(place / "results.json", records.EvaluationRecord)["n"] == 48
