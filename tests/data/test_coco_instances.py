import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as tools

from expedite import ExpediteError
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
    ("annotation", "sentence"),
    [
        (entry(category_id=4), r"an object of the category 4 in a\.jpg, which is not among its"),
        ({"bbox": [0, 0, 1, 1]}, r"what is in a\.jpg: KeyError 'category_id'"),
        ({"category_id": 3}, r"what is in a\.jpg: KeyError 'bbox'"),
        (entry(bbox=[0, 0]), r"what is in a\.jpg: ValueError"),
        (entry(segmentation={"size": [2, 5], "counts": [10]}), r"a mask of \[2, 5\] for an image"),
        (entry(segmentation={"size": [2, 4]}), r"what is in a\.jpg: KeyError 'counts'"),
        (entry(segmentation=7), r"what is in a\.jpg: TypeError"),
        (entry(segmentation=["a"]), r"what is in a\.jpg: ValueError a polygon"),
    ],
)
def test_annotations_that_are_damaged(annotation: Entry, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ExpediteError, match=sentence) as error:
        read(write(tmp_path, annotation))
    assert "\n" not in str(error.value)
