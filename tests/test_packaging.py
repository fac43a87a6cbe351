"""Installing: the wheel works away from the checkout, and make mends its environment or says why it cannot."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import cnntrain
from cnntrain.cli import main

ROOT = Path(__file__).resolve().parents[1]

pytest.importorskip("hatchling")
pytest.importorskip("build")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the source distribution, and the wheel built from nothing but that."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the wheel installed and nothing else."""
    target = tmp_path_factory.mktemp("site")
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True, capture_output=True)
    return target


def run(installed: Path, folder: Path, *words: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-m", "cnntrain", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_wheel_holds_the_package_and_every_configuration_file(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, pattern in (("conf", "*.yaml"), ("cnntrain", "*.py")):
        files = [path.relative_to(ROOT) for path in (ROOT / folder).rglob(pattern)]
        assert files
        inside = {str(Path("cnntrain", path) if folder == "conf" else path) for path in files}
        assert inside <= names
    others = [name for name in names if not name.startswith("cnntrain")]
    assert not others


def test_version_and_date_are_the_same_wherever_they_are_written() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert citation["version"] == cnntrain.__version__
    assert newest == f"## {cnntrain.__version__} ({citation['date-released']})"


def test_source_distribution_is_enough_to_test(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "conf/fit.yaml", "tests/test_packaging.py"} <= names


def test_installed_wheel_works_from_another_folder(installed: Path, tmp_path: Path) -> None:
    where = "import cnntrain.cli.main, sys; print(cnntrain.cli.main.config_dir())"
    environment = os.environ | {"PYTHONPATH": str(installed)}
    found = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.stdout.strip() == str(installed / "cnntrain" / "conf")
    assert run(installed, tmp_path, "--help") == main.usage()
    assert run(installed, tmp_path, "--version") == f"cnntrain {cnntrain.__version__}\n"
    for command in ("describe", "fit"):
        shown = yaml.safe_load(run(installed, tmp_path, command, "--cfg", "job"))
        assert shown["model"]["name"]
        assert "hydra" not in shown
    assert not list(tmp_path.iterdir())


def test_installed_wheel_describes_a_network(installed: Path, tmp_path: Path) -> None:
    result = json.loads(run_json(installed, tmp_path, "describe", "model=softmax", "--json"))
    assert result["params"] == sum(stage["params"] for stage in result["stages"]) > 0
    assert not list(tmp_path.iterdir())


def run_json(installed: Path, folder: Path, *words: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "cnntrain", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


# The Makefile, with a Python that only notes what it is asked for.

PRETENDED = """#!/bin/sh
echo "$*" >> asked
case "$*" in
    "-c "*"${LACKING:-nothing}"*) exit 1;;
    "-m venv --clear .venv") rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python;;
    "-m pip install "*)
        [ -z "$OFFLINE" ] || exit 1
        printf '#!.venv/bin/python\\n' > .venv/bin/cnntrain
        chmod +x .venv/bin/cnntrain;;
    *cnntrain*) echo "cnntrain 1";;
esac
"""


@pytest.fixture
def clone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new clone on a machine whose Python is pretended."""
    if shutil.which("make") is None:
        pytest.skip("no make here")
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "pyproject.toml").touch()
    executable(folder / "bin" / "python3", PRETENDED)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("PYTHON", raising=False)
    for name in (
        "MAKEFLAGS",
        "MFLAGS",
        "MAKELEVEL",
    ):  # set by make test: a make within says where it is
        monkeypatch.delenv(name, raising=False)
    return folder


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def make(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("happens", "expected"),
    [
        (lambda clone: None, []),
        (lambda clone: os.utime(clone / ".venv/.installed", (1e9, 1e9)), ["pip"]),
        (lambda clone: (clone / ".venv/.installed").unlink(), ["pip"]),  # pip was interrupted
        (lambda clone: executable(clone / ".venv/bin/cnntrain", "#!/moved/away\n"), ["pip"]),
        (lambda clone: (clone / ".venv/bin/python").unlink(), ["venv", "pip"]),
        (lambda clone: executable(clone / ".venv/bin/python", "#!/bin/sh\nexit 1\n"), ["venv", "pip"]),  # no pip in it
    ],
    ids=["nothing", "new dependencies", "interrupted", "moved", "python removed", "python without pip"],
)
def test_make_mends_its_environment(happens: Callable[[Path], None], expected: list[str], clone: Path) -> None:
    first = make("fit")
    assert (first.returncode, first.stderr) == (0, "") and (clone / ".venv/.installed").exists()
    happens(clone)
    (clone / "asked").unlink()
    again = make("fit")
    assert (again.returncode, again.stderr) == (0, "")
    asked = [line.split() for line in (clone / "asked").read_text().splitlines()]
    assert [words[1] for words in asked if words[0] == "-m"] == expected
    assert "making the environment" in first.stdout and ("making the environment" in again.stdout) == bool(expected)


@pytest.mark.parametrize(
    ("words", "lacking", "reason"),
    [
        (["PYTHON=nopython"], "", "PYTHON=nopython "),
        ([], "(3, 11)", "Python 3.11"),
        ([], "ensurepip", "python3-venv"),
    ],
)
def test_make_says_in_one_line_why_a_python_will_not_do(
    words: list[str], lacking: str, reason: str, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LACKING", lacking)
    done = make("fit", *words)
    assert done.returncode == 2 and done.stdout == "" and not (clone / ".venv").exists()
    (line,) = done.stderr.splitlines()
    assert reason in line and "make PYTHON=python3.12 fit" in line


def test_make_without_a_network_says_how_to_try_again_and_does(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLINE", "1")
    done = make("test")
    assert done.returncode == 2 and done.stdout.endswith(" make test\n")
    monkeypatch.delenv("OFFLINE")
    assert make("fit").returncode == 0
