"""The rules that the whole package keeps: imports point one way, and no configuration can name code."""

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import cnntrain
from cnntrain.cli import config_dir
from cnntrain.conform import signature
from cnntrain.data.augmentation import AUGMENTATIONS
from cnntrain.data.datasets import DATASETS
from cnntrain.models import MODELS
from cnntrain.optim import OPTIMIZERS, SCHEDULES

PACKAGE = Path(cnntrain.__file__).parent

# Each layer may import those below it and nothing beside it.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"configuration"},
    {"launch", "completion"},
    {"words", "manual"},
    {"catalog"},
    {"commands"},
    {"records"},
    {"config"},
    {"typed"},
    {"schema", "conform"},
    {"training", "analysis"},
    {"data", "models", "optim", "runs", "progress"},
    {"tables", "devices", "draws", "memory", "bounds", "errors", "files", "quiet", "ranks"}
    | {"processor", "plugins", "disk", "streams", "__init__"},
]
HYDRA = {"launch", "words", "commands", "config"}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module in ("cnntrain", "cnntrain.commands"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def level(room: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if room in layer)


@pytest.mark.parametrize(("room", "path"), list(modules()), ids=lambda value: str(value)[-30:])
def test_imports_point_downwards(room: str, path: Path) -> None:
    for name in imported(path):
        parts = name.split(".")
        target = parts[1] if parts[0] == "cnntrain" and len(parts) > 1 else room
        if target != room and any(target in layer for layer in LAYERS):  # else a name of the package itself
            assert level(target) > level(room) or room in LAYERS[-1], f"{path} imports {name}"
        if parts[0] in ("hydra", "omegaconf"):
            assert room in HYDRA, f"{path} imports {name}"


def test_every_room_has_its_layer() -> None:
    assert {room for room, _ in modules()} == set().union(*LAYERS)


def test_nothing_names_code_in_a_configuration() -> None:
    for path in [*config_dir().rglob("*.yaml"), *(path for room, path in modules() if room != "files")]:
        assert "_target_" not in path.read_text(), path


@pytest.mark.parametrize(
    ("group", "functions"),
    [
        ("model", MODELS),
        ("optimizer", OPTIMIZERS),
        ("schedule", SCHEDULES),
        ("dataset", {name: entry.read for name, entry in DATASETS.items()}),
    ],
)
def test_every_function_has_a_configuration_with_its_defaults(group: str, functions: dict[str, object]) -> None:
    files = {path.stem: yaml.safe_load(path.read_text()) for path in (config_dir() / group).glob("*.yaml")}
    shared = yaml.safe_load((config_dir() / "common" / "dataset.yaml").read_text()) if group == "dataset" else {}
    assert set(files) == set(functions)
    for name, options in files.items():
        own = signature(functions[name])  # type: ignore[arg-type]
        for key, parameter in own.items():
            default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
            given = {**shared, **options}[key]
            assert float(given) == default if isinstance(default, float) else given == default, f"{group}/{name}: {key}"


def test_every_recipe_lists_every_option_of_its_parts() -> None:
    for path in (config_dir() / "augmentation").glob("*.yaml"):
        for part, options in (yaml.safe_load(path.read_text()) or {}).items():
            assert set(options) == set(inspect.signature(AUGMENTATIONS[part]).parameters), f"{path.stem}: {part}"


def test_help_imports_neither_torch_nor_hydra() -> None:
    code = "import sys; from cnntrain.cli import main; main(['--help']); print([m for m in sys.modules if m in "
    code += "('torch', 'hydra', 'omegaconf', 'numpy', 'yaml')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
