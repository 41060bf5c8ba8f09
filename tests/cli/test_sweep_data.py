"""Images, labels and depth that a sweep cannot read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import Run


def test_image_that_cannot_be_read(
    sweep: list[object], data: Path, refusal: Run, tmp_path: Path
) -> None:
    path = data / "images/val/c.png"
    path.write_bytes(path.read_bytes()[:200])
    assert f"{path} cannot be read as an image" in refusal(*sweep)
    assert list(tmp_path.glob("out/*")) == []


def test_labels_of_the_wrong_size(
    sweep: list[object], data: Path, refusal: Run, tmp_path: Path
) -> None:
    Image.fromarray(np.zeros((36, 47), np.uint8)).save(data / "annotations/val/b.png")
    assert "has shape (36, 47) for an image of (36, 48)" in refusal(*sweep)
    assert list(tmp_path.glob("out/*")) == []


def test_labels_beyond_the_classes(
    sweep: list[object], data: Path, refusal: Run, tmp_path: Path
) -> None:
    Image.fromarray(np.full((36, 48), 7, np.uint8)).save(data / "annotations/val/b.png")
    text = refusal(*sweep)
    assert text.startswith(f"error: {data / 'annotations/val/b.png'}: a label 7 was found, and")
    assert "the model has the classes 0 to 4" in text
    assert list(tmp_path.glob("out/*")) == []


def test_labels_that_cannot_be_read(
    sweep: list[object], data: Path, refusal: Run, tmp_path: Path
) -> None:
    path = data / "annotations/val/b.png"
    path.write_bytes(path.read_bytes()[:200])
    assert f"{path} cannot be read as an image" in refusal(*sweep)
    assert list(tmp_path.glob("out/*")) == []


@pytest.mark.parametrize("suffix", [".png", ".npy"])
def test_depth_that_cannot_be_read(
    suffix: str, depth_sweep: list[object], refusal: Run, tmp_path: Path
) -> None:
    path = tmp_path / "scenes/depth/val/00001.png"
    if suffix == ".npy":
        np.save(path.with_suffix(suffix), np.asarray(Image.open(path), np.float32))
        path.unlink()
    path = path.with_suffix(suffix)
    path.write_bytes(path.read_bytes()[:200])
    assert f"{path} cannot be read as an" in refusal(*depth_sweep)
    assert list(tmp_path.glob("out/*")) == []


def test_a_folder_without_images(
    sweep: list[object], data: Path, refusal: Run, tmp_path: Path
) -> None:
    for path in (data / "images/val").iterdir():
        path.unlink()
    assert "holds no image (.bmp, .jpeg" in refusal(*sweep)
    assert not (tmp_path / "out").exists()


def test_depth_of_8_bits(depth_sweep: list[object], refusal: Run, tmp_path: Path) -> None:
    Image.new("L", (48, 32)).save(tmp_path / "scenes/depth/val/00001.png")
    assert "depth is due in one channel of 16 bits" in refusal(*depth_sweep)
    assert list(tmp_path.glob("out/*")) == []
