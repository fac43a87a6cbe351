"""The command line: words in, one line or one JSON object out, and the exit code."""

import argparse
import gc
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from cnntrain.cli import job, main, overrides
from cnntrain.cli.output import as_json
from cnntrain.config import compose
from cnntrain.runtime import streams, tables
from cnntrain.runtime.errors import CheckpointError, IncompleteError, InputError, NonFiniteError, StoppedError, setting

HYDRA = Path(__file__).resolve().parents[1] / "conf" / "common" / "hydra.yaml"
FILES = {
    "fit.yaml": """
        # Train a network: cnntrain fit model=small cost=$1
        defaults:
          - common/hydra
          - _self_
          - model: small
          - dataset: digits
          - optional experiment: null

        seed: 0        # fixes every draw
        plain: true
        output_dir: null
        broken: ${nowhere}
        init_from: null
        """,
    "eval.yaml": """
        # Evaluate
        defaults:
          - common/hydra
          - _self_
          - optional dataset: null

        run: ???
        nested:
          images: ???
        """,
    "common/dataset.yaml": "root: null\nworkers: 0  # processes\n",
    "dataset/digits.yaml": "defaults:\n  - /common/dataset@_here_\n  - _self_\nname: digits\n",
    "dataset/mnist.yaml": "defaults:\n  - /common/dataset@_here_\n  - _self_\nname: mnist\nfold: 1\n",
    "model/small.yaml": "name: small\nwidth: 4\nhead:\n  bias: true\n",
    "model/resnet20.yaml": "name: resnet20\nshortcut: A  # A | B\nremove: []\n",
    "model/wide.yaml": "name: wide\n",
    "experiment/long.yaml": """
        # @package _global_
        defaults:
          - override /model: wide
          - override /dataset: mnist
        seed: 7
        """,
    "experiment/broken.yaml": "# @package _global_\nseed: [1\n",
}


def write_conf(folder: Path) -> Path:
    for name, text in FILES.items():
        lines = text.strip("\n").split("\n")
        indent = len(lines[0]) - len(lines[0].lstrip())
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(line[indent:] for line in lines) + "\n", encoding="utf-8")
    (folder / "common" / "hydra.yaml").write_text(HYDRA.read_text(encoding="utf-8"), encoding="utf-8")
    return folder


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a small configuration that `cnntrain` takes for its own, with the work in an empty folder."""
    folder = write_conf(tmp_path / "conf")
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(main, "config_dir", lambda: folder)
    monkeypatch.chdir(tmp_path / "work")
    return folder


Run = Callable[[DictConfig], dict[str, Any]]


@pytest.fixture
def command(conf: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[DictConfig]]:
    """Return a function that puts `run` in the place of a command; it returns the configurations `run` will get."""

    def install(run: Run = lambda cfg: {"seed": cfg.get("seed")}, name: str = "fit") -> list[DictConfig]:
        seen: list[DictConfig] = []
        module = ModuleType(f"cnntrain.commands.{name}")

        def remember(cfg: DictConfig) -> dict[str, Any]:
            seen.append(cfg)
            return run(cfg)

        module.run = remember  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return seen

    return install


def fail(error: BaseException) -> Run:
    def run(cfg: DictConfig) -> dict[str, Any]:
        raise error

    return run


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for words_ in (["--help"], ["-h"], ["help"]):
        assert main.main(words_) == 0
        out = capsys.readouterr().out
        assert all(f"  {name} " in out and phrase in out for name, phrase in main.COMMANDS.items())
        assert max(map(len, out.splitlines())) <= 100


def test_no_words_is_usage_and_unknown_ones_are_corrected(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err == main.usage()
    assert main.main(["fti"]) == 2
    assert "'fit'" in capsys.readouterr().err
    assert main.main(["--hlep"]) == 2
    assert "'--help'" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("cnntrain 0.")


def test_front_door_imports_no_library() -> None:
    code = (
        "import sys; from cnntrain.cli.main import main; main(['--help']);"
        "sys.exit(bool({'torch', 'hydra', 'omegaconf', 'yaml', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_the_imports_of_a_command_are_kept_out_of_the_search_for_garbage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "searched_module.py").write_text("import gc\nsearched = gc.isenabled()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch")
    frozen = gc.get_freeze_count()
    try:
        assert not job.imported("searched_module").searched
        assert gc.isenabled() and gc.get_freeze_count() > frozen
    finally:
        gc.unfreeze()


def test_launching_imports_hydra_but_not_torch() -> None:
    code = "import sys; import cnntrain.cli.launcher; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "value",
    [
        "/a/lr=0.1/b",
        "runs/#1&2",
        "a b",
        "data (1)",
        "(1",
        "Müller/é",
        "it's",
        'say "so"',
        "back\\slash\\",
        "a'b\\'c",
        "50%",
        "x]y",
        "a:b=c",
    ],
)
def test_any_path_arrives_as_it_was_typed(value: str, command: Callable[..., list[DictConfig]]) -> None:
    seen = command()
    assert main.main(["fit", f"output_dir={value}"]) == 0
    assert seen[0].output_dir == value


@pytest.mark.parametrize(
    "value",
    [
        "a b",
        "it's",
        'say "so"',
        "a,b",
        "[1]",
        "{a:1}",
        "back\\",
        "a\\'b",
        "\\\\'",
        "$HOME",
        "a;b",
        "*",
        "é",
        " x ",
        "null",
        "",
    ],
)
def test_a_suggested_setting_can_be_pasted(value: str, command: Callable[..., list[DictConfig]]) -> None:
    """Through a shell and the grammar of words."""
    typed = subprocess.run(["sh", "-c", f"printf %s {setting('output_dir', value)}"], capture_output=True, check=True)
    seen = command()
    assert main.main(["fit", typed.stdout.decode()]) == 0
    assert seen[0].output_dir == value


def test_home_is_expanded_in_values_lists_and_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/é")
    assert overrides.writable("~/runs") == "'/home/é/runs'"
    assert overrides.writable("[~/a,b]") == "['/home/é/a',b]"
    assert overrides.writable("~/a,b=c") == "'/home/é/a','b=c'"
    assert overrides.writable("a~b") in ("a~b", "'a~b'")


def test_what_hydra_reads_stays_as_it_is() -> None:
    for value in ("1", "1e-3", "null", "[1,2]", "{a:1}", "${seed}", "'a,b'", "choice(1,2)", "range(1,4)", "", "[]"):
        assert overrides.writable(value) == value


@pytest.mark.parametrize(
    "value",
    [
        *("a", "2024", "true", "null", ".5", "a,b", "[a]", "it's", r"back\slash", "", " ", "runs/a b", "é"),
        *(1, 0.5, 1e-9, True, None, ["a", "1", 2], {"a": 1, "b": [None]}),
    ],
)
def test_a_value_of_python_is_spelled_as_hydra_reads_it(value: object) -> None:
    assert OverridesParser.create().parse_override(f"key={overrides.spelled(value)}").value() == value


def test_settings_and_flags_in_any_order(conf: Path) -> None:
    line = overrides.parse_words(
        ["seed=1", "--json", "model=small", "-m", "+x=1", "~plain", "hydra.verbose=true"], conf
    )
    assert line.json
    assert line.argv == ["--multirun", "++seed=1", "model=small", "+x=1", "~plain", "hydra.verbose=true"]
    assert overrides.parse_words(["--info", "seed=1"], conf).argv == ["--info=all", "++seed=1"]
    assert overrides.parse_words(["-c", "job", "model.width=2"], conf).argv == ["--cfg=job", "++model.width=2"]


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        (["resnet20"], "model=resnet20"),
        (["lr", "=", "3"], "'lr'"),
        (["--jso"], "'--json'"),
        (["--seed=3"], " seed=3"),
        (
            ["--experimental-rerun=x.pickle"],
            "--experimental-rerun",
        ),
        (["--cfg", "jbo"], "'job'"),
        (["--cfg"], "job or hydra or all"),
        (["--json=1"], "--json"),
        (
            ["--json", "--cfg", "job"],
            "--cfg",
        ),
        (["seed=1,2"], "'seed=[1,2]'"),
        (["=3"], "'=3'"),
        (["model=resnet21"], "'resnet20'"),
        (["model=vgg"], "resnet20, small, wide"),
        (["common=dataset"], "cnntrain fit --help"),
        (["hydra/launcher=nowhere"], "basic"),
    ],
)
def test_misuse_is_one_line_and_starts_nothing(
    typed: list[str], named: str, command: Callable[..., list[DictConfig]], capsys: pytest.CaptureFixture[str]
) -> None:
    seen = command()
    assert main.main(["fit", *typed]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("cnntrain: ") and named in line
    assert not captured.out
    assert not seen
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(
    "typed",
    [
        ["experiment=broken"],
        ["a[0=1"],
        ["+model=small,resnet20"],
        ["dataset={a:1}"],
        ["~nothing"],
        ["-m", "hydra.job.num=1,2"],
    ],
)
def test_configuration_errors_are_one_short_line(
    typed: list[str], command: Callable[..., list[DictConfig]], capsys: pytest.CaptureFixture[str]
) -> None:
    command()
    assert main.main(["fit", *typed]) == 2
    error = capsys.readouterr().err
    assert error.startswith("cnntrain: ")
    assert error.count("\n") == 1
    assert len(error) < 300


def test_every_key_reaches_the_command(command: Callable[..., list[DictConfig]]) -> None:
    seen = command()
    assert main.main(["fit", "modle=x", "model.depth=3", "+added=1", "dataset.root=~"]) == 0
    cfg = seen[0]
    assert (cfg.modle, cfg.model.depth, cfg.model.width, cfg.added) == ("x", 3, 4, 1)
    assert cfg.dataset.root == str(Path.home())
    assert "hydra" not in cfg


def test_an_experiment_chooses_and_the_line_has_the_last_word(command: Callable[..., list[DictConfig]]) -> None:
    seen = command()
    assert main.main(["fit", "experiment=long"]) == 0
    assert main.main(["fit", "experiment=long", "model=small", "seed=1"]) == 0
    assert [(cfg.model.name, cfg.dataset.name, cfg.seed) for cfg in seen] == [
        ("wide", "mnist", 7),
        ("small", "mnist", 1),
    ]


def test_users_folder_adds_options(tmp_path: Path, command: Callable[..., list[DictConfig]]) -> None:
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "own.yaml").write_text("name: own\n")
    seen = command()
    assert main.main(["fit", "model=own", "--config-dir", str(tmp_path / "mine")]) == 0
    assert seen[0].model.name == "own"


def test_single_run_leaves_nothing_and_keeps_the_folder(command: Callable[..., list[DictConfig]]) -> None:
    before, typed = Path.cwd(), sys.argv
    argv: list[list[str]] = []
    command(lambda cfg: {"argv": argv.append(sys.argv)})
    assert main.main(["fit", "seed=3"]) == 0
    assert argv == [["cnntrain", "fit", "seed=3"]]
    assert sys.argv is typed
    assert Path.cwd() == before
    assert not list(before.iterdir())


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("no such\n  thing"), 2, "no such thing"),
        (NonFiniteError("loss is nan", 3), 3, "loss is nan"),
        (CheckpointError("torn"), 4, "torn"),
        (ZeroDivisionError("by zero"), 1, "ZeroDivisionError: by zero (CNNTRAIN_TRACEBACK=1 shows where)"),
    ],
)
def test_failures_are_one_line_with_their_code(
    error: Exception,
    code: int,
    message: str,
    command: Callable[..., list[DictConfig]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CNNTRAIN_TRACEBACK", raising=False)
    command(fail(error))
    assert main.main(["fit", "--json"]) == code
    assert capsys.readouterr() == ("", f"cnntrain: {message}\n")
    monkeypatch.setenv("CNNTRAIN_TRACEBACK", "1")
    assert main.main(["fit"]) == code
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143), (SystemExit(), 0)])
def test_signals_keep_their_codes(stop: BaseException, code: int, command: Callable[..., list[DictConfig]]) -> None:
    command(fail(stop))
    assert main.main(["fit"]) == code


def test_references_that_lead_nowhere_are_named(
    command: Callable[..., list[DictConfig]], capsys: pytest.CaptureFixture[str]
) -> None:
    command(lambda cfg: {"value": cfg.broken})
    assert main.main(["fit"]) == 2
    assert capsys.readouterr().err == "cnntrain: broken: Interpolation key 'nowhere' not found\n"


def test_own_mistakes_with_a_configuration_are_not_the_users(
    command: Callable[..., list[DictConfig]], capsys: pytest.CaptureFixture[str]
) -> None:
    command(lambda cfg: {"value": cfg.no_such_key})
    assert main.main(["fit"]) == 1
    assert "ConfigAttributeError" in capsys.readouterr().err


def test_json_is_alone_on_standard_output(
    command: Callable[..., list[DictConfig]], capfd: pytest.CaptureFixture[str]
) -> None:
    def run(cfg: DictConfig) -> dict[str, Any]:
        print("progress")
        os.system("echo from a child")  # noqa: S605
        return {"top1": 0.5, "loss": math.nan, "seed": cfg.seed}

    command(run)
    assert main.main(["fit", "--json", "seed=4"]) == 0
    out, err = capfd.readouterr()
    assert out == '{"top1": 0.5, "loss": null, "seed": 4}\n'
    assert "progress" in err
    assert "from a child" in err


def test_json_is_strict_and_plain() -> None:
    value = {
        "a": np.float32("nan"),
        "b": np.arange(3),
        3: Path("x/y"),
        "c": (math.inf, -1.5),
        "d": np.int64(2),
        "e": None,
    }
    assert json.loads(as_json(value)) == {
        "a": None,
        "b": [0, 1, 2],
        "3": "x/y",
        "c": [None, -1.5],
        "d": 2,
        "e": None,
    }


def test_sweep_runs_every_combination_in_numbered_folders(
    command: Callable[..., list[DictConfig]], capfd: pytest.CaptureFixture[str]
) -> None:
    seen = command(lambda cfg: {"model": cfg.model.name, "seed": cfg.seed, "objective": 1.0})
    assert main.main(["fit", "-m", "model=small,resnet20", "seed=0,1", "output_dir=sweep é", "--json"]) == 0
    out, err = capfd.readouterr()
    jobs = json.loads(out)["jobs"]
    assert [(job["model"], job["seed"]) for job in jobs] == [
        ("small", 0),
        ("small", 1),
        ("resnet20", 0),
        ("resnet20", 1),
    ]
    assert [cfg.output_dir for cfg in seen] == [str(Path.cwd() / "sweep é" / str(number)) for number in range(4)]
    assert [line for line in err.splitlines() if "seed=1" in line] == [
        "cnntrain: job 1: model=small seed=1 output_dir='sweep é'",
        "cnntrain: job 3: model=resnet20 seed=1 output_dir='sweep é'",
    ]
    assert len(err.splitlines()) == 4
    assert not list(Path.cwd().rglob("*.log"))


def test_every_value_of_a_sweep_stands_in_a_job_that_is_looked_at(conf: Path) -> None:
    line = overrides.parse_words(
        ["-m", "model=small,wide", "seed=range(0,3)", "plain=[1,2]", "~dataset", "hydra.job.num=1"], conf
    )
    assert line.jobs() == [
        ["model=small", "++seed=0", "++plain=[1,2]", "~dataset"],
        ["model=wide", "++seed=1", "++plain=[1,2]", "~dataset"],
        ["model=small", "++seed=2", "++plain=[1,2]", "~dataset"],
    ]
    assert overrides.parse_words(["-m", "seed=interval(0,1)", "model=small"], conf).jobs() == [["model=small"]]


def test_a_job_of_a_sweep_has_its_words_as_they_were_typed(command: Callable[..., list[DictConfig]]) -> None:
    typed: list[list[str]] = []
    seen = command(lambda cfg: typed.append(compose.overrides()) or {})
    assert main.main(["fit", "-m", "plain=1e5,0x1f", "seed=choice(1e-3,2)", "output_dir=out"]) == 0
    assert [words[:2] for words in typed] == [
        ["++plain=1e5", "++seed=1e-3"],
        ["++plain=1e5", "++seed=2"],
        ["++plain=0x1f", "++seed=1e-3"],
        ["++plain=0x1f", "++seed=2"],
    ]
    assert [cfg.seed for cfg in seen] == [0.001, 2, 0.001, 2]


def test_sweep_without_a_folder_lies_under_runs(command: Callable[..., list[DictConfig]]) -> None:
    seen = command()
    assert main.main(["fit", "-m", "seed=3,4"]) == 0
    folders = [Path(cfg.output_dir) for cfg in seen]
    assert [folder.name for folder in folders] == ["0", "1"]
    assert {folder.parent.parent for folder in folders} == {Path.cwd() / "runs" / "sweep"}


def test_results_of_jobs_in_other_processes_come_by_number(
    command: Callable[..., list[DictConfig]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(cfg: DictConfig) -> dict[str, Any]:
        (Path(cfg.output_dir) / "results.json").write_text(json.dumps({"seed": cfg.seed}))
        return {}

    command(run)
    monkeypatch.setattr(job.Job, "results", property(lambda _: [], lambda *_: None), raising=False)
    assert main.main(["fit", "-m", "seed=range(0,12)", "output_dir=out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"jobs": [{"seed": seed} for seed in range(12)]}


def test_commands_without_a_folder_leave_their_results_in_the_jobs(command: Callable[..., list[DictConfig]]) -> None:
    command(lambda cfg: {"run": cfg.run, "loss": math.inf}, name="eval")
    for run in ("a", "b"):  # the second time over what the first one left
        assert main.main(["eval", "-m", f"run={run},x", "nested.images=y", "hydra.sweep.dir=out"]) == 0
        assert json.loads(Path("out/0/results.json").read_text()) == {"run": run, "loss": None}


@pytest.mark.parametrize(
    ("words", "once", "jobs"),
    [(["seed=3"], True, [3]), (["seed=3", "hydra.mode=MULTIRUN"], False, [3]), (["-m", "seed=3,4"], False, [3, 4])],
)
def test_hydra_composes_once_for_a_run_and_its_mode_still_counts(
    command: Callable[..., list[DictConfig]],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    once: bool,
    jobs: list[int],
) -> None:
    seen, load, count = command(), ConfigLoaderImpl.load_configuration, 0

    def counted(*args: Any, **kwargs: Any) -> DictConfig:
        nonlocal count
        count += 1
        return load(*args, **kwargs)

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
    assert main.main(["fit", *words]) == 0
    assert [cfg.seed for cfg in seen] == jobs and (count == 1) == once


def test_hydra_starts_where_argparse_checks_help_strings(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_argument = argparse.ArgumentParser.add_argument

    def check(parser: argparse.ArgumentParser, action: argparse.Action) -> None:
        raise ValueError("badly formed help string")

    def checked(parser: argparse.ArgumentParser, *names: Any, **options: Any) -> argparse.Action:
        action = add_argument(parser, *names, **options)
        parser._check_help(action)  # type: ignore[attr-defined]
        return action

    monkeypatch.setattr(argparse.ArgumentParser, "_check_help", check, raising=False)
    monkeypatch.setattr(argparse.ArgumentParser, "add_argument", checked)
    assert main.main(["fit", "--cfg", "job"]) == 0
    assert argparse.ArgumentParser._check_help is check  # type: ignore[attr-defined]


def test_failed_job_of_a_sweep_is_named(
    command: Callable[..., list[DictConfig]], capsys: pytest.CaptureFixture[str]
) -> None:
    def run(cfg: DictConfig) -> dict[str, Any]:
        if cfg.seed == 1:
            raise NonFiniteError("loss is nan", 3)
        return {}

    seen = command(run)
    assert main.main(["fit", "-m", "seed=0,1,2", "--json"]) == 3
    out, err = capsys.readouterr()
    assert not out
    assert "cnntrain: job 1 failed: loss is nan\n" in err
    assert len(seen) == 3


def test_a_signal_in_a_job_ends_the_sweep(
    command: Callable[..., list[DictConfig]], capsys: pytest.CaptureFixture[str]
) -> None:
    def run(cfg: DictConfig) -> dict[str, Any]:
        raise StoppedError("stopped by SIGTERM", 15)

    seen = command(run)
    assert main.main(["fit", "-m", "seed=0,1,2"]) == 143
    assert "cnntrain: job 0 stopped by SIGTERM\n" in capsys.readouterr().err
    assert len(seen) == 1


@pytest.mark.parametrize("words", [[], ["-m", "seed=0,1"]])
def test_work_that_is_not_complete_is_told_and_ends_with_1(
    command: Callable[..., list[DictConfig]], capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    def run(cfg: DictConfig) -> dict[str, Any]:
        raise IncompleteError("1 of 2 failed", {"n": 1})

    command(run)
    assert main.main(["fit", *words, "--json"]) == 1
    out, err = capsys.readouterr()
    assert "1 of 2 failed\n" in err and out == ("" if words else '{"n": 1}\n')


def test_help_of_a_command(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["fit", "model=resnet20", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Train a network: cnntrain fit model=small cost=$1\n")
    lines = out.splitlines()
    assert "  model       resnet20*  small  wide" in lines
    assert "  experiment  broken  long" in lines
    assert "    shortcut: A                       # A | B" in lines
    assert "  seed: 0                             # fixes every draw" in lines
    assert "    workers: 0                        # processes" in lines
    assert "hydra" not in out
    assert main.main(["help", "eval"]) == 0
    assert "run: ???" in capsys.readouterr().out


def test_configuration_is_shown(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["fit", "--cfg", "job", "seed=5"]) == 0
    shown = OmegaConf.create(capsys.readouterr().out)
    assert shown.seed == 5
    assert "hydra" not in shown


def test_unusual_surroundings(conf: Path, tmp_path: Path) -> None:
    here = tmp_path / "a #b=é (1)"
    here.mkdir()
    code = (
        "import sys; from pathlib import Path; from cnntrain.cli import main;"
        f"main.config_dir = lambda: Path({str(conf)!r});"
        "sys.exit(main.main(['fit', '--cfg', 'job', 'output_dir=é (1)']))"
    )
    environment = {"LC_ALL": "C", "PATH": os.environ["PATH"], "PYTHONOPTIMIZE": "1", "COLUMNS": "40", "NO_COLOR": "1"}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=here, env=environment, capture_output=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "output_dir: é (1)" in run.stdout.decode()
    assert not run.stderr
    assert not list(here.iterdir())


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "cp437", "utf-8", "utf-16"])
def test_every_encoding_takes_what_is_printed(tmp_path: Path, encoding: str) -> None:
    """A table keeps its columns; what an encoding has is written as it is."""
    rows = [{"stage": "Müller", "output": "6×28×28"}, {"stage": os.fsdecode(b"\xe9"), "output": "…"}]
    text = f"{tables.render(rows)}\n{main.usage()}\n日本 → ± 95 % interval 1 … 2\n"
    with (tmp_path / "out").open("w") as sink:
        like = SimpleNamespace(encoding=encoding)
        with streams.forgiving(sink.fileno(), like=like) as stream:
            stream.write(text)
    shown = (tmp_path / "out").read_text(encoding=encoding)
    for sign in "─×…é→±日":
        assert (sign in shown) == (sign in text and sign.encode(encoding, "ignore") not in (b"", b"\xff\xfe"))
    if encoding == "ascii":
        assert shown.splitlines()[:4] == [
            "stage   output",
            "------  -------",
            "M?ller  6x28x28",
            "\\xe9       ...",
        ]
        assert "?? -> +- 95 % interval 1 ... 2" in shown


@pytest.mark.parametrize("typed", [["--help"], ["fit", "--help"]])
def test_reader_may_leave_early(typed: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "cnntrain", *typed], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")
