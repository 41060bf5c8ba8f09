import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from expedite import ExpediteError
from expedite.data.coco_files import PanopticRule, read_coco
from expedite.data.truths import VOID
from tests.data.coco_data import (
    CATEGORIES,
    IDS,
    SEGMENTS,
    write_coco_panoptic,
    write_segments,
)

NAME = "000000000042.png"


def rule(root: Path) -> PanopticRule:
    return PanopticRule.of(read_coco(write_coco_panoptic(root)))


def rewrite(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


def test_classes_are_categories_by_rising_number(tmp_path: Path) -> None:
    file = read_coco(write_coco_panoptic(tmp_path))
    assert file.numbers == (1, 3, 200)
    assert [image.number for image in file.images] == [42, 139]
    assert PanopticRule.of(file).stuff == {2}


def test_colours_are_numbers_of_segments(tmp_path: Path) -> None:
    found = rule(tmp_path).read(tmp_path / "annotations/panoptic_val2017" / NAME)
    assert found.semantic(VOID).tolist() == [[0, 0, 2, 2], [VOID, 1, 1, 2]]
    assert found.crowd.tolist() == [False, True, False]
    assert found.of_classes == 3


def test_a_number_given_twice_is_of_the_latter(tmp_path: Path) -> None:
    """Skyscrapers and roads share numbers in ADE20K's published files."""
    path = write_coco_panoptic(tmp_path)
    content = json.loads(path.read_text())
    content["annotations"][1]["segments_info"] = [
        *SEGMENTS,
        {"id": 1, "category_id": 3, "iscrowd": 0},
    ]
    path.write_text(json.dumps(content))
    found = PanopticRule.of(read_coco(path)).read(path.with_suffix("") / NAME)
    assert found.semantic(VOID)[0, 0] == 1


@pytest.mark.parametrize(
    ("segments", "sentence"),
    [
        (SEGMENTS[:2], r"42\.png has a segment 70000 that .*panoptic_val2017\.json does not know"),
        ([*SEGMENTS[:2], {"id": 70000, "category_id": 9}], r"what is in .*42\.png: KeyError 9"),
        ([*SEGMENTS[:2], {"category_id": 1}], r"what is in .*42\.png: KeyError 'id'"),
        ([3], r"what is in .*42\.png: TypeError"),
    ],
)
def test_a_json_that_does_not_fit_its_maps(
    segments: list[Any], sentence: str, tmp_path: Path
) -> None:
    path = write_coco_panoptic(tmp_path)
    content = json.loads(path.read_text())
    content["annotations"][1]["segments_info"] = segments
    path.write_text(json.dumps(content))
    with pytest.raises(ExpediteError, match=sentence) as error:
        PanopticRule.of(read_coco(path)).read(path.with_suffix("") / NAME)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b'{"images": [{"id"', b"\xff\xfe", b"[]", b"3", b"{}"])
def test_a_json_that_is_cut_off_or_another(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "panoptic_val.json"
    path.write_bytes(content)
    with pytest.raises(ExpediteError, match="is not an annotation file of COCO: ") as error:
        read_coco(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"images": [{"id": 1, "file_name": "a.jpg"}]},
        {"images": [], "annotations": [{"image_id": 1}]},
        {"annotations": [3]},
        {"categories": [{"name": "sky"}]},
        {"categories": "sky"},
    ],
)
def test_entries_that_lack_something(change: dict[str, Any], tmp_path: Path) -> None:
    path = rewrite(write_coco_panoptic(tmp_path), **change)
    with pytest.raises(ExpediteError, match="is not an annotation file of COCO: "):
        read_coco(path)


def test_annotations_of_another_kind(tmp_path: Path) -> None:
    path = write_coco_panoptic(tmp_path)
    boxes = [{"image_id": 42, "bbox": [0, 0, 1, 1], "category_id": 1}]
    with pytest.raises(ExpediteError, match="json is not of panoptic segments: an annotation has"):
        PanopticRule.of(read_coco(rewrite(path, annotations=boxes)))


def test_more_classes_than_class_maps_hold(tmp_path: Path) -> None:
    path = write_coco_panoptic(tmp_path)
    many = [{**CATEGORIES[0], "id": number} for number in range(256)]
    with pytest.raises(ExpediteError, match="has 256 categories; up to 255"):
        PanopticRule.of(read_coco(rewrite(path, categories=many)))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_a_map_that_is_not_of_colours(mode: str, tmp_path: Path) -> None:
    Image.new(mode, (4, 2)).save(tmp_path / NAME)
    with pytest.raises(ExpediteError, match=rf"of mode {mode}; segments are due as colours"):
        rule(tmp_path).read(tmp_path / NAME)


def test_a_map_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / NAME
    write_segments(path, IDS * 50)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ExpediteError, match=r"42\.png cannot be read as an image"):
        rule(tmp_path).read(path)
