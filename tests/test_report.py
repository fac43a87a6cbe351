"""The report: one page that needs nothing beside itself, escapes whatever it shows, and fits every screen."""

import base64
import contextlib
import html
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import torchvision
from made import Page, create_model
from PIL import Image

from cnntrain.cli.main import main
from cnntrain.commands.eval import show
from cnntrain.config.build import build_rates
from cnntrain.data.storage.images import DatasetInfo
from cnntrain.report import svg
from cnntrain.report.document import Details, Panels, Paragraph, Table
from cnntrain.report.epochs import epoch_means, gradient_norms
from cnntrain.report.gradients import gradient_blocks
from cnntrain.report.run import facts, layer_blocks, rates, title
from cnntrain.stats.metrics import classification
from cnntrain.training import pictures

Call = Callable[..., dict[str, Any]]
ROOT = Path(__file__).resolve().parents[1]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory, tiny: tuple[str, ...]) -> Path:
    """A run that makes mistakes, with its evaluation and its page."""
    with contextlib.chdir(tmp_path_factory.mktemp("reported")):
        assert main(["fit", *tiny, "output_dir=run"]) == 0
        assert main(["report", "run=run"]) == 0
        return Path("run").absolute()


@pytest.fixture
def report(reported: Path, folder: Path) -> Path:
    """The page of a run that makes mistakes, in the working folder."""
    return Path(shutil.copytree(reported, "run"), "report.html")


def test_a_report_shows_what_was_measured(report: Path, cnntrain: Call) -> None:
    found, page = cnntrain("eval", "run=run"), Page(report)
    assert report == Path("run/report.html")
    assert f"{100 * found['top1']:.2f} % (95 % interval" in page.text and "n = 48" in page.text
    claim = f"test top-1 {100 * found['top1']:.2f} % (95 % interval"
    assert re.search(r"<title>(.*)</title>", report.read_text())[1].startswith(f"lenet5 on synthetic: {claim}")  # type: ignore[index]
    for word in ("trainer.epochs", "conv1", "Learning rate", "grating3", "fingerprint"):
        assert word in page.text, word
    again = page.text.rpartition("To repeat it:")[2].strip().splitlines()
    assert again[0].startswith("cnntrain fit model=lenet5 dataset=synthetic") and "seed=0" in again[0]
    assert "output_dir" not in again[0] and again[1] == "cnntrain eval run=latest split=test weights=best"
    assert len(page.all("svg")) == 4
    pictures = [element["src"] for element in page.all("img")]
    wrong = round(48 * (1 - found["top1"]))
    assert len(pictures) == min(24, wrong) + 6  # mistakes and the kernels of conv1
    shown = Image.open(io.BytesIO(base64.b64decode(str(pictures[0]).partition(",")[2])))
    assert shown.size == (28, 28)


def test_a_report_reaches_for_nothing(report: Path) -> None:
    page, text = Page(report), report.read_text()
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "xlink:href"):
            if value := attributes.get(name):
                assert value.startswith(("data:image/png;base64,", "#")), value
    addresses = set(re.findall(r"https?://[^\s\"'<]+", text))
    assert addresses == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names, never fetched
    assert not re.search(r"url\((?!#)|@import", text)


def test_names_cannot_become_markup(cnntrain: Call, folder: Path) -> None:
    names = ["<script>alert(1)<", "<img src=x onerror=alert(1)>", 'a"b&amp;$c$']
    generator = np.random.default_rng(0)
    for part, many in (("train", 12), ("test", 6)):
        for name in names:
            place = folder / "photos" / part / name
            place.mkdir(parents=True)
            for i in range(many):
                Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(place / f"{i}.png")
    words = ["dataset.root=photos", "dataset.image_size=16", "augmentation=none", "trainer.epochs=1"]
    cnntrain("fit", "model=softmax", "dataset=folder", *words, "trainer.batch_size=8", "output_dir='<b>run'")
    page = Page(Path(cnntrain("report", "run='<b>run'")["report"]))
    assert not page.all("script") and not page.all("b") and not [e for e in page.all("img") if "onerror" in e]
    assert all(name in page.text for name in names) and "<b>run" in page.text
    assert {element.get("title") for element in page.all("div")} >= set(names)


def test_the_page_goes_where_it_is_asked_to(
    report: Path, cnntrain: Call, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = cnntrain("report", "run=run", "output=page.html", "split=val", "weights=last")
    assert set(found) == {"run_dir", "report", "split", "weights", "n", "top1", "top1_low", "top1_high"}
    assert (found["report"], found["n"]) == ("page.html", 10) and "last weights" in (folder / "page.html").read_text()
    (folder / "study").mkdir()
    (folder / "study" / "report.md").write_text("")
    for words, reason in (
        (["run=run", "output=study/report.html"], "study/report.md"),
        (["run=run", "output=no/page.html"], "the folder no "),
        (["run=run", "output=run"], "output=run"),
        (["run=nowhere"], "run=nowhere"),
        (["run=run", "split=tset"], "split=test"),
    ):
        assert main(["report", *words]) == 2
        assert reason in capfd.readouterr().err


def test_a_report_evaluates_once_and_again_when_the_weights_change(
    report: Path, cnntrain: Call, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    cnntrain("fit", *tiny, "seed=1", "output_dir=other")
    assert main(["report", "run=run"]) == 0
    assert "evaluating" not in capfd.readouterr().err
    shutil.copy("other/checkpoints/best.pt", "run/checkpoints/best.pt")
    assert main(["report", "run=run"]) == 0
    assert "evaluating run" in capfd.readouterr().err
    assert f"loss</dt><dd>{cnntrain('eval', 'run=other')['loss']:.4f}<" in report.read_text()


def test_changed_images_are_not_shown_beside_old_predictions(report: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = json.loads(Path("run/config.json").read_text())
    config["dataset"]["test_images"] = 60
    Path("run/config.json").write_text(json.dumps(config))
    assert main(["report", "run=run"]) == 2
    assert re.search("images .* run ", capfd.readouterr().err)


def test_what_the_words_changed_is_listed_and_nothing_else(cnntrain: Call, folder: Path, tiny: tuple[str, ...]) -> None:
    cnntrain("fit", *tiny, "model=mlp", "model.hidden=[12]", "dataset.val_size=0", "output_dir=run")
    page = Page(Path(cnntrain("report", "run=run")["report"]))
    expected = {
        "augmentation",
        "model.name",
        "model.hidden",
        "dataset.name",
        "dataset.train_images",
        "dataset.test_images",
    }
    expected |= {"dataset.val_size", "trainer.epochs", "trainer.batch_size", "trainer.tensorboard", "device"}
    assert set(re.findall(r"<td><code>([\w.]+)</code>", (folder / "run" / "report.html").read_text())) == expected
    assert "12 templates of fc1" in page.text  # 784 weights each, shown as pictures
    assert "validation" not in page.text  # there is no curve of it


def test_epochs_are_means_over_their_steps() -> None:
    records = [
        {"step": 4, "epoch": 1, "loss": 1.0},
        {"step": 6, "epoch": 1, "loss": 4.0},
        {"step": 12, "epoch": 2, "loss": 0.5},
    ]
    assert epoch_means(records, "loss") == [(1.0, 2.0), (2.0, 0.5)]


def test_gradients_of_an_epoch_are_means_over_its_steps_and_a_page_shows_the_first_and_the_last() -> None:
    records = [
        {"kind": "train", "step": 4, "epoch": 1, "gradients": {"conv1": 1e-8, "fc2": 1.0}},
        {"kind": "train", "step": 6, "epoch": 1, "gradients": {"conv1": 4e-8, "fc2": 4.0}},
        {"kind": "val", "step": 6, "epoch": 1},
        {"kind": "train", "step": 12, "epoch": 2, "gradients": {"conv1": None, "fc2": 0.5}},
    ]
    assert gradient_norms(records) == {1: {"conv1": pytest.approx(2e-8), "fc2": pytest.approx(2.0)}, 2: {"fc2": 0.5}}
    _, panels, details = gradient_blocks(records)
    assert isinstance(panels, Panels) and panels.figures[0].drawing.startswith("<svg")
    assert ">1e-08<" in panels.figures[0].drawing, "the axis has its numbers as text"
    assert isinstance(details, Details) and isinstance(details.blocks[0], Table)
    assert [row["epoch 2"] for row in details.blocks[0].rows] == [None, 0.5]
    assert not gradient_blocks([{"kind": "train", "step": 4, "epoch": 1}])


SCHEDULE = {"name": "cosine", "end": 0.0, "warmup": 1.0}
HALF = {"optimizer": {"lr": 0.1}, "schedule": SCHEDULE, "trainer": {"epochs": 4}}


def test_the_learning_rate_is_known_at_every_step_of_an_epoch_that_was_recorded_once() -> None:
    planned = build_rates(SCHEDULE, 0.1, 4, 6)
    ended = {"step": 6, "epoch": 1, "lr": planned[5], "seconds": 1.0}
    stopped = {"step": 9, "epoch": 2, "lr": planned[8]}
    assert rates([ended, stopped], HALF) == list(zip(range(1, 10), planned, strict=False))
    assert len(rates([ended, stopped], HALF, most=5)) == 5
    assert rates([ended, stopped | {"lr": 0.5}], HALF) == [(6, planned[5]), (9, 0.5)]  # of another schedule
    assert rates([ended], HALF | {"schedule": {"name": "of_a_plugin"}}) == [(6, planned[5])]
    assert rates([stopped], HALF) == [(9, planned[8])]  # epochs of unknown length
    assert rates([], HALF) == []


def test_a_page_is_named_after_the_network_and_its_images() -> None:
    def named(model: dict[str, Any], name: str, called: str = "") -> str:
        info = DatasetInfo(name, ("a", "b"), (3, 8, 8), (0.5,) * 3, (0.5,) * 3, called=called)
        return title({"model": model}, info)

    assert named({"name": "lenet5", "remove": ["conv2", "fc3"]}, "digits") == "lenet5 without conv2, fc3 on digits"
    assert named({"name": "timm", "arch": "vgg11"}, "folder", called="ants bees") == "timm vgg11 on ants bees"
    assert named({"name": "mlp"}, "folder") == "mlp on folder"
    assert named({"name": "mlp"}, "imagenette") == "mlp on imagenette"


@pytest.mark.parametrize("classes", [2, 5, 6])
def test_five_of_five_classes_are_no_top_five(
    classes: int, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    info = DatasetInfo("x", tuple(map(str, range(classes))), (3, 8, 8), (0.5,) * 3, (0.5,) * 3)
    monkeypatch.setattr("cnntrain.runs.records.record", lambda folder: {})
    monkeypatch.setattr("cnntrain.commands.eval.read_info", lambda record: info)
    logits = torch.randn(12, classes, generator=torch.Generator().manual_seed(0))
    found = classification(logits, torch.arange(12) % classes, [str(i) for i in range(classes)])
    facts_of = facts(torch.nn.Identity(), found, {"data": {"images": {"train": 1}}}, "image")
    show({"split": "test", "run_dir": "run"} | found, folder, folder)
    assert "top5" in found
    assert ("top-5" in facts_of) == ("top-5" in capsys.readouterr().out) == (classes > 5)


@pytest.mark.parametrize("arch", ["squeezenet1_1", "resnet18"])
def test_layers_of_another_library_are_listed(arch: str) -> None:
    """SqueezeNet is known to the last stage but its Fire modules; all parameters are in some row."""
    info = DatasetInfo("x", ("a", "b", "c"), (3, 64, 64), (0.5,) * 3, (0.5,) * 3)
    explained, table = layer_blocks({"model": {"name": "torchvision", "arch": arch, "weights": "default"}}, info)
    assert isinstance(table, Table) and isinstance(explained, Paragraph)
    assert list(table.rows[0]) == ["stage", "output", "parameters", "MACs", "FLOPs", "activations kB"]
    assert "without receptive fields" in str(explained.text)
    expected = sum(p.numel() for p in torchvision.models.get_model(arch, num_classes=3).parameters())
    assert f"{expected:,} parameters" in str(explained.text)
    assert sum(stage["parameters"] for stage in table.rows if isinstance(stage["parameters"], int)) == expected


# Drawings.


def labels(drawing: str) -> list[str]:
    return re.findall(r"<text [^>]*>([^<]*)</text>", drawing)


def test_drawings_are_whole_elements_in_the_colours_of_the_page() -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet([0.5] * 4, size=50)
    drawings = [
        svg.curves({"training": [(1.0, 2.0), (2.0, 1.0)], "validation": [(1.0, 0.0)]}, "Loss", "epoch", "log"),
        svg.curves({"training": []}, "Top-1", "epoch", "share"),
        svg.reliability(probabilities, generator.integers(4, size=50)),
    ]
    for drawing in drawings:
        assert ElementTree.fromstring(drawing).tag.endswith("svg")  # noqa: S314
        assert "currentColor" in drawing and not [colour for colour in svg.COLOURS if colour in drawing]
    assert "validation" in drawings[0]
    page = "".join(drawings)
    names = re.findall(r' id="([^"]*)"', page)
    assert len(names) == len(set(names)) and set(re.findall(r'(?:href="|url\()#([^")]*)', page)) <= set(names)
    once, twice = (svg.curves({"a": [(0.0, 1.0)]}, "x", "step") for _ in range(2))
    assert once == twice


@pytest.mark.parametrize(
    ("scale", "values", "axis"),
    [
        ("share", (0.112, 0.154), ["8 %", "10 %", "12 %", "14 %", "16 %", "18 %"]),
        ("share", (1.0, 1.0), ["90 %", "92 %", "94 %", "96 %", "98 %", "100 %"]),
        ("share", (0.0, 0.0), ["0 %", "2 %", "4 %", "6 %", "8 %", "10 %"]),
        ("log", (2.305, 2.288), ["0", "0.5", "1", "1.5", "2"]),
        ("log", (0.0, 0.0), ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        ("log", (30.0, 0.9), ["1", "2", "5", "10", "20"]),
    ],
)
def test_one_epoch_is_a_dot_on_axes_that_can_be_read(
    scale: svg.AxisScale, values: tuple[float, float], axis: list[str]
) -> None:
    lines = {name: [(1.0, value)] for name, value in zip(("training", "validation"), values, strict=True)}
    drawing = svg.curves(lines, "x", "epoch", scale)
    shown = labels(drawing)
    assert shown[:2] == ["0", "1"] and shown[2] == "epoch"
    assert [text for text in shown[3:-2] if text != "logarithmic"] == axis
    assert drawing.count("<use ") >= len(shown[:2]) + len(axis) + 2  # a tick each, and the dots


def test_a_bin_of_few_images_is_faint_and_says_how_many_there_are() -> None:
    sure = np.repeat([0.95, 0.75, 0.55], [40, svg.FEW, svg.FEW - 1])
    probabilities, labelled = np.stack([sure, 1 - sure], axis=1), np.zeros(len(sure), dtype=int)
    drawing = svg.reliability(probabilities, labelled)
    assert {"40", "20", "19"} <= set(labels(drawing))
    assert "opacity: 0.35" in drawing
    assert "opacity: 0.35" not in svg.reliability(probabilities[:60], labelled[:60])
    assert "12k" in labels(svg.reliability(np.full((12_345, 1), 1.0), np.zeros(12_345, dtype=int)))


def test_the_surest_mistakes_come_first() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.05, 0.95], [0.6, 0.4]])
    labels = np.array([0, 1, 0, 0, 1])
    assert pictures.worst_mistakes(probabilities, labels) == [3, 1, 2, 4]
    assert pictures.worst_mistakes(probabilities, labels, most=2) == [3, 1]
    assert pictures.worst_mistakes(np.eye(2), np.arange(2)) == []


def test_weights_are_shown_where_they_are_pictures() -> None:
    for name, shape, kind, size in (
        ("lenet5", (1, 28, 28), "kernels", (6, 1, 5, 5)),
        ("resnet20", (3, 32, 32), "kernels", (16, 3, 3, 3)),
        ("all_cnn", (3, 32, 32), "kernels", (96, 3, 3, 3)),  # behind dropout
        ("softmax", (1, 28, 28), "templates", (10, 1, 28, 28)),
        ("mlp", (3, 8, 9), "templates", (300, 3, 8, 9)),
    ):
        net = create_model(name, shape, 10)
        found = pictures.first_filters(net, shape)
        assert found is not None and (found[1], found[2].shape) == (kind, size)
        assert pictures.first_filters(net, (2, 28, 28)) is None
        assert {pictures.weight_picture(weight).dtype for weight in found[2]} == {np.dtype(np.uint8)}
    grey = pictures.weight_picture(np.array([[[0.0, 0.5], [-0.5, 0.25]]]))
    assert grey[0, 0].tolist() == [255, 255, 255] and grey[0, 1, 0] > grey[0, 1, 2] and grey[1, 0, 2] > grey[1, 0, 0]
    assert pictures.weight_picture(np.zeros((3, 2, 2))).tolist() == [[[128] * 3] * 2] * 2


def test_a_heat_picture_has_the_rows_of_the_matrix() -> None:
    picture = pictures.heat_picture(np.array([[4, 0], [1, 3]]))
    assert picture.shape == (2, 2, 4) and picture[0, 0, 3] == 255 and picture[0, 1, 3] == 0
    assert picture[1, 0, 3] == 128 and (picture[0, 0, :3] != picture[1, 0, :3]).any()


def test_template_and_style_sheet_are_packaged() -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel")
    included = {file.distribution_path for file in wheel.WheelBuilder(str(ROOT)).recurse_included_files()}
    assert {"cnntrain/report/page.html.jinja", "cnntrain/report/page.css"} <= included


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [360, 400, 1400])
def test_no_part_of_the_page_scrolls_sideways(report: Path, folder: Path, width: int) -> None:
    frame = (
        f'<iframe style="border:0;width:{width}px;height:900px" srcdoc="{html.escape(report.read_text())}"></iframe>'
    )
    script = (
        "onload = () => { const page = document.querySelector('iframe').contentDocument;"
        "const broken = [...page.images].filter(image => !image.naturalWidth).length;"
        "const hidden = box => box.scrollWidth - box.clientWidth;"
        "const boxes = [page.documentElement, ...page.querySelectorAll('.scroll')];"
        "document.title = [Math.max(...boxes.map(hidden)), page.images.length, broken].join(' '); }"
    )
    (folder / "frame.html").write_text(f'<meta charset="utf-8">{frame}<script>{script}</script>', encoding="utf-8")
    command = [str(BROWSER), *QUIET, f"--user-data-dir={folder / 'profile'}", "--window-size=1500,1000"]
    command += ["--virtual-time-budget=5000", "--dump-dom", (folder / "frame.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r"<title>(\d+) (\d+) (\d+)</title>", done.stdout)
    assert found, done.stderr[-2000:]
    hidden, images, broken = map(int, found.groups())
    assert hidden == 0 and images > 6 and broken == 0
