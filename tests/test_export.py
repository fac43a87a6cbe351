"""Exported networks: read by other programs, they give the run's own logits; and `cnntrain env`."""

import hashlib
import importlib.metadata
import importlib.util
import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made import create_model
from torch import Tensor

from cnntrain.cli.main import main
from cnntrain.commands import env
from cnntrain.data.storage.images import DatasetInfo
from cnntrain.runs.export import FORMATS, TOLERANCE, largest_difference
from cnntrain.runs.load import load_run
from cnntrain.training import checkpoints

Call = Callable[..., dict[str, Any]]
ROOT = Path(__file__).resolve().parents[1]
FACTS = {
    *("model", "classes", "shape", "mean", "std", "input", "output", "dataset", "weights", "cnntrain", "commit"),
}


@pytest.fixture
def run(cnntrain: Call, folder: Path, tiny: tuple[str, ...]) -> Path:
    """A finished run whose network lacks a stage and is no default."""
    cnntrain("fit", *tiny, "model.remove=[fc3]", "model.pool=avg", "trainer.epochs=1", "output_dir=run")
    return folder / "run"


def logits(run: Path, x: Tensor, weights: str = "best") -> Tensor:
    with torch.inference_mode():
        return load_run(run, weights)[0](x)


def images(count: int) -> Tensor:
    return torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(count))


def test_safetensors_hold_the_weights_and_what_rebuilds_the_network(cnntrain: Call, run: Path) -> None:
    from safetensors import safe_open

    found = cnntrain("export", "run=run", "format=safetensors", "weights=last")
    assert set(found) == {"run_dir", "format", "weights", "output", "bytes", "sha256", "max_difference"}
    path = Path(found["output"])
    assert path == Path("run/export/lenet5.safetensors") and found["max_difference"] == 0
    assert found["bytes"] == path.stat().st_size
    assert found["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    with safe_open(path, framework="pt") as file:
        facts = {key: json.loads(text) for key, text in file.metadata().items() if key != "format"}
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert set(facts) == FACTS
    assert facts["classes"] == [f"grating{i}" for i in range(10)] and facts["shape"] == [1, 28, 28]
    settings = json.loads((run / "config.json").read_text())["model"]
    assert facts["model"] == settings and (settings["pool"], settings["remove"]) == ("avg", ["fc3"])
    kept = checkpoints.load(run / "checkpoints" / "last.pt")["model"]
    assert weights.keys() == kept.keys() and all(torch.equal(weights[key], kept[key]) for key in kept)
    net = create_model("lenet5", tuple(facts["shape"]), len(facts["classes"]), pool="avg", remove=["fc3"])
    net.load_state_dict(weights)
    assert torch.equal(net.eval()(images(2)), logits(run, images(2), "last"))


def test_pt2_runs_without_this_package_for_any_batch(cnntrain: Call, run: Path) -> None:
    assert cnntrain("export", "run=run", "format=pt2", "output=out/net.pt2")["max_difference"] <= 1e-6
    extra = {"metadata.json": ""}
    program = torch.export.load("out/net.pt2", extra_files=extra).module()
    for count in (1, 2, 7):
        torch.testing.assert_close(program(images(count)), logits(run, images(count)))
    facts = json.loads(extra["metadata.json"])
    assert set(facts) == FACTS and json.loads(facts["mean"]) == [0.5]
    assert [path.name for path in Path("out").iterdir()] == ["net.pt2"]


def test_onnx_agrees_with_another_runtime(cnntrain: Call, run: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    found = cnntrain("export", "run=run", "format=onnx")
    assert found["max_difference"] <= 1e-5 and found["output"].endswith("lenet5.onnx")
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(found["output"], providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert set(facts) >= FACTS and json.loads(facts["classes"])[9] == "grating9"
    for count in (1, 5):
        (mine,) = session.run(["logits"], {"images": images(count).numpy()})
        np.testing.assert_allclose(mine, logits(run, images(count)), atol=1e-5)


@pytest.mark.parametrize("name", ["lenet5_1998", "resnet20"])
@pytest.mark.parametrize("form", ["pt2", "onnx"])
def test_connection_tables_and_shortcuts_can_be_exported(name: str, form: str, tmp_path: Path) -> None:
    if form == "onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxscript")
    info = DatasetInfo("drawn", tuple("0123456789"), (1, 28, 28), (0.3,), (0.3,))
    net = create_model(name, info.shape, 10).eval()
    write, read = FORMATS[form]
    (tmp_path / f"net.{form}").write_bytes(write(net, info, {"name": json.dumps(name)}))
    difference = largest_difference(net, read(tmp_path / f"net.{form}"), info)
    assert difference < TOLERANCE


def test_a_file_that_computes_something_else_is_not_kept(
    cnntrain: Call, run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write, read = FORMATS["safetensors"]
    for change in (lambda out: out + 2e-4, lambda out: out * float("nan")):
        other = lambda path, change=change: lambda x: change(read(path)(x))  # noqa: E731
        monkeypatch.setitem(FORMATS, "safetensors", (write, other))
        assert main(["export", "run=run", "format=safetensors"]) == 1
        assert "gives other results" in capfd.readouterr().err
        assert not list((run / "export").iterdir())


def test_onnx_without_its_packages_says_what_to_install(
    run: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "onnxscript" else real(name, *more)
    )
    line = refused("export", "run=run", "format=onnx")
    assert "onnxscript" in line and "pip install 'cnntrain[onnx]'" in line


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["run=nowhere"], ["run=nowhere"]),
        (["run=run", "format=torchscript"], ["format="]),
        (["run=run", "format=onxx"], ["'format=onnx'"]),
        (["run=run", "format=pt2", "output=net.onnx"], ["output=net.onnx", ".pt2"]),
        (["run=run", "wieghts=last"], ["'weights'"]),
    ],
)
def test_bad_words_are_refused(run: Path, refused: Callable[..., str], words: list[str], parts: list[str]) -> None:
    line = refused("export", *words)
    assert all(part in line for part in parts), line


def test_env_names_everything_a_report_needs(
    cnntrain: Call, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_SCHEDULE", "static")
    monkeypatch.setenv("SECRET_TOKEN", "hush")
    found = cnntrain("env", "data_root=data")
    assert found["versions"]["torch"] == importlib.metadata.version("torch")
    assert found["python"] == sys.version.split()[0] and found["cores"] >= 1 and found["usable_cores"] >= 1
    assert found["memory_gib"] is None or found["memory_gib"] > 0.1
    assert found["environment"]["OMP_SCHEDULE"] == "static" and "hush" not in json.dumps(found)
    where = found["data_root"]
    assert (where["path"], where["exists"], where["writable"]) == (str(folder / "data"), False, True)
    assert where["free_gib"] > 0 and not list(folder.iterdir())
    assert main(["env"]) == 0
    out = capfd.readouterr().out
    assert "torch " in out and "data_root writable" in out and "hush" not in out
    (folder / "file").touch()
    assert not cnntrain("env", "data_root=file/inside")["data_root"]["writable"]


def test_env_knows_every_package_that_the_project_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["onnx"]]
    assert {word.split(">")[0] for word in wanted} <= set(env.PACKAGES)
