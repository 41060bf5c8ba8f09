import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from expedite import ExpediteError
from expedite.data.truths import LABEL_RULES, NO_DEPTH, VOID, DepthRule, LabelRule


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (LabelRule(), [0, 1, 11, VOID]),
        (LABEL_RULES["camvid"], [0, 1, VOID, 255]),
        (LabelRule(ignore_index=65535), [0, 1, 11, 255]),
        (LABEL_RULES["ade20k"], [VOID, 0, 10, VOID]),
    ],
)
def test_how_data_sets_store_labels(rule: LabelRule, expected: list[int]) -> None:
    assert rule.apply(np.array([0, 1, 11, 255], np.uint8)).tolist() == expected


@pytest.mark.parametrize(
    ("scale", "expected"), [(1000.0, [1.0, 65.535]), (256.0, [3.90625, 255.99609375])]
)
def test_depth_of_16_bits(tmp_path: Path, scale: float, expected: list[float]) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[0, 1000, 65535]], np.uint16)).save(path)
    found = DepthRule(scale).read(path)
    assert found.dtype == np.float32
    assert found[0].tolist() == pytest.approx([NO_DEPTH, *expected])


def test_depth_in_metres(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[1.25, 0, -1, np.nan, np.inf]]))
    found = DepthRule(256).read(tmp_path / "a.npy")
    assert found.tolist() == [[1.25, *[NO_DEPTH] * 4]]


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_depth_of_8_bits(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (2, 2)).save(tmp_path / "a.png")
    with pytest.raises(ExpediteError, match=rf"a\.png is an image of mode {mode}; .* 16 bits"):
        DepthRule().read(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".png", ".npy"])
@pytest.mark.parametrize("content", [b"", b"neither of them", pickle.dumps(subprocess.run)])
def test_depth_that_cannot_be_read(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(ExpediteError, match=rf"a\{suffix} cannot be read as an"):
        DepthRule().read(path)


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_an_array_that_is_cut_short(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.ones((20, 20)))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ExpediteError, match="cannot be read as an array"):
        DepthRule().read(path)


@pytest.mark.parametrize("array", [np.ones((2, 2, 1)), np.array([["a"]]), np.ones((2, 2), complex)])
def test_an_array_of_something_else(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ExpediteError, match=r"metres of shape \(H, W\) are due"):
        DepthRule().read(tmp_path / "a.npy")


def test_an_array_that_begins_like_an_archive(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ExpediteError, match="cannot be read as an array"):
        DepthRule().read(tmp_path / "a.npy")


def test_an_array_of_an_absurd_shape(tmp_path: Path) -> None:
    with (tmp_path / "a.npy").open("wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (1 << 25, 1 << 25)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(ExpediteError, match="cannot be read as an array"):
        DepthRule().read(tmp_path / "a.npy")


def test_several_arrays_in_one_file(tmp_path: Path) -> None:
    with (tmp_path / "a.npy").open("wb") as file:
        np.savez(file, a=np.ones((2, 2)), b=np.ones((2, 2)))
    with pytest.raises(ExpediteError, match="holds several arrays"):
        DepthRule().read(tmp_path / "a.npy")


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_a_scale_that_is_none(scale: float) -> None:
    with pytest.raises(ExpediteError, match="a depth scale of"):
        DepthRule(scale)
