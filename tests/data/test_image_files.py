"""Whatever an image file says about itself is used, or it is refused."""

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from expedite import ExpediteError
from expedite.data.image_files import is_shown, open_image, read_rgb

PIXELS = np.array([[[10, 20, 30], [200, 100, 0], [9, 9, 9]]], np.uint8)  # (1, 3, 3)


def saved(path: Path, image: Image.Image, **settings: Any) -> Path:
    image.save(path, **settings)
    return path


def test_16_bits_of_grey_become_8(tmp_path: Path) -> None:
    levels = np.array([[0, 257, 32896, 65535, 128]], np.uint16)
    found = read_rgb(saved(tmp_path / "a.png", Image.fromarray(levels)))
    assert found.shape == (1, 5, 3)
    assert found[0].tolist() == [[n] * 3 for n in (0, 1, 128, 255, 0)]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_an_image_is_turned_as_it_says(tmp_path: Path, orientation: int, suffix: str) -> None:
    """The two ends of a bar: red is where the file's first pixel is to be shown."""
    pixels = np.zeros((16, 48, 3), np.uint8)
    pixels[:, :16, 0] = 255
    pixels[:8, 32:, 2] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read_rgb(saved(tmp_path / f"a{suffix}", Image.fromarray(pixels), exif=exif))
    turned = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels),
    }[orientation]
    assert found.shape == turned.shape
    assert np.abs(found.astype(int) - turned).mean() < 15  # of compression


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA", "PA", "RGBA"])
def test_opaque_colours_of_every_kind(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(PIXELS).convert("P" if mode == "PA" else mode).convert(mode)
    path = tmp_path / ("a.tif" if mode == "PA" else "a.png")
    if mode == "PA":
        image = image.convert("RGBA")
    expected = np.asarray(image.convert("RGB"))
    assert read_rgb(saved(path, image)).tolist() == expected.tolist()


def test_inks_are_read_as_colours(tmp_path: Path) -> None:
    inks = Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).convert("CMYK")
    found = read_rgb(saved(tmp_path / "a.jpg", inks))
    assert np.abs(found.astype(int) - 90).max() <= 2


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_are_refused(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    image.putpixel((1, 0), (*[7] * (len(mode) - 1), 254))
    with pytest.raises(ExpediteError, match=r"a\.png is transparent in places"):
        read_rgb(saved(tmp_path / "a.png", image))


@pytest.mark.parametrize(
    ("mode", "key", "is_hit"),
    [("RGB", (9, 9, 9), True), ("RGB", (8, 8, 8), False), ("L", 9, True), ("L", 8, False)],
)
def test_a_colour_that_stands_for_nothing_is_refused(
    tmp_path: Path, mode: str, key: Any, is_hit: bool
) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    path = saved(tmp_path / "a.png", image, transparency=key)
    if not is_hit:
        assert read_rgb(path).shape == (1, 3, 3)
        return
    with pytest.raises(ExpediteError, match="is transparent in places"):
        read_rgb(path)


def test_a_transparent_colour_of_a_palette_is_refused(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS).convert("P", palette=Image.Palette.ADAPTIVE)
    used = np.unique(np.asarray(image)).tolist()
    with pytest.raises(ExpediteError, match="is transparent in places"):
        read_rgb(saved(tmp_path / "a.png", image, transparency=used[0]))


def test_16_bits_of_which_one_value_is_transparent_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(np.array([[3, 700]], np.uint16)))
    parts = path.read_bytes().split(b"IDAT", 1)
    chunk = b"tRNS" + (700).to_bytes(2, "big")
    crc = zlib.crc32(chunk).to_bytes(4, "big")
    head, length = parts[0][:-4], parts[0][-4:]
    path.write_bytes(head + (2).to_bytes(4, "big") + chunk + crc + length + b"IDAT" + parts[1])
    with pytest.raises(ExpediteError, match="is transparent in places"):
        read_rgb(path)


@pytest.mark.parametrize("kind", [np.float32, np.int32, np.uint16])
def test_values_of_no_known_range_are_refused(tmp_path: Path, kind: Any) -> None:
    """Also under a suffix that promises something else: a decoder looks into the file."""
    path = saved(tmp_path / "a.tif", Image.fromarray(np.ones((2, 2), kind)))
    path = path.rename(tmp_path / "a.png")
    with pytest.raises(ExpediteError, match=r"a\.png is an image of mode .*no known range"):
        read_rgb(path)


def test_lab_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExpediteError, match="is an image of mode LAB"):
        read_rgb(saved(tmp_path / "a.tif", Image.new("LAB", (2, 2))))


@pytest.mark.parametrize("suffix", [".png", ".webp", ".gif", ".tif"])
def test_several_images_in_one_file_are_refused(tmp_path: Path, suffix: str) -> None:
    first, second = (Image.new("RGB", (4, 4), (level, 0, 0)) for level in (9, 200))
    path = saved(tmp_path / f"a{suffix}", first, save_all=True, append_images=[second])
    with pytest.raises(ExpediteError, match="holds 2 images; one is due"):
        open_image(path)


def test_a_cameras_second_picture_is_left_alone(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (8, 8), (level,) * 3) for level in (40, 200))
    path = saved(tmp_path / "a.jpg", first, format="MPO", save_all=True, append_images=[second])
    assert read_rgb(path).mean() == pytest.approx(40, abs=1)


@pytest.mark.filterwarnings("error")
def test_more_pixels_than_pillow_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.png", Image.new("RGB", (20, 20)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
    with pytest.raises(ExpediteError, match=r"a\.png cannot be read as an image: Decompression"):
        read_rgb(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 250)  # of which Pillow warns
    assert read_rgb(path).shape == (20, 20, 3)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ExpediteError, match=r"a\.png cannot be read as an image: it is no file"):
        read_rgb(tmp_path / "a.png")
    with pytest.raises(ExpediteError, match=r"b\.png cannot be read as an image: it is not there"):
        read_rgb(tmp_path / "b.png")


def test_what_a_folder_does_not_show() -> None:
    assert [is_shown(Path(name)) for name in ("x.png", "._x.png", ".x.png")] == [1, 0, 0]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif", ".gif"])
def test_damaged_images_end_in_one_sentence(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(rng.integers(0, 255, (12, 9, 3), dtype=np.uint8))
    whole = saved(tmp_path / f"a{suffix}", image, exif=exif).read_bytes()
    for _ in range(150):
        content = bytearray(whole)
        for place in rng.integers(len(content), size=rng.integers(1, 6)):
            content[place] = rng.integers(256)
        (tmp_path / f"b{suffix}").write_bytes(content[: rng.integers(1, len(content) + 1)])
        try:
            read_rgb(tmp_path / f"b{suffix}")
        except ExpediteError as error:
            assert "\n" not in str(error)
