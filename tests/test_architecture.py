"""The rules that the whole package keeps: imports point one way, and no configuration can name code."""

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml

import cnntrain
from cnntrain.cli.main import COMMANDS, config_dir
from cnntrain.config.validate import signature
from cnntrain.data.augment.augmentations import AUGMENTATIONS
from cnntrain.data.datasets.registry import DATASETS
from cnntrain.models import MODELS
from cnntrain.nn.stages import BuildOptions
from cnntrain.training.lr_schedules import SCHEDULES
from cnntrain.training.optimizers import OPTIMIZERS

PACKAGE = Path(cnntrain.__file__).parent

# Each room may import those below it and nothing beside it.
ROOMS = [
    {"api"},  # a file, the public interface
    {"cli"},
    {"commands"},
    {"studies"},
    {"report"},
    {"runs"},
    {"config"},
    {"training"},
    {"tasks"},
    {"models", "stats", "transforms"},
    {"data", "nn"},
    {"runtime"},
]
HYDRA = {"cli", "commands", "config"}


def modules() -> dict[str, Path]:
    """Return every file of the package by its dotted name."""
    files = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in sorted(files.items())}


MODULES = modules()


def imports(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """Yield what a file imports, by dotted name, each with the statement."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)


def module_of(name: str) -> str | None:
    """Return the file of the package that an imported name is, or lies in."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name if name not in ("", "cnntrain") else None


def room(name: str) -> str:
    """Return the room of a file; the package itself, and what starts it as a program, lie in none."""
    return "" if name in ("cnntrain", "cnntrain.__main__") else name.split(".")[1]


def level(name: str) -> int:
    return next(i for i, rooms in enumerate(ROOMS) if room(name) in rooms)


def arrows(name: str) -> set[str]:
    """Return the files of the package that a file imports."""
    return {goal for found, _ in imports(MODULES[name]) if (goal := module_of(found)) and goal != name}


@pytest.mark.parametrize("name", [name for name in MODULES if room(name)])
def test_imports_point_downwards(name: str) -> None:
    for goal in arrows(name):
        assert room(goal) == room(name) or level(goal) > level(name), f"{name} imports {goal}"
    for found, _ in imports(MODULES[name]):
        if found.split(".")[0] in ("hydra", "omegaconf"):
            assert room(name) in HYDRA, f"{name} imports {found}"


def test_every_room_has_its_level() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name not in ("conf", "__pycache__")}
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert rooms | files == set().union(*ROOMS)


def test_no_files_import_each_other_in_a_circle() -> None:
    TopologicalSorter({name: arrows(name) for name in MODULES if "." in name}).prepare()  # raises on a circle


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) not in ("", "cli")])
def test_no_import_is_made_late_to_hide_a_circle(name: str) -> None:
    tree = ast.parse(MODULES[name].read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {node.lineno for function in functions for node in ast.walk(function) if isinstance(node, ast.stmt)}
    assert not [goal for goal, node in imports(MODULES[name]) if module_of(goal) and node.lineno in inside]  # type: ignore[attr-defined]


def test_geometry_and_antialias_know_no_family() -> None:
    general = {f"cnntrain.nn.{name}" for name in ("composite", "measures", "shapes")}
    assert arrows("cnntrain.nn.geometry") <= general
    assert arrows("cnntrain.nn.antialias") <= general | {"cnntrain.nn.layers"}  # its blur, and the activations


def test_every_type_name_has_one_meaning() -> None:
    places: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text()).body:
            names = [node] if isinstance(node, ast.ClassDef) else getattr(node, "targets", [])
            for name in (getattr(each, "name", getattr(each, "id", "")) for each in names):
                if re.fullmatch(r"[A-Z]\w*[a-z]\w*", name):
                    places.setdefault(name, []).append(module)
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}


def test_the_commands_room_holds_exactly_the_commands() -> None:
    assert {path.stem for path in (PACKAGE / "commands").glob("*.py")} - {"__init__"} == set(COMMANDS)
    for name in COMMANDS:
        assert not [goal for goal in arrows(f"cnntrain.commands.{name}") if room(goal) == "commands"]


TASK_FREE = {"cli", "commands", "config", "data", "models", "nn", "report", "runs", "runtime", "training"}


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) in TASK_FREE])
def test_only_a_task_and_its_studies_name_its_headline(name: str) -> None:
    assert "top1" not in MODULES[name].read_text()


def test_the_cells_of_studies_know_no_study() -> None:
    """Variants, cells and the pool that makes them are for every study that trains."""
    for name in ("cells", "grid", "pool", "progress"):
        within = {goal.split(".")[2] for goal in arrows(f"cnntrain.studies.{name}") if room(goal) == "studies"}
        assert within <= {"cells", "grid", "pool", "progress"}


def test_nothing_names_code_in_a_configuration() -> None:
    for path in [
        *config_dir().rglob("*.yaml"),
        *(path for name, path in MODULES.items() if name != "cnntrain.config.files"),
    ]:
        assert "_target_" not in path.read_text(), path


@pytest.mark.parametrize(
    ("group", "functions"),
    [
        ("model", MODELS),
        ("optimizer", OPTIMIZERS),
        ("schedule", SCHEDULES),
        ("dataset", DATASETS),
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


def test_a_build_option_is_declared_once() -> None:
    shared = yaml.safe_load((config_dir() / "common" / "model.yaml").read_text())
    declared = {key: value for key, value in asdict(BuildOptions()).items() if key not in ("seed", "device", "words")}
    assert shared == declared
    for name, function in MODELS.items():
        options = yaml.safe_load((config_dir() / "model" / f"{name}.yaml").read_text())
        assert options["defaults"] == ["/common/model@_here_", "_self_"]
        assert not shared.keys() & {*options, *signature(function)}, name


def test_every_recipe_lists_every_option_of_its_parts() -> None:
    for path in (config_dir() / "augmentation").glob("*.yaml"):
        for part, options in (yaml.safe_load(path.read_text()) or {}).items():
            assert set(options) == set(inspect.signature(AUGMENTATIONS[part]).parameters), f"{path.stem}: {part}"


def test_help_imports_neither_torch_nor_hydra() -> None:
    code = "import sys; from cnntrain.cli.main import main; main(['--help']); print([m for m in sys.modules if m in "
    code += "('torch', 'hydra', 'omegaconf', 'numpy', 'yaml')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
