"""JPEG files by torchcodec, where it is installed: Pillow's pixels, and the same files refused."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnntrain.data.storage import decode as images
from cnntrain.data.storage.decode import decode
from cnntrain.runtime.errors import InputError

pytestmark = pytest.mark.skipif(images.torchcodec() is None, reason="needs torchcodec: pip install 'cnntrain[jpeg]'")


def photograph(height: int, width: int) -> Image.Image:
    """Return something smooth with a few edges."""
    y, x = np.mgrid[:height, :width]
    waves = [128 + 100 * np.sin(x / (5 + i) + i) * np.cos(y / (9 - i)) + 20 * (x > width / 2) for i in range(3)]
    return Image.fromarray(np.stack(waves, -1).clip(0, 255).astype(np.uint8))


def without_torchcodec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "torchcodec", lambda: None)


KINDS = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "coarse": {"quality": 20},
    "fine": {"quality": 98},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(64, 48), (37, 53), (1, 9)], ids=str)
def test_torchcodec_gives_the_pixels_of_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, size: tuple[int, int]
) -> None:
    path = tmp_path / "image.jpg"
    photograph(*size).save(path, **KINDS[kind])
    called = []
    codec = images.torchcodec()
    assert codec is not None
    monkeypatch.setattr(images, "torchcodec", lambda: (lambda data: called.append(data) or codec[0](data), codec[1]))
    found = decode(path, size, 3, resize=False)
    assert called == [path.read_bytes()]
    without_torchcodec(monkeypatch)
    np.testing.assert_array_equal(found, decode(path, size, 3, resize=False))


def test_turned_grey_and_four_coloured_files_are_pillows_affair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[images.ORIENTATION] = 6
    photograph(16, 24).save(tmp_path / "turned.jpg", exif=exif)
    photograph(24, 16).convert("L").save(tmp_path / "grey.jpg")
    photograph(24, 16).convert("CMYK").save(tmp_path / "ink.jpg")
    photograph(24, 16).save(tmp_path / "colour.png")
    photograph(24, 16).save(tmp_path / "colour.jpg")
    asked = [(path, channels) for path in sorted(tmp_path.iterdir()) for channels in (1, 3)]
    found = [decode(path, (24, 16), channels, resize=False) for path, channels in asked]
    without_torchcodec(monkeypatch)
    for pixels, (path, channels) in zip(found, asked, strict=True):
        np.testing.assert_array_equal(pixels, decode(path, (24, 16), channels, resize=False), err_msg=path.name)


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_file_that_ends_early_is_refused(tmp_path: Path, kept: float) -> None:
    written = io.BytesIO()
    photograph(64, 64).save(written, "JPEG", quality=95)
    path = tmp_path / "image.jpg"
    path.write_bytes(written.getvalue()[: int(kept * len(written.getvalue()))])
    with pytest.raises(InputError, match=r"image\.jpg: .") as caught:
        decode(path, (64, 64), 3, resize=False)
    assert "\n" not in str(caught.value)


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photograph(20, 20).save(tmp_path / "image.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="decompression bomb"):
        decode(tmp_path / "image.jpg", (20, 20), 3, resize=False)
