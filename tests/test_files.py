"""Configuration files: read whatever editor wrote them, and no code in those of a person's own."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cnntrain.cli.main import main
from cnntrain.config.files import read_text
from cnntrain.runtime.errors import InputError

Refused = Callable[..., str]
BOMB = b"a0: &a0 [1]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (i, i, b",".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 9)
)
CODE = "from pathlib import Path\nPath('RAN').touch()\n"
TARGET = "{x: {_target_: joblib.load, filename: p.pkl}}"

# What a file must not hold, by what the refusal names; every one of them could run code or set the environment.
FORBIDDEN = {
    f"hydra: {{callbacks: {TARGET}}}": "_target_",
    "hydra: {callbacks: '${mine}'}\nmine: {}": "hydra.callbacks",
    "hydra: '${mine}'\nmine: {job: {env_set: {A: b}}}": "hydra",
    "hydra: {searchpath: ['pkg://evil']}": "hydra.searchpath",
    "hydra: {job: {env_set: {LD_PRELOAD: evil.so}}}": "hydra.job",
    "hydra: {job_logging: {handlers: {x: {class: evil.X}}}}": "hydra.job_logging",
    "hydra: {hydra_logging: {root: {handlers: []}}}": "hydra.hydra_logging",
    "hydra: {launcher: {setup: [touch RAN]}}": "hydra.launcher",
    "hydra: {sweeper: {custom_search_space: evil.f}}": "hydra.sweeper",
    "hydra: {sweep: {dir: out, more: 1}}": "hydra.sweep",
    "hydra: {mode: MULTIRUN}": "hydra.mode",
    "hydra.job.chdir: true": "hydra.job.chdir",
    "plugins: [evil]": "plugins",
    "plugins: evil": "plugins",
    "model: {name: lenet5, _target_: evil.f}": "_target_",
    "trainer: [{_target_: evil.f}]": "_target_",
    "defaults: [override /hydra/launcher: joblib]": "hydra/launcher",
    "defaults: [/optimizer@hydra.callbacks: sgd]": "hydra.callbacks",
    "defaults: ['/optimizer@${h}: sgd']\nh: hydra": "${h}",
}


@pytest.fixture
def evil(folder: Path) -> Path:
    (folder / "evil.py").write_text(CODE)
    return folder


def ran(folder: Path) -> bool:
    return (folder / "RAN").exists()


@pytest.mark.parametrize("text", FORBIDDEN)
def test_no_file_of_a_persons_own_runs_code(refused: Refused, evil: Path, text: str) -> None:
    (evil / "mine" / "experiment").mkdir(parents=True)
    (evil / "nice.yaml").write_text(f"# A nice recipe.\n{text}\n")
    (evil / "mine" / "experiment" / "nice.yaml").write_text(f"# @package _global_\n{text}\n")
    sweep = ["fit", "-m", "experiment=nice", "seed=0,1", "--config-dir", "mine"]
    for words in (["config", "check", "nice.yaml"], ["config", "check", "experiment=nice", "--config-dir=mine"], sweep):
        line = refused(*words)
        assert "nice.yaml" in line and FORBIDDEN[text] in line, line
        assert not ran(evil)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hydra/launcher/mine.yaml", "x: 1\n"),
        ("common/hydra.yaml", "# @package _global_\nhydra: {job: {chdir: true}}\n"),
        ("optimizer/sgd.yaml", "# @package hydra.callbacks\nx: 1\n"),
        ("optimizer/hydra.yaml", "# @package _name_\njob: {chdir: true}\n"),
        ("fit.yaml", "defaults: [common/hydra, _self_]\nplugins: [evil]\n"),
    ],
)
def test_no_file_takes_the_place_of_hydras_own(refused: Refused, evil: Path, name: str, text: str) -> None:
    (evil / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
    (evil / "mine" / name).write_text(text)
    words = [f"{Path(name).parent}={Path(name).stem}"] if Path(name).stem in ("mine", "hydra") else []
    assert Path(name).name in refused("config", "check", *words, "--config-dir", "mine")
    assert not ran(evil)


def test_what_is_harmless_stays_allowed(evil: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (evil / "mine").mkdir()
    main(["config", "show", "fit"])
    (evil / "mine" / "fit.yaml").write_text(capfd.readouterr().out.replace("seed: 0", "seed: 5"))
    (evil / "mine" / "experiment").mkdir()
    (evil / "mine" / "experiment" / "a.yaml").write_text(
        "# @package _global_\ntrainer: {epochs: 3}\nhydra: {sweep: {dir: 'here/${seed}', subdir: job}}\n"
    )
    assert main(["fit", "experiment=a", "--config-dir", "mine", "--cfg", "all"]) == 0
    shown = capfd.readouterr().out
    assert "seed: 5" in shown and "epochs: 3" in shown and "dir: here/${seed}" in shown


@pytest.mark.parametrize(
    "word", ["plugins=[evil]", "++plugins=evil", "hydra.searchpath=[pkg://evil]", "hydra/launcher=joblib", "--cfg=job"]
)
def test_words_from_a_file_may_not_be_what_has_to_be_typed(refused: Refused, evil: Path, word: str) -> None:
    (evil / "words.yaml").write_text(json.dumps(["model=mlp", word]))
    assert word in refused("config", "check", "words.yaml")
    (evil / "mine" / "study").mkdir(parents=True)
    (evil / "mine" / "study" / "a.yaml").write_text(f"name: a\nvariants: {{x: ['{word}']}}\n")
    assert word in refused("ablate", "study=a", "model=lenet5", "--config-dir", "mine")
    assert not ran(evil)


@pytest.mark.parametrize("plugins", ["[own_parts]", "['own_parts']"])
def test_typed_plugins_are_imported(evil: Path, capfd: pytest.CaptureFixture[str], plugins: str) -> None:
    (evil / "own_parts.py").write_text(CODE)
    assert main(["config", "check", f"plugins={plugins}"]) == 0
    del sys.modules["own_parts"]
    assert ran(evil) and "plugin own_parts imported" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such", "No module named 'no_such'"),
        ("1 / 0", "ZeroDivisionError"),
        ("(", "Syntax"),
    ],
)
def test_a_plugin_that_fails_is_named(refused: Refused, folder: Path, code: str, message: str) -> None:
    (folder / "broken_parts.py").write_text(code)
    line = refused("fit", "plugins=[broken_parts]")
    assert "plugins=broken_parts: " in line and message in line


@pytest.mark.parametrize(
    "mode", ["reinit", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("rerandomize", "lesion", "finetune"))]
)
def test_no_record_has_plugins_imported(
    cnntrain: Callable[..., dict[str, object]],
    evil: Path,
    tiny: tuple[str, ...],
    mode: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    cnntrain("fit", *tiny, "trainer.epochs=1", "output_dir=run")
    path = evil / "run" / "config.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"plugins": ["evil"]}))
    stage = "fc4" if mode in ("reinit", "rerandomize", "finetune") else "pool1"
    main(["ablate", f"mode={mode}", "runs=[run]", f"remove=[[{stage}]]", "jobs=1", "output_dir=study"])
    assert not ran(evil)
    path.write_text(json.dumps(record | {"plugins": ["evil"], "model": {"name": "mine"}}))
    for words in (
        ["eval", "run=run"],
        ["predict", "run=run", "images=evil.py"],
        ["describe", "run=run"],
        ["export", "run=run"],
        ["report", "run=run"],
        ["invariance", "run=run"],
        ["ablate", "mode=reinit", "runs=[run]", "remove=[[fc4]]", "output_dir=other"],
    ):
        capfd.readouterr()
        assert main(words) == 2
        error = capfd.readouterr().err
        assert "'mine'" in error and "'plugins=[evil]'" in error, error
        assert not ran(evil)


def test_files_are_read_in_the_encodings_that_editors_write(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes("# é\na: 1\n".encode("utf-8-sig"))
    assert read_text(path) == "# é\na: 1\n"
    for encoding in ("latin-1", "utf-16", "utf-16-le", "utf-16-be", "cp1252"):
        path.write_bytes("# é\na: 1\n".encode(encoding))
        with pytest.raises(InputError, match=r"a\.yaml .*UTF-8"):
            read_text(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("# é\ntrainer: {epochs: 2}\n".encode("latin-1"), "not UTF-8"),
        ("trainer: {epochs: 2}\n".encode("utf-16"), "not UTF-8"),
        (b"a: [1\n", "odd.yaml, line 2: "),
        (b"a: &x {b: *x}\n", "aliases expand"),
        (b"a: &x [*x]\n", "aliases expand"),
        (BOMB, "aliases expand"),
        (b"a: " + 5000 * b"[", ""),
        (b"- {a: 1}\n- 2\n", ""),
        (b"a: 2024-99-99\n", ""),
        (b"# @package\na: 1\n", ""),
        (b"text\n", ""),
        (b"trainer: {epochs: 1, epochs: 2}\n", "epochs"),
        (b"!!python/object/apply:os.system ['touch RAN']\n", ""),
        (b"defaults: 3\n", "odd.yaml: defaults "),
        (b"defaults: [{a: b, c: d}]\n", "odd.yaml: defaults "),
        (b"defaults: [[a]]\n", "odd.yaml: defaults "),
        (b"? {a: 1}\n: 2\n", ""),
        (b"1: 2\n", ""),
    ],
)
def test_an_odd_file_ends_every_command_in_one_line(
    refused: Refused, folder: Path, capfd: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    (folder / "mine" / "experiment").mkdir(parents=True)
    for name in ("mine/experiment/odd.yaml", "odd.yaml"):
        (folder / name).write_bytes(content)
    assert message in refused("config", "check", "odd.yaml")
    assert message in refused("config", "check", "experiment=odd", "--config-dir", "mine")
    for words in (
        ["fit", "experiment=odd", "--config-dir", "mine", "--cfg", "job"],
        ["fit", "experiment=odd", "--config-dir", "mine", "--help"],
        ["config", "list", "experiment", "--config-dir", "mine"],
        ["completion", "query", "fish", "cnntrain fit experiment=odd --config-dir mine "],
    ):
        assert main(words) in (0, 2)
        assert capfd.readouterr().err.count("\n") <= 1


def test_a_byte_order_mark_is_no_part_of_a_file(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = "# @package _global_\ndefaults:\n  - override /model: softmax\n\ntrainer:\n  epochs: 2\n"
    (folder / "mine" / "experiment").mkdir(parents=True)
    (folder / "mine" / "experiment" / "bom.yaml").write_text(text, encoding="utf-8-sig")
    for words in (["mine/experiment/bom.yaml"], ["experiment=bom", "--config-dir", "mine"]):
        assert main(["config", "check", *words]) == 0
        assert "softmax" in (out := capfd.readouterr().out) and "2 epochs" in out


def test_text_that_reads_as_something_else_asks_for_quotes(refused: Refused, folder: Path) -> None:
    (folder / "keys.yaml").write_text("dataset: {classes: ['1', NO]}\n")
    assert "dataset.classes[1]=False" in refused("config", "check", "keys.yaml")
