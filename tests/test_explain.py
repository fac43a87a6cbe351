"""`cnntrain explain`: attributions against arithmetic and captum, and what a study leaves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import Page, picture
from PIL import Image

from cnntrain.cli.main import main
from cnntrain.studies.explain.tiles import scale_of

Call = Callable[..., dict[str, Any]]


# --- colours


def test_zero_is_zero_and_what_lies_beyond_the_colours_is_said() -> None:
    values = np.linspace(-1, 3, 1000)
    scale = scale_of(values, "x", signed=True)
    assert 2.9 < scale.limit < 3 and scale.above and not scale.below
    assert scale_of(values, "x", signed=True, limit=0.5).below
    assert scale_of(np.zeros(3), "x", signed=False).limit == 1
    assert not scale_of(values, "x", signed=True, limit=4).above


# --- the command


@pytest.fixture
def run(cnntrain: Call, tiny: tuple[str, ...]) -> str:
    cnntrain("fit", *tiny, "trainer.epochs=1", "output_dir=run")
    return "run=run"


def test_a_study_leaves_a_page_pictures_tables_and_results(cnntrain: Call, run: str, folder: Path) -> None:
    found = cnntrain("explain", run, "what=occlusion", "images=3", "occlusion.stride=7", "output_dir=out")
    assert {"run_dir", "output_dir", "what", "pictures", "scores", "sanity"} <= set(found)
    assert found["what"] == "occlusion" and len(found["pictures"]) == 3
    assert all(Path(path).is_file() for path in found["pictures"])
    assert json.loads((folder / "out/results.json").read_text())["rows"]["occlusion"] == found["rows"]["occlusion"]
    assert (folder / "out/occlusion.csv").read_text().count("\n") == 4
    assert len(Page(folder / "out/report.html").all("svg")) == 3
    assert list((folder / "out/tensorboard").iterdir())


def test_one_picture_of_a_file_goes_where_it_is_asked_for(cnntrain: Call, run: str, folder: Path) -> None:
    picture(3, 20, 30).save("photo.png")
    found = cnntrain("explain", run, "what=occlusion", "images=photo.png", "output=map.png", "figures=slide")
    assert found["output_dir"] is None and found["pictures"] == ["map.png"]
    with Image.open(folder / "map.png") as written:
        assert written.size == (1920, 1080)
    assert found["rows"]["occlusion"][0]["true"] is None


def test_several_methods_stand_side_by_side_each_on_its_own_scale(cnntrain: Call, run: str, folder: Path) -> None:
    words = ["explain", run, "what=[occlusion,saliency]", "occlusion.stride=7", "tensorboard=false"]
    found = cnntrain(*words, "images=1", "output_dir=out")
    assert [Path(path).stem for path in found["pictures"]] == ["beside_001", "occlusion_001", "saliency_001"]
    page = (folder / "out/report.html").read_text()
    assert page.index("side by side") < page.index("A patch covers a part")
    beside = (folder / "out/figures/beside_001.svg").read_text()
    assert "fall of the probability" in beside and "slope of the logit at a pixel" in beside
    assert cnntrain(*words, "images=1", "output=both.png")["pictures"] == ["both.png"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["what=ocllusion"], "'occlusion'"),
        (["what=[]"], "occlusion"),
        (["what=cam"], "gradcam"),
        (["what=cam", "quantity=probability"], "quantity=logit"),
        (["what=occlusion", "target=true", "images=photo.png"], "target=predicted"),
        (["what=occlusion", "target=nothing"], "predicted"),
        (["what=occlusion", "images=no.png"], "no.png"),
        (["what=occlusion", "images=text.png"], "text.png"),
        (["what=occlusion", "occlusion.patch=28"], "14"),
        (["what=occlusion", "occlusion.patch=3", "occlusion.stride=4"], "3"),
        (["what=occlusion", "output=map.gif"], ".png"),
        (["what=occlusion", "output=map.png"], "images=1"),
        (["what=[occlusion,saliency,maps]", "images=1", "output=map.png"], "output_dir="),
        (["what=occlusion", "output=map.png", "output_dir=out"], "output_dir"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    words: list[str], said: str, run: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    picture(3, 20, 30).save("photo.png")
    (folder / "text.png").write_text("no image")
    before = sorted(folder.rglob("*"))
    capfd.readouterr()
    assert main(["explain", run, *words]) == 2
    assert said in capfd.readouterr().err
    assert sorted(folder.rglob("*")) == before
