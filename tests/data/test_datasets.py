import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from expedite import ExpediteError
from expedite.data.datasets import open_folder
from expedite.data.truths import VOID, DepthRule, LabelRule
from expedite.scenes.scenes import FARTHEST, render_scene, scene_seed, write_scenes


def write(root: Path, name: str, labels: list[list[int]] | None, size: tuple[int, ...]) -> None:
    for kind in ("images", "annotations"):
        (root / kind / "val").mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[..., 0] = 200
    Image.fromarray(pixels).save(root / "images" / "val" / f"{name}.png")
    if labels is not None:
        stored = Image.fromarray(np.array(labels, np.uint8))
        stored.save(root / "annotations" / "val" / f"{name}.png")


def test_images_and_labels_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path, "b", [[1, 0]], (1, 2))
    write(tmp_path, "a", [[0, 255]], (1, 2))
    first, second = open_folder(tmp_path)
    assert (first.name, second.name) == ("a", "b")
    assert first.image.tolist() == [[[200, 0, 0], [200, 0, 0]]]
    assert first.labels is not None
    assert first.labels.tolist() == [[0, VOID]]


def test_palette_images_keep_their_indices(tmp_path: Path) -> None:
    write(tmp_path, "a", None, (1, 2))
    stored = Image.fromarray(np.array([[3, 7]], np.uint8)).convert("P")
    stored.putpalette([i % 256 for i in range(768)])
    stored.save(tmp_path / "annotations" / "val" / "a.png")
    labels = open_folder(tmp_path)[0].labels
    assert labels is not None
    assert labels.tolist() == [[3, 7]]


def test_a_limit_spreads_over_all_images(tmp_path: Path) -> None:
    for index in range(10):
        write(tmp_path, f"{index}", [[0]], (1, 1))
    assert [sample.name for sample in open_folder(tmp_path, limit=3)] == ["0", "3", "6"]
    assert len(open_folder(tmp_path, limit=99)) == 10


def test_images_alone(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "x.jpg")
    (sample,) = open_folder(tmp_path)
    assert sample.labels is None


def test_no_truth_is_read_where_none_is_asked(tmp_path: Path) -> None:
    write(tmp_path, "a", [[0]], (1, 1))
    assert open_folder(tmp_path, rule=None)[0].labels is None


def write_depth(root: Path, name: str, metres: list[list[float]], suffix: str = ".png") -> Path:
    write(root, name, None, np.array(metres).shape)
    path = root / "depth" / "val" / f"{name}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".npy":
        np.save(path, np.array(metres))
    else:
        Image.fromarray((1000 * np.array(metres)).astype(np.uint16)).save(path)
    return path


def test_depth_in_the_place_of_labels(tmp_path: Path) -> None:
    write_depth(tmp_path, "a", [[1.5, 2]])
    write_depth(tmp_path, "b", [[2, 3]], ".npy")
    first, second = open_folder(tmp_path, rule=DepthRule())
    assert first.depth is not None
    assert second.depth is not None
    assert (first.depth.tolist(), second.depth.tolist()) == ([[1.5, 2]], [[2, 3]])
    assert first.labels is second.labels is None
    assert open_folder(tmp_path, rule=DepthRule(2000))[0].depth == pytest.approx(first.depth / 2)


def test_the_depth_of_generated_scenes(tmp_path: Path) -> None:
    write_scenes(tmp_path, "val", 1, (24, 36))
    scene = render_scene(scene_seed("val", 0), (24, 36))
    (sample,) = open_folder(tmp_path, rule=DepthRule())
    known = scene.depth < FARTHEST
    assert sample.depth is not None
    assert 0 < known.sum() < known.size
    np.testing.assert_array_equal(np.isfinite(sample.depth), known)
    np.testing.assert_allclose(sample.depth[known], scene.depth[known], atol=0.001)


def test_missing_depth_is_counted(tmp_path: Path) -> None:
    write_depth(tmp_path, "a", [[1]])
    write(tmp_path, "b", None, (1, 1))
    with pytest.raises(ExpediteError, match=r"1 of 2 images .*have no depth .*b\.png"):
        open_folder(tmp_path, rule=DepthRule())


@pytest.mark.parametrize("suffix", [".png", ".npy"])
def test_depth_of_the_wrong_size(tmp_path: Path, suffix: str) -> None:
    write_depth(tmp_path, "a", [[1, 2, 3]], suffix)
    write(tmp_path, "a", None, (1, 2))
    with pytest.raises(ExpediteError, match=r"has shape \(1, 3\) for an image of \(1, 2\)"):
        open_folder(tmp_path, rule=DepthRule())[0]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ExpediteError, match="which is not a folder"):
        open_folder(tmp_path / "nothing")


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path, "a", [[0]], (1, 1))
    with pytest.raises(ExpediteError, match=r"images/test, which is not a folder"):
        open_folder(tmp_path, split="test")


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(ExpediteError, match="holds no image"):
        open_folder(tmp_path)


def test_missing_annotations_are_counted(tmp_path: Path) -> None:
    write(tmp_path, "a", [[0]], (1, 1))
    write(tmp_path, "b", None, (1, 1))
    with pytest.raises(ExpediteError, match=r"1 of 2 images .*the first is .*b\.png"):
        open_folder(tmp_path)


def test_labels_of_the_wrong_size(tmp_path: Path) -> None:
    write(tmp_path, "a", [[0, 0, 0]], (1, 2))
    with pytest.raises(ExpediteError, match=r"has shape \(1, 3\) for an image of \(1, 2\)"):
        open_folder(tmp_path)[0]


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0 cut short"])
def test_an_image_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(ExpediteError, match=r"x\.jpg cannot be read as an image"):
        open_folder(tmp_path)[0]


def test_a_truncated_image(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.jpg")
    content = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "x.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(ExpediteError, match="cannot be read as an image"):
        open_folder(tmp_path)[0]


def test_hidden_files_and_what_is_no_file_are_no_images(tmp_path: Path) -> None:
    """macOS writes a ._NAME beside each on other disks; a pipe would be waited for."""
    write(tmp_path, "a", [[1]], (1, 1))
    folder = tmp_path / "images/val"
    (folder / "._a.png").write_bytes(b"Mac OS X")
    (folder / ".b.png").write_bytes(b"")
    (folder / "c.png").mkdir()
    os.mkfifo(folder / "d.png")
    assert [sample.name for sample in open_folder(tmp_path)] == ["a"]


def test_labels_of_a_turned_image_lie_as_it_is_shown(tmp_path: Path) -> None:
    write(tmp_path, "a", [[1], [2]], (1, 2))
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = Image.fromarray(np.array([[[9] * 3, [200] * 3]], np.uint8))
    pixels.save(tmp_path / "images/val/a.png", exif=exif)
    (sample,) = open_folder(tmp_path)
    assert sample.image[:, 0, 0].tolist() == [9, 200]
    Image.fromarray(np.array([[1, 2]], np.uint8)).save(tmp_path / "annotations/val/a.png")
    with pytest.raises(ExpediteError, match=r"for an image of \(2, 1\), turned as its file says"):
        open_folder(tmp_path)[0]


def test_masks_of_0_and_255_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "a", [[0, 255]], (1, 2))
    write(tmp_path, "b", [[0, 0]], (1, 2))
    said = "are 0 and 255 alone, of which 255 does not count; masks of two classes are due as 0"
    for rule in (LabelRule(), LabelRule(reduce_zero_label=True)):
        with pytest.raises(ExpediteError, match=said):
            open_folder(tmp_path, rule=rule)
    write(tmp_path, "c", [[1, 0]], (1, 2))  # a class beside what does not count
    assert len(open_folder(tmp_path)) == 3


def test_masks_of_1_bit_are_of_two_classes(tmp_path: Path) -> None:
    write(tmp_path, "a", None, (1, 2))
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "annotations/val/a.png")
    labels = open_folder(tmp_path)[0].labels
    assert labels is not None
    assert labels.tolist() == [[0, 1]]


@pytest.mark.parametrize("mode", ["RGB", "LA", "RGBA"])
def test_labels_in_colours_are_refused(tmp_path: Path, mode: str) -> None:
    write(tmp_path, "a", None, (1, 2))
    Image.new(mode, (2, 1)).save(tmp_path / "annotations/val/a.png")
    with pytest.raises(ExpediteError, match=rf"of mode {mode}; labels are due in one channel"):
        open_folder(tmp_path)


def test_another_file_is_another_fingerprint(tmp_path: Path) -> None:
    write(tmp_path, "a", [[1]], (1, 1))
    found = [open_folder(tmp_path).fingerprint()]
    for kind in ("images", "annotations"):
        os.utime(tmp_path / kind / "val/a.png", ns=(0, 0))
        found.append(open_folder(tmp_path).fingerprint())
    write(tmp_path, "b", [[1]], (1, 1))
    found.append(open_folder(tmp_path).fingerprint())
    assert len({*found}) == 4
    assert open_folder(tmp_path).fingerprint() == found[-1]
