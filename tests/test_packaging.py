"""The wheel: it holds the configuration and works away from the checkout."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import cnntrain
from cnntrain import cli

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


def test_source_distribution_is_enough_to_test(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "conf/fit.yaml", "tests/test_packaging.py"} <= names


def test_installed_wheel_works_from_another_folder(installed: Path, tmp_path: Path) -> None:
    where = "import cnntrain.cli, sys; print(cnntrain.cli.config_dir())"
    environment = os.environ | {"PYTHONPATH": str(installed)}
    found = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.stdout.strip() == str(installed / "cnntrain" / "conf")
    assert run(installed, tmp_path, "--help") == cli.usage()
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
