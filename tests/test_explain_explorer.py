"""`cnntrain explain what=all`: one page to click through, in a real browser, and what is refused on the way."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import TINY, Page

from cnntrain.cli.main import main
from cnntrain.report.document import Document, PageView, PageViews, Paragraph, Section
from cnntrain.report.html import as_html
from cnntrain.report.text import as_markdown
from cnntrain.studies.explain.tiles import ColourScale, Tile, scale_words, tile_pixels

Call = Callable[..., dict[str, Any]]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FAST = ["maximise.steps=2", "maximise.starts=1", "search=20", "smoothgrad.samples=2", "integrated.steps=2"]


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study of all methods."""
    folder = tmp_path_factory.mktemp("explored")
    words = ["explain", "run=run", "what=all", "images=2", "stages=[conv1,conv2,fc5]", "units=2", *FAST]
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        assert main(["fit", *TINY, "trainer.epochs=1", "output_dir=run"]) == 0
        assert main([*words, "neighbours=3", "occlusion.stride=7", "output_dir=out"]) == 0
    return folder / "out"


def test_all_methods_show_the_same_units_and_what_is_refused_is_said(explored: Path) -> None:
    results = json.loads((explored / "results.json").read_text())
    rows = results["rows"]
    assert {"filters", "maps", "patches", "deconvnet", "maximise", "neighbours", "saliency"} <= set(rows)
    assert not {"cam", "attention"} & set(rows)
    page = Page(explored / "report.html")
    assert "model.attention=true" in page.text and "gradcam" in rows  # instead of what is refused
    views = [element["id"] for element in page.all("article")]
    assert views[:3] == ["view-images-1", "view-images-2", "view-conv1-all"]
    assert {f"view-{stage}-{unit}" for stage, unit in (("conv1", 0), ("conv1", 5), ("conv2", 15), ("fc5", 9))} <= set(
        map(str, views)
    )
    links = {str(element["href"]) for element in page.all("a")}
    assert links == {f"#{view}" for view in views} and not page.all("script")
    shown = (explored / "report.html").read_text().partition('id="view-conv2-0"')[2].partition("</article>")[0]
    titles = re.findall(r'<strong class="name" title="(\w+)"', shown)
    assert titles == ["filters", "maps", "patches", "deconvnet", "maximise"]


def test_every_picture_is_a_file_too_and_in_tensorboard(explored: Path) -> None:
    results = json.loads((explored / "results.json").read_text())
    pictures = [Path(path) for path in results["pictures"]]
    assert {path.stem.partition("_")[0] for path in pictures} == set(results["rows"])  # of every method that answered
    assert {path.name for path in (explored / "figures").iterdir()} == {path.name for path in pictures}
    (events,) = (explored / "tensorboard").iterdir()
    assert all(f"explain/{path.stem}".encode() in events.read_bytes() for path in pictures)
    assert (explored / "report.html").read_text().count("<svg") == 0  # the page has their tiles


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_click_shows_one_view_and_marks_its_link(explored: Path, folder: Path) -> None:
    page = (explored / "report.html").read_text()
    script = """onload = async () => {
      const page = document, told = [];
      const tell = () => {
        const views = [...page.querySelectorAll('.view')].filter(view => view.offsetHeight);
        const plain = getComputedStyle(page.querySelector('.steps a')).backgroundColor;
        const marked = [...page.querySelectorAll('.views a')].filter(
          link => getComputedStyle(link).backgroundColor != plain);
        told.push(views.map(view => view.id) + '=' + marked.map(link => link.hash.slice(1)));
      };
      const click = async link => { link.click(); await new Promise(done => setTimeout(done, 50)); tell(); };
      tell();
      await click(page.querySelector('.views a[href="#view-conv2-15"]'));
      await click(page.querySelector('#view-conv2-15 .steps a'));
      await click([...page.querySelectorAll('#view-conv2-0 .steps a')].pop());
      await click(page.querySelector('.views a[href="#view-images-2"]'));
      told.push([...page.images].filter(image => !image.naturalWidth).length);
      document.title = told.join(' ');
    };"""
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', page)
    assert policy  # it forbids scripts, also this one
    probed = page.replace(policy[0], "").replace("</body>", f"<script>{script}</script></body>")
    (folder / "probed.html").write_text(probed, encoding="utf-8")
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run(
        [*command, (folder / "probed.html").as_uri()], capture_output=True, text=True, timeout=120, check=False
    )
    told = re.search(r"<title>(.*)</title>", done.stdout)
    assert told, done.stderr[-2000:]
    *shown, broken = told[1].split()
    expected = ["images-1", "conv2-15", "conv2-0", "conv2-15", "images-2"]
    assert shown == [f"view-{name}=view-{name}" for name in expected] and broken == "0"


def test_views_follow_each_other_where_nothing_can_be_clicked() -> None:
    views = PageViews(
        [PageView("a b", "1", "first <of all>", [Paragraph("one")]), PageView("c", "2", "second", [Paragraph("two")])]
    )
    document = Document("Title", "", [], [Section("PageViews", [views])])
    assert re.findall(r"### (.*)|^(one|two)$", as_markdown(document), re.MULTILINE) == [
        ("first <of all>", ""),
        ("", "one"),
        ("second", ""),
        ("", "two"),
    ]
    page = as_html(document)
    assert 'id="view-a-b-1"' in page and 'href="#view-a-b-1"' in page and "<of all>" not in page


def test_a_tile_is_painted_by_its_scale_and_blended_over_its_image() -> None:
    signed = ColourScale("x", 2.0, signed=True)
    painted = tile_pixels(Tile("", np.array([[-2.0, 0, 2, np.nan]]), signed))
    blue, white, red, nothing = painted[0].tolist()
    assert blue[2] > 90 > blue[0] and red[0] > 90 > red[2] and min(white) > 240 and nothing[3] == 0
    grey = np.full((1, 2, 1), 100, dtype=np.uint8)
    assert (tile_pixels(Tile("", grey))[0, 0] == [100, 100, 100, 255]).all()
    blended = tile_pixels(Tile("", np.array([[0.0, 2.0]]), signed, grey, strength=0.5))[0]
    assert blended[0].tolist() == [100, 100, 100, 255]
    np.testing.assert_allclose(blended[1, :3], (np.array(red[:3]) + 100) / 2, atol=1)
    colours = tile_pixels(Tile("", np.array([[[0.0, 2, -2], [np.inf] * 3]]), signed))[0]
    assert colours[:, :3].tolist() == [[128, 255, 0], [255, 255, 255]]
    assert scale_words(signed, np.zeros((1, 1))).startswith("x") and "2" in scale_words(signed, np.zeros((1, 1)))
