import json
import re
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
    with pytest.raises(ExpediteError, match="json is not of panoptic segments: an annotation of"):
        PanopticRule.of(read_coco(rewrite(path, annotations=boxes)))


def test_any_number_of_classes(tmp_path: Path) -> None:
    """Also the one of index 255, which 8 bits have for void."""
    path = write_coco_panoptic(tmp_path)
    many = [{**CATEGORIES[0], "id": number} for number in range(300)]
    segments = [{"id": 1, "category_id": 255}, {"id": 256, "category_id": 256}, SEGMENTS[2]]
    content = json.loads(rewrite(path, categories=many).read_text())
    content["annotations"][1]["segments_info"] = segments
    path.write_text(json.dumps(content))
    found = PanopticRule.of(read_coco(path)).read(path.with_suffix("") / NAME)
    assert found.semantic(VOID).tolist() == [[255, 255, 200, 200], [VOID, 256, 256, 200]]


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"id": 70000, "category_id": 9}, "object 70000 in .*42.png .* category 9 is not among"),
        ({"id": 70000}, r"object 70000 in .*KeyError: 'category_id'"),
        ({"category_id": 1}, r"object 2 of the list in .*KeyError: 'id'"),
        ({"id": 7.5, "category_id": 1}, "7.5 where a whole number is due"),
        (3, "object 2 of the list"),
    ],
    ids=str,
)
def test_a_segment_that_cannot_be_read_is_left_out(entry: Any, why: str, tmp_path: Path) -> None:
    path = write_coco_panoptic(tmp_path)
    content = json.loads(path.read_text())
    content["annotations"][1]["segments_info"] = [*SEGMENTS[:2], entry]
    path.write_text(json.dumps(content))
    found = PanopticRule.of(read_coco(path))
    labels = found.read(path.with_suffix("") / NAME).semantic(VOID)
    assert labels.tolist() == [[0, 0, VOID, VOID], [VOID, 1, 1, VOID]]
    (note,) = found.notes()
    assert note.startswith(f"1 of 6 objects in {path} are left out: ")
    assert re.search(why, note)
    with pytest.raises(ExpediteError, match=why):
        PanopticRule.of(read_coco(path), strict=True)


def test_maps_of_one_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    path = write_coco_panoptic(tmp_path)
    content = json.loads(path.read_text())
    first, second = content["annotations"]
    first["file_name"], second["file_name"] = "one/a.png", "two/a.png"
    second["segments_info"] = [{**entry, "category_id": 3} for entry in SEGMENTS]
    path.write_text(json.dumps(content))
    found = PanopticRule.of(read_coco(path))
    for name, labels in (("one", [0, 0, 2, 2]), ("two", [1, 1, 1, 1])):
        write_segments(path.with_suffix("") / name / "a.png", IDS)
        read = found.read(path.with_suffix("") / name / "a.png")
        assert read.semantic(VOID)[0].tolist() == labels


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"images": [{"id": 1, "file_name": "a.jpg", "height": 2, "width": 4}] * 2}, "the image 1"),
        ({"categories": [{"id": 1}, {"id": 1}]}, "the category 1 is in it twice"),
        (
            {"images": [{"id": 1, "file_name": "a", "height": 0, "width": 4}]},
            "an image has the size",
        ),
        ({"images": [{"id": 1, "file_name": "a", "height": 2.5, "width": 4}]}, "2.5 where a whole"),
        ({"images": [{"id": 1, "file_name": 3, "height": 2, "width": 4}]}, "the file name 3"),
        ({"categories": [{"id": True}]}, "True where a whole number is due"),
        ({"annotations": {"id": 3}}, "annotations are no list"),
    ],
    ids=str,
)
def test_what_could_be_read_in_two_ways_is_refused(
    change: dict[str, Any], why: str, tmp_path: Path
) -> None:
    with pytest.raises(ExpediteError, match=why):
        read_coco(rewrite(write_coco_panoptic(tmp_path), **change))


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
