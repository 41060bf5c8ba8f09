from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from expedite import ExpediteError
from expedite.data.layouts import open_data
from expedite.data.truths import (
    LABEL_RULES,
    NO_DEPTH,
    VOID,
    DepthRule,
    LabelRule,
    Sample,
    TruthRule,
)
from expedite.loading import TaskName
from tests.data.coco_data import write_image

# The names of Cityscapes' evaluated classes in the order of their indices, with their labels.
CITYSCAPES = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17,
    "traffic light": 19, "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23,
    "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31,
    "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
KITTI, NYU = (375, 1242), (480, 640)


def write_map(path: Path, values: NDArray[np.integer]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def write_cityscapes(root: Path, labels: list[int]) -> None:
    stem = "frankfurt/frankfurt_000000_000294"
    write_image(root / f"leftImg8bit/val/{stem}_leftImg8bit.png", (1, len(labels)))
    write_map(root / f"gtFine/val/{stem}_gtFine_labelIds.png", np.array([labels], np.uint8))


def only(root: Path, split: str, task: TaskName, rule: TruthRule) -> Sample:
    (sample,) = open_data(root, split, task, rule)
    return sample


def test_labels_of_cityscapes_are_the_classes_that_are_evaluated(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, [*CITYSCAPES.values(), 0, 6, 9, 10, 14, 29, 30, 255])
    labels = only(tmp_path, "val", "segmentation", LabelRule()).labels
    assert labels is not None
    assert labels.tolist() == [[*range(19), *[VOID] * 8]]


def test_labels_that_cityscapes_does_not_have(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, [7, 34])
    with pytest.raises(ExpediteError, match=r"labelIds\.png has a label 34; those of Cityscapes"):
        open_data(tmp_path, "val", "segmentation", LabelRule())[0]


def test_ade20k_counts_from_one(tmp_path: Path) -> None:
    name = "ADE_val_00000001"
    write_image(tmp_path / f"images/validation/{name}.jpg", (1, 3))
    write_map(tmp_path / f"annotations/validation/{name}.png", np.array([[0, 1, 150]], np.uint8))
    labels = only(tmp_path, "validation", "segmentation", LABEL_RULES["ade20k"]).labels
    assert labels is not None
    assert labels.tolist() == [[VOID, 0, 149]]


@pytest.mark.parametrize(("reduced", "expected"), [(False, [0, 1, 59]), (True, [VOID, 0, 58])])
def test_pascal_context_of_60_and_of_59_classes(
    reduced: bool, expected: list[int], tmp_path: Path
) -> None:
    for name in ("2008_000008", "2008_000002", "2010_000001"):  # the last is of another split
        write_image(tmp_path / f"JPEGImages/{name}.jpg", (1, 3))
        maps = tmp_path / "SegmentationClassContext"
        write_map(maps / f"{name}.png", np.array([[0, 1, 59]], np.uint8))
    listing = tmp_path / "ImageSets/SegmentationContext/val.txt"
    listing.parent.mkdir(parents=True)
    listing.write_text("2008_000008\n2008_000002\n")
    first, second = open_data(tmp_path, "val", "segmentation", LabelRule(reduce_zero_label=reduced))
    assert (first.name, second.name) == ("2008_000002", "2008_000008")
    assert first.labels is not None
    assert first.labels.tolist() == [expected]


def metres(size: tuple[int, int], scale: float) -> NDArray[np.uint16]:
    """The row of a pixel in metres from 1 on, so that one sees where it came from."""
    return (np.arange(1, size[0] + 1)[:, None] * np.ones(size) / 10 * scale).astype(np.uint16)


def write_kitti(root: Path, size: tuple[int, int] = KITTI, place: str = "") -> None:
    image = "2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000069.png"
    truth = "2011_09_26_drive_0002_sync/proj_depth/groundtruth/image_02/0000000069.png"
    write_image(root / "raw" / image, size)
    write_map(root / place / truth, metres(size, 256))
    lines = [f"{image} {truth} 721.5377", f"{image} None 721.5377"]
    (root / "eigen_test_files_with_gt.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("place", ["", "data_depth_annotated"])
def test_kitti_in_the_split_of_eigen_and_the_crop_of_garg(place: str, tmp_path: Path) -> None:
    write_kitti(tmp_path, place=place)
    sample = only(tmp_path, "eigen_test", "depth", DepthRule())
    assert sample.image.shape == (352, 1216, 3)
    assert sample.depth is not None
    known = np.isfinite(sample.depth)
    rows, columns = np.flatnonzero(known.any(1)), np.flatnonzero(known.any(0))
    # Garg's crop is rows 153 to 370 and columns 44 to 1196 of 375×1242, of which the model sees
    # what begins at row 23 and column 13.
    assert (rows[0], rows[-1] + 1) == (153 - 23, 371 - 23)
    assert (columns[0], columns[-1] + 1) == (44 - 13, 1197 - 13)
    assert known.sum() == (371 - 153) * (1197 - 44)
    assert sample.depth[rows[0], columns[0]] == pytest.approx(15.4, abs=1 / 256)


def test_images_that_are_smaller_than_those_of_kitti(tmp_path: Path) -> None:
    write_kitti(tmp_path, (300, 1242))
    with pytest.raises(ExpediteError, match=r"has \(300, 1242\) pixels; images of KITTI have"):
        open_data(tmp_path, "eigen_test", "depth", DepthRule())[0]


def write_nyu(root: Path, size: tuple[int, int] = NYU) -> None:
    folder = root / "official_splits/test/bathroom"
    write_image(folder / "rgb_00045.png", size)
    write_map(folder / "sync_depth_00045.png", metres(size, 1000))
    listing = root / "nyudepthv2_test_files_with_gt.txt"
    listing.write_text("bathroom/rgb_00045.png bathroom/sync_depth_00045.png 518.8579\n")


@pytest.mark.parametrize(("scale", "metre"), [(None, 1.0), (500.0, 2.0)])
def test_nyu_in_the_crop_of_eigen(scale: float | None, metre: float, tmp_path: Path) -> None:
    write_nyu(tmp_path)
    sample = only(tmp_path, "nyudepthv2_test", "depth", DepthRule(scale))
    assert sample.image.shape == (*NYU, 3)
    assert sample.depth is not None
    expected = np.full(NYU, NO_DEPTH)
    expected[45:471, 41:601] = metres(NYU, 1000)[45:471, 41:601] / 1000 * metre
    np.testing.assert_allclose(sample.depth, expected, rtol=1e-6)


def test_depth_of_another_size_than_that_of_nyu(tmp_path: Path) -> None:
    write_nyu(tmp_path, (240, 320))
    with pytest.raises(ExpediteError, match=r"has \(240, 320\) pixels; depth of NYUv2"):
        open_data(tmp_path, "nyudepthv2_test", "depth", DepthRule())[0]


def test_files_that_are_missing(tmp_path: Path) -> None:
    write_nyu(tmp_path)
    (tmp_path / "official_splits/test/bathroom/rgb_00045.png").unlink()
    with pytest.raises(ExpediteError, match=r"1 files of the split 'nyu.*rgb_00045\.png"):
        open_data(tmp_path, "nyudepthv2_test", "depth", DepthRule())


def test_a_list_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "eigen_test_files_with_gt.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ExpediteError, match=r"with_gt\.txt is not a list of files"):
        open_data(tmp_path, "eigen_test", "depth", DepthRule())
