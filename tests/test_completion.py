"""Tab completion: what each word may become, and that real shells insert it."""

import os
import select
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cnntrain.cli import completion, groups, main

COMMANDS = ["eval", "fit", "predict"]
FILES = {
    "fit.yaml": """\
        # Train
        defaults: [common/hydra, _self_, {model: small}, {dataset: digits}, {optional experiment: null}]
        seed: 0  # fixes every draw
        deterministic: false
        init_from: null
        """,
    "eval.yaml": "defaults: [_self_, {optional dataset: null}]\nrun: ???\nsplit: test\n",
    "common/hydra.yaml": "# @package _global_\nhydra:\n  output_subdir: null\n",
    "common/dataset.yaml": "root: null  # where the files lie\nworkers: 0\n",
    "dataset/digits.yaml": "defaults: [/common/dataset@_here_, _self_]\nname: digits\n",
    "dataset/mnist.yaml": "defaults: [digits, _self_]\nfold: 1\n",
    "model/small.yaml": "name: small\nhead:\n  bias: true  # one for each class\n",
    "model/resnet20.yaml": "name: resnet20\nshortcut: A\n",
    "model/resnet32.yaml": "name: resnet32\nshortcut: A\n",
    "model/torn.yaml": "name: [\n",
    "experiment/long.yaml": "# @package _global_\ndefaults: [{override /model: resnet32}]\nseed: 3\nextra: {a: 1}\n",
}


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a small configuration that `cnntrain` takes for its own, with the work in a folder of its own."""
    folder, work = tmp_path / "conf", tmp_path / "work"
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(line.removeprefix("        ") for line in text.splitlines()) + "\n")
    for name in ("runs/fit/a b", "runs/eval", ".hidden", "rest"):
        (work / name).mkdir(parents=True)
    (work / "photo.jpg").touch()
    monkeypatch.setattr(main, "config_dir", lambda: folder)
    monkeypatch.chdir(work)
    return folder


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("f", ["fit"]),
        ("--v", ["--version"]),
        ("completion z", ["zsh"]),
        ("nothing ", []),
        ("fit mod", ["model.", "model="]),
        ("fit model=res", ["model=resnet20", "model=resnet32"]),
        ("fit -m model=small,resnet2", ["model=small,resnet20"]),
        ("fit model.", ["model.head.", "model.name="]),
        ("fit model.head.", ["model.head.bias="]),
        ("fit model.head.bias=", ["model.head.bias=false", "model.head.bias=true"]),
        ("fit model=resnet20 model.", ["model.name=", "model.shortcut="]),
        ("fit experiment=long model.", ["model.name=", "model.shortcut="]),
        ("fit experiment=long model=small model.h", ["model.head."]),
        ("fit experiment=long ex", ["experiment=", "extra."]),
        ("fit model=torn model.", []),
        ("fit model=absent model.", []),
        ("fit dataset.", ["dataset.name=", "dataset.root=", "dataset.workers="]),
        ("fit dataset=mnist dataset.f", ["dataset.fold="]),
        ("fit ++se", ["++seed="]),
        ("fit ~dataset.w", ["~dataset.workers="]),
        ("fit seed.x.", []),
        ("fit seed=", []),
        ("fit deterministic=t", ["deterministic=true"]),
        ("fit hydra", []),
        ("fit --c", ["--cfg", "--config-dir"]),
        ("fit --cfg ", ["all", "hydra", "job"]),
        ("fit -c j", ["job"]),
        ("fit --config-dir ru", ["runs/"]),
        ("fit init_from=r", ["init_from=rest/", "init_from=runs/"]),
        ("fit dataset.root=.h", ["dataset.root=.hidden/"]),
        ("eval ", ["dataset=", "run=", "split="]),
        ("eval run=runs/fit/", ["run=runs/fit/a b/"]),
        ("eval run=absent/", []),
        ("predict images=p", ["images=photo.jpg"]),
        ("eval runs=[rest/,runs/e", ["runs=[rest/,runs/eval/"]),
    ],
)
def test_candidates(line: str, expected: list[str], conf: Path) -> None:
    words = shlex.split(line) + ([""] if line.endswith(" ") else [])
    assert completion.candidates(words, COMMANDS, conf) == expected


def test_users_folder_adds_options(conf: Path, tmp_path: Path) -> None:
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "rest.yaml").write_text("name: rest\nown: 1\n")
    before = ["fit", "--config-dir", str(tmp_path / "mine")]
    found = completion.candidates([*before, "model=res"], COMMANDS, conf)
    assert found == ["model=resnet20", "model=resnet32", "model=rest"]
    assert completion.candidates([*before, "model=rest", "model.o"], COMMANDS, conf) == ["model.own="]


def test_each_shell_gets_its_spelling(conf: Path) -> None:
    def query(shell: str, line: str, wordbreaks: str = "") -> list[str]:
        return completion.query(shell, line, COMMANDS, conf, wordbreaks)

    assert query("bash", "cnntrain fit model=resnet2", " =:") == ["resnet20 "]
    assert query("bash", "cnntrain fit model=resnet2", " ") == ["model=resnet20 "]
    assert query("bash", "cnntrain fit experim", " =:") == ["experiment="]
    assert query("bash", "cnntrain fit --cfg ", " =:") == ["all ", "hydra ", "job "]
    assert query("zsh", "cnntrain eval run=runs/fit/a") == ["run=runs/fit/a\\ b/"]
    assert query("fish", "cnntrain eval run=runs/fit/a") == ["run=runs/fit/a b/"]
    assert query("fish", "cnntrain eval run=runs/fit/a\\ ") == ["run=runs/fit/a b/"]
    assert query("bash", "cnntrain fit 'model=") == []


def test_keys_carry_their_comments(conf: Path) -> None:
    comments = groups.compose([conf], "fit", {}).comments
    assert comments == {
        "seed": "fixes every draw",
        "dataset.root": "where the files lie",
        "model.head.bias": "one for each class",
    }


def test_composition_agrees_with_hydra(conf: Path) -> None:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(conf), version_base="1.3"):
        for typed in ({}, {"model": "resnet20", "dataset": "mnist"}, {"experiment": "long"}):
            theirs = OmegaConf.to_container(compose("fit", [f"{key}={value}" for key, value in typed.items()]))
            assert groups.compose([conf], "fit", typed).keys == theirs


def test_command(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for shell in completion.SCRIPTS:
        assert main.main(["completion", shell]) == 0
        assert "completion query" in capsys.readouterr().out
    assert main.main(["completion", "query", "fish", "cnntrain fit model=s"]) == 0
    assert capsys.readouterr().out == "model=small\n"
    assert main.main(["completion", "query", "fish", "cnntrain fit model=x"]) == 0
    assert not capsys.readouterr().out
    assert main.main(["completion", "bsh"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("cnntrain: ") and "'bash'" in error and error.count("\n") == 1
    assert main.main(["completion"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("cnntrain: ") and "cnntrain completion bash|zsh|fish" in error and error.count("\n") == 1


def test_answering_imports_neither_hydra_nor_torch() -> None:
    code = (
        "import sys; from cnntrain.cli.main import main; main(['completion', 'query', 'bash', 'cnntrain fit ']);"
        "sys.exit(bool({'torch', 'hydra', 'omegaconf', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("shell", list(completion.SCRIPTS))
def test_script_is_valid(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    check = subprocess.run([shell, "-n"], input=completion.SCRIPTS[shell], text=True, capture_output=True, check=False)
    assert (check.returncode, check.stderr) == (0, "")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return `cnntrain` as a program on the path, for a shell without settings."""
    path = tmp_path / "cnntrain"
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m cnntrain "$@"\n')
    path.chmod(0o755)
    for shell, script in completion.SCRIPTS.items():
        (tmp_path / shell).write_text(script)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_keeps_what_stands_before_the_equals_sign(program: Path) -> None:
    script = completion.SCRIPTS["bash"] + (
        "COMP_LINE='cnntrain fit --cfg job dataset=mnis'; COMP_POINT=${#COMP_LINE}\n"
        f'_cnntrain {shlex.quote(str(program))}; printf "<%s>" "${{COMPREPLY[@]}}"'
    )
    run = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "<mnist >"


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes_a_word(program: Path) -> None:
    script = f'source {program.with_name("fish")}; complete -C "cnntrain fit dataset=mnis"'
    run = subprocess.run(["fish", "--no-config", "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "dataset=mnist\n"


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_completes_a_word_when_tab_is_pressed(program: Path) -> None:
    import pty

    terminal, end = pty.openpty()
    shell = subprocess.Popen(["zsh", "-f", "-i"], stdin=end, stdout=end, stderr=end, start_new_session=True)
    os.close(end)

    def shows(wanted: bytes, keys: str) -> bool:
        """Type keys, and say whether the terminal shows what is wanted before it is still for half a minute."""
        os.write(terminal, keys.encode())
        shown = b""
        while wanted not in shown and select.select([terminal], [], [], 30)[0]:
            shown += os.read(terminal, 4096)
        return wanted in shown

    try:
        assert shows(b"READY", f"source {program.with_name('zsh')}; print REA''DY\n")
        assert shows(b"dataset=mnist", "cnntrain fit dataset=mnis\t")
    finally:
        shell.kill()
        shell.wait()
        os.close(terminal)
