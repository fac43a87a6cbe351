"""`cnntrain convert`: the map beside its windows, and what is left of a conversion."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cnntrain.cli.main import main
from cnntrain.data.storage.images import Pixels, Split
from cnntrain.nn.fully_convolutional import fully_convolutional
from cnntrain.runs.load import load_run
from cnntrain.studies.conversion.heatmaps import heatmap
from cnntrain.studies.conversion.study import mosaic, pooled

Call = Callable[..., dict[str, Any]]


def test_a_mosaic_lays_images_out_row_by_row() -> None:
    pixels = torch.arange(8 * 2 * 3).view(8, 2, 3, 1).to(torch.uint8)
    large = mosaic(Split(Pixels(pixels), torch.zeros(8, dtype=torch.int64)), 2, 2)
    assert large.shape == (2, 4, 6, 1)
    assert torch.equal(large[0, :2, :3], pixels[0]) and torch.equal(large[0, :2, 3:], pixels[1])
    assert torch.equal(large[1, 2:, 3:], pixels[7])
    with pytest.raises(ValueError, match="12 images"):
        mosaic(Split(Pixels(pixels), torch.zeros(8, dtype=torch.int64)), 2, 3)


def test_pooling_of_maps_takes_both_ends() -> None:
    maps = torch.tensor([[[[1.0, 5.0], [3.0, -7.0]]]])
    assert pooled(maps, 1) == 5 and pooled(maps, 2) == 4 and pooled(maps, 1, 1) == -2 and pooled(maps, 9) == 0.5


def test_a_network_without_padding_is_exact_and_saves_work(cnntrain: Call, folder: Path, tiny: tuple[str, ...]) -> None:
    cnntrain("fit", *tiny, "model=lenet5", "dataset.image_size=32", "output_dir=run")
    found = cnntrain("convert", "run=run", "tiles=[2]", "count=3")
    assert {"run_dir", "output_dir", "out_shape", "max_difference", "median_difference", "agreement"} <= set(found)
    assert found["max_difference"] < 1e-4 and found["agreement"] == 1 and found["macs"] < found["macs_windows"]
    kept = {path.name for path in (folder / "run/convert").iterdir()}
    assert kept == {"model.safetensors", "results.json", "report.html", "report.md"}


def test_too_few_images_and_networks_without_a_form_say_so(
    cnntrain: Call, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    cnntrain("fit", *tiny, "output_dir=run")
    assert main(["convert", "run=run", "tiles=[9]", "count=100"]) == 2
    assert "8100 images" in capfd.readouterr().err
    cnntrain("fit", *tiny, "model=lenet5_1998", "dataset.image_size=32", "output_dir=old")
    assert main(["convert", "run=old"]) == 2
    assert "'rbf'" in capfd.readouterr().err


def test_a_heat_map_finds_where_a_class_stands(cnntrain: Call, folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 200)):
        (folder / "images" / name).mkdir(parents=True)
        for i in range(30):
            Image.fromarray(rng.integers(low, low + 55, (16, 16), dtype=np.uint8)).save(
                folder / f"images/{name}/{i}.png"
            )
    words = (
        "dataset=folder",
        "dataset.root=images",
        "dataset.channels=1",
        "dataset.image_size=16",
        "augmentation=none",
    )
    cnntrain("fit", "model=softmax", *words, "trainer.epochs=5", "trainer.batch_size=8", "device=cpu", "output_dir=run")
    large = np.zeros((48, 64), dtype=np.uint8)
    large[:, 32:] = 230  # dark on the left, light on the right
    Image.fromarray(large).save("large.png")
    found = cnntrain("predict", "run=run", "images=large.png", "heatmap=true", "scales=[3]", "output_dir=out")
    assert found["heatmaps"][0]["file"] == "large.png" and (folder / "out/figures/heatmap_001.png").exists()
    page = (folder / "out/heatmaps.html").read_text()
    assert "large.png" in page
    net, info, _ = load_run(folder / "run", "best")
    maps = heatmap(fully_convolutional(net, info.shape), Path("large.png"), info, [3]).maps
    assert maps.shape == (2, 48, 64)
    assert maps[0, :, :16].min() > 0.5 and maps[1, :, 48:].min() > 0.5
    cnntrain("predict", "run=run", "images=large.png", "output_dir=plain")  # without: no page
    assert not (folder / "plain/heatmaps.html").exists()


def test_scales_that_are_too_small_and_networks_without_maps_are_refused(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (28, 28)).save("image.png")
    cnntrain("fit", *tiny, "output_dir=run")
    assert (
        cnntrain("predict", "run=run", "images=image.png", "heatmap=true", "scales=[0.5]", "output_dir=a")["heatmaps"]
        == []
    )
    cnntrain("fit", *tiny, "model=lenet5_1998", "dataset.image_size=32", "output_dir=old")
    assert main(["predict", "run=old", "images=image.png", "heatmap=true", "output_dir=b"]) == 2
    assert "'rbf' cannot be converted" in capfd.readouterr().err and not Path("b").exists()


@pytest.mark.parametrize("scales", ["[]", "[inf]", "[0.01]", "[900]"])
def test_scales_that_make_no_sense_leave_nothing_half_done(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], scales: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (28, 28)).save("image.png")
    cnntrain("fit", *tiny, "model=softmax", "output_dir=run")
    words = ["predict", "run=run", "images=image.png", "heatmap=true", f"scales={scales}", "output_dir=out"]
    code = main(words)
    err = capfd.readouterr().err
    assert "scale" in err and "Error" not in err
    assert (code, Path("out").exists()) == ((0, True) if scales in ("[0.01]", "[900]") else (2, False))


def test_images_one_pixel_wide_are_drawn_too(cnntrain: Call, tiny: tuple[str, ...]) -> None:
    Image.new("L", (300, 1), 200).save("thin.png")
    cnntrain("fit", *tiny, "model=softmax", "output_dir=run")
    found = cnntrain("predict", "run=run", "images=thin.png", "heatmap=true", "scales=[1]", "output_dir=out")
    assert len(found["heatmaps"]) <= 1


def test_a_conversion_without_mosaics_is_refused_before_anything(
    cnntrain: Call, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    cnntrain("fit", *tiny, "model=softmax", "output_dir=run")
    assert main(["convert", "run=run", "tiles=[]"]) == 2 and not Path("run/convert").exists()
    assert "tiles=" in capfd.readouterr().err
