"""`cnntrain convert`: the map beside its windows, and what is left of a conversion."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cnntrain.cli.main import main
from cnntrain.data.storage.images import Pixels, Split
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
    assert "100 mosaics of 9×9 need 8100 images" in capfd.readouterr().err
    cnntrain("fit", *tiny, "model=lenet5_1998", "dataset.image_size=32", "output_dir=old")
    assert main(["convert", "run=old"]) == 2
    assert "'rbf' cannot be converted" in capfd.readouterr().err
