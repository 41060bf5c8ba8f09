import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as tools

from expedite import ExpediteError
from expedite.data.coco_checks import check_mask
from expedite.data.coco_files import read_coco
from expedite.data.coco_instances import InstanceRule
from expedite.data.instances import Instances
from tests.data.coco_data import Entry, write_json

INSIDE = np.array([[1, 1, 0, 0], [1, 1, 0, 1]], np.uint8)
# By columns, beginning with zeros: 4 ones, 3 zeros, 1 one.
PLAIN = {"size": [2, 4], "counts": [0, 4, 3, 1]}
POLYGON = [[0, 0, 2, 0, 2, 2, 0, 2], [3, 1, 4, 1, 4, 2, 3, 2]]


def packed() -> Entry:
    found = tools.encode(np.asfortranarray(INSIDE))
    return {"size": found["size"], "counts": found["counts"].decode()}


def write(root: Path, *annotations: Entry) -> Path:
    image = {"id": 9, "file_name": "a.jpg", "height": 2, "width": 4}
    entries = [{"image_id": 9, "id": n, **entry} for n, entry in enumerate(annotations)]
    return write_json(root / "instances.json", [image], entries)


def read(path: Path) -> Instances:
    return InstanceRule.of(read_coco(path)).read(path / "a.jpg")


def entry(**changes: Any) -> Entry:
    return {"category_id": 3, "bbox": [0, 0, 4, 2], "segmentation": PLAIN, **changes}


@pytest.mark.parametrize("stored", [PLAIN, POLYGON, packed()])
def test_masks_in_all_their_forms(stored: Any, tmp_path: Path) -> None:
    found = read(write(tmp_path, entry(segmentation=stored, area=5.5, iscrowd=1)))
    assert found.masks is not None
    assert tools.iou([found.masks[0]], [packed()], [0]).tolist() == [[1]]
    assert (found.classes.tolist(), found.crowd.tolist(), found.areas.tolist()) == ([3], [1], [5.5])
    assert found.boxes.tolist() == [[0, 0, 4, 2]]
    assert found.shape == (2, 4)


def test_an_area_that_is_not_said_is_that_of_the_mask_or_box(tmp_path: Path) -> None:
    assert read(write(tmp_path, entry())).areas.tolist() == [5]
    alone = read(write(tmp_path, {"category_id": 3, "bbox": [0, 0, 3, 2]}))
    assert (alone.areas.tolist(), alone.masks) == ([6], None)


def test_an_image_without_objects(tmp_path: Path) -> None:
    found = read(write(tmp_path))
    assert (len(found.classes), found.boxes.shape) == (0, (0, 4))


def test_classes_are_those_of_the_file_or_of_its_images_segments(tmp_path: Path) -> None:
    file = read_coco(write(tmp_path, entry()))
    path = tmp_path / "panoptic.json"
    path.write_text(json.dumps({**json.loads(file.path.read_text()), "categories": [{"id": 7}]}))
    assert InstanceRule.of(file).numberings == ((1, 3, 200),)
    assert InstanceRule.of(file, read_coco(path)).numberings == ((1, 3, 200), (7,))


@pytest.mark.parametrize(
    ("annotation", "why"),
    [
        (entry(category_id=4), "the category 4 is not among the file's"),
        (entry(category_id=[]), r"\[\] where a whole number is due"),
        ({"bbox": [0, 0, 1, 1]}, "None where a whole number is due"),
        ({"category_id": 3}, "a box is None, and four numbers are due"),
        (entry(bbox=[0, 0]), r"a box is \[0, 0\]"),
        (entry(bbox=[0, 0, -1, 1]), r"a box has the sides \(-1, 1\)"),
        (entry(bbox=[0, 0, 1, float("nan")]), r"a box has the sides \(1, nan\)"),
        (entry(bbox=[float("-inf"), 0, 1, 1]), "far outside of its image"),
        (entry(bbox=["0", 0, 1, 1]), "far outside of its image"),
        (entry(bbox=[0, 0, 99, 1]), "a box has the sides"),
        (entry(area=-1), "the area is -1"),
        (entry(area=float("inf")), "the area is inf"),
        (entry(iscrowd="0"), "iscrowd is '0'"),
        (entry(segmentation={"size": [2, 5], "counts": [10]}), r"a mask of \[2, 5\] for an image"),
        (entry(segmentation={"size": [2, 4]}), "run lengths are None"),
        (entry(segmentation={"size": [2, 4], "counts": [0, 4, 3]}), "run lengths of 7 pixels"),
        (entry(segmentation={"size": [2, 4], "counts": [9, -1]}), "longer than their image, or"),
        (entry(segmentation={"size": [2, 4], "counts": [4.0, 4]}), "4.0 where a whole number"),
        (entry(segmentation={"size": [2, 4], "counts": "04"}), "run lengths of 4 pixels"),
        (entry(segmentation={"size": [2, 4], "counts": "8P"}), "run lengths that are cut off"),
        (entry(segmentation={"size": [2, 4], "counts": "0é"}), "characters that stand for none"),
        (entry(segmentation={"size": [2, 4], "counts": "PPPPPPPP0"}), "of too many characters"),
        (entry(segmentation=7), "a mask is 7"),
        (entry(segmentation=["a"]), "a polygon of fewer than three corners"),
        (entry(segmentation=[[0, 0, 1, 1, 2, 2, 3]]), "or of half a corner"),
        (entry(segmentation=[[0, 0, 1, 1, 2, 40]]), "a corner far outside of its image"),
        (entry(segmentation=[[0, 0, 1, 1, float("nan"), 1]]), "or at no number"),
        (entry(segmentation=[[0, 0, 1, 1, True, 1]]), "or at no number"),
        ({"category_id": 3, "bbox": [0, 0, 1, 1]}, "it has no mask, and others have"),
        ([], "image None, which is not there"),
        ({"image_id": [], **entry()}, r"image \[\], which is not there"),
    ],
    ids=str,
)
def test_an_object_that_cannot_be_read_is_left_out(
    annotation: Any, why: str, tmp_path: Path
) -> None:
    path = write(tmp_path, entry())
    content = json.loads(path.read_text())
    more = {"image_id": 9, "id": 17, **annotation} if annotation else annotation
    path.write_text(json.dumps({**content, "annotations": [more, *content["annotations"]]}))
    rule = InstanceRule.of(read_coco(path), masks=True)
    found = rule.read(path / "a.jpg")
    assert (found.boxes.tolist(), found.classes.tolist()) == ([[0, 0, 4, 2]], [3])
    (note,) = rule.notes()
    assert note.startswith(f"1 of 2 objects in {path} are left out: object ")
    assert re.search(why, note)
    assert "\n" not in note
    with pytest.raises(ExpediteError, match=why):
        InstanceRule.of(read_coco(path), masks=True, strict=True)


def test_polygons_that_walk_too_far_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of corners that all lie in the image, at a modest limit: pycocotools keeps every step."""
    back_and_forth = [[0, 0, 9, 1] * 10]
    check_mask(back_and_forth, (4, 10))
    monkeypatch.setattr("expedite.data.coco_checks._LONGEST_WALK", 100)
    with pytest.raises(ValueError, match="edges are longer than 100 pixels"):
        check_mask(back_and_forth, (4, 10))


def test_what_reaches_out_of_an_image_a_little_is_read(tmp_path: Path) -> None:
    out = entry(bbox=[-1, -0.5, 6, 3], segmentation=[[-1, -1, 5, -1, 5, 3, -1, 3]])
    rule = InstanceRule.of(read_coco(write(tmp_path, out)))
    assert rule.notes() == []
    assert rule.read(rule.source / "a.jpg").boxes.tolist() == [[-1, -0.5, 6, 3]]


def test_a_file_of_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ExpediteError, match=r"nothing that can be read: object 0 in a\.jpg \(Value"
    ):
        read(write(tmp_path, entry(category_id=4), entry(category_id=5)))


@given(st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=1, max_size=30))
def test_the_length_of_run_lengths_in_text_is_known(rows: list[list[bool]]) -> None:
    mask = np.asfortranarray(np.array(rows, np.uint8))
    text = tools.encode(mask)["counts"].decode()
    check_mask({"size": [*mask.shape], "counts": text}, mask.shape)
    with pytest.raises(ValueError, match=f"run lengths of {mask.size} pixels"):
        check_mask({"size": [len(rows), 13], "counts": text}, (len(rows), 13))
