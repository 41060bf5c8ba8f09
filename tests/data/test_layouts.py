import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from expedite import ExpediteError
from expedite.data.coco_instances import InstanceRule
from expedite.data.layouts import open_data
from expedite.data.truths import VOID, LabelRule
from expedite.loading import TaskName
from tests.damaged import damaged
from tests.data.coco_data import (
    write_coco_panoptic,
    write_image,
    write_json,
    write_panoptic,
    write_segments,
)

LABELS = [[0, 0, 2, 2], [VOID, 1, 1, 2]]


def write_ade20k(root: Path) -> str:
    name = "ADE_val_00000001"
    write_image(root / f"images/validation/{name}.jpg", (2, 4))
    maps = root / "ade20k_panoptic_val"
    write_panoptic(root / "ade20k_panoptic_val.json", maps, {f"{name}.png": (name, f"{name}.jpg")})
    return "val"


def write_cityscapes(root: Path) -> str:
    number = "frankfurt_000000_000294"
    write_image(root / f"leftImg8bit/val/frankfurt/{number}_leftImg8bit.png", (2, 4))
    maps = root / "gtFine/cityscapes_panoptic_val"
    entry = (number, f"{number}_gtFine_leftImg8bit.png")  # as the published script names it
    write_panoptic(maps.with_suffix(".json"), maps, {f"{number}_gtFine_panoptic.png": entry})
    return "val"


def write_coco(root: Path) -> str:
    write_coco_panoptic(root)
    return "val2017"


def write_scenes(root: Path) -> str:
    write_image(root / "images/val/00000.jpg", (2, 4))
    maps = root / "panoptic/val"
    write_panoptic(root / "panoptic/val.json", maps, {"00000.png": (0, "00000.jpg")})
    return "val"


@pytest.mark.parametrize("write", [write_ade20k, write_cityscapes, write_coco, write_scenes])
def test_panoptic_segments_where_they_are_published(write: object, tmp_path: Path) -> None:
    assert callable(write)
    samples = open_data(tmp_path, write(tmp_path), "panoptic", None)
    assert len(samples) in (1, 2)
    for sample in samples:
        assert sample.image.shape == (2, 4, 3)
        assert sample.panoptic is not None
        assert sample.panoptic.crowd.sum() == 1
        assert sample.labels is not None
        assert sample.labels.tolist() == LABELS


def test_images_are_taken_evenly_in_the_order_of_their_names(tmp_path: Path) -> None:
    split = write_coco(tmp_path)
    first, second = open_data(tmp_path, split, "panoptic", None)
    assert (first.name, second.name) == ("000000000042", "000000000139")
    (only,) = open_data(tmp_path, split, "panoptic", None, limit=1)
    assert only.name == first.name


def test_class_maps_come_from_segments_where_there_are_no_others(tmp_path: Path) -> None:
    split = write_scenes(tmp_path)
    (sample,) = open_data(tmp_path, split, "segmentation", LabelRule())
    assert sample.labels is not None
    assert sample.labels.tolist() == LABELS
    (tmp_path / "annotations/val").mkdir(parents=True)  # a map of its own
    Image.new("L", (4, 2)).save(tmp_path / "annotations/val/00000.png")
    assert open_data(tmp_path, split, "segmentation", LabelRule()).rule == LabelRule()


@pytest.mark.parametrize(
    ("annotations", "image", "split"),
    [
        ("annotations/instances_val2017.json", "val2017/a.jpg", "val2017"),
        ("ade20k_instance_val.json", "images/validation/a.jpg", "val"),
        ("instances/val.json", "images/val/a.jpg", "val"),
    ],
)
@pytest.mark.parametrize("task", ["instance", "detection"])
def test_objects_where_they_are_published(
    annotations: str, image: str, split: str, task: TaskName, tmp_path: Path
) -> None:
    for name in ("a.jpg", "b.jpg"):
        write_image((tmp_path / image).with_name(name), (2, 4))
    images = [{"id": n, "file_name": n, "height": 2, "width": 4} for n in ("b.jpg", "a.jpg")]
    found = {"image_id": "a.jpg", "category_id": 3, "bbox": [0, 0, 2, 2]}
    write_json(tmp_path / annotations, images, [found])
    first, second = open_data(tmp_path, split, task, None)
    assert first.instances is not None
    assert second.instances is not None
    assert first.instances.classes.tolist() == [3]
    assert second.instances.classes.tolist() == []
    write_image(tmp_path / image, (2, 5))
    with pytest.raises(ExpediteError, match=r"json/a\.jpg has shape \(2, 4\) for an image of"):
        open_data(tmp_path, split, task, None)[0]


def test_objects_of_models_for_segments(tmp_path: Path) -> None:
    split = write_coco(tmp_path)
    panoptic = tmp_path / "annotations/panoptic_val2017.json"
    objects = json.loads(panoptic.read_text())
    objects |= {"annotations": [], "categories": [{"id": 1}, {"id": 3}]}
    panoptic.with_name("instances_val2017.json").write_text(json.dumps(objects))
    rule = open_data(tmp_path, split, "instance", None).rule
    assert isinstance(rule, InstanceRule)
    assert rule.numberings == ((1, 3), (1, 3, 200))


def test_images_without_annotations(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", (2, 4))
    (sample,) = open_data(tmp_path, "val", "panoptic", None)
    assert sample.panoptic is None


def test_segments_of_another_size(tmp_path: Path) -> None:
    split = write_scenes(tmp_path)
    write_segments(tmp_path / "panoptic/val/00000.png", [[1, 1, 256]])
    with pytest.raises(ExpediteError, match=r"00000\.png has shape \(1, 3\) for an image of"):
        open_data(tmp_path, split, "panoptic", None)[0]


@pytest.mark.parametrize("lost", ["images/val/00000.jpg", "panoptic/val/00000.png"])
def test_files_that_are_missing(lost: str, tmp_path: Path) -> None:
    split = write_scenes(tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(ExpediteError, match=rf"1 files that .*val\.json names.*{lost}"):
        open_data(tmp_path, split, "panoptic", None)


def test_a_split_that_annotates_nothing(tmp_path: Path) -> None:
    split = write_scenes(tmp_path)
    write_panoptic(tmp_path / "panoptic/val.json", tmp_path / "panoptic/val", {})
    with pytest.raises(ExpediteError, match=r"val\.json annotates no image"):
        open_data(tmp_path, split, "panoptic", None)


def write_clips(root: Path, **changes: Any) -> Path:
    """Two images of one name in two folders, with an object each."""
    images, annotations = [], []
    for number, clip in enumerate(("clip1", "clip2")):
        write_image(root / f"val/{clip}/1.png", (2, 4))
        name = f"{clip}/1.png"
        images.append({"id": number, "file_name": name, "height": 2, "width": 4, **changes})
        box = {"bbox": [number, 0, 1, 1], "category_id": 1}
        annotations.append({"id": number, "image_id": number, **box})
    return write_json(root / "annotations/instances_val.json", images, annotations)


def test_images_of_one_name_in_two_folders_keep_their_own_objects(tmp_path: Path) -> None:
    write_clips(tmp_path)
    samples = open_data(tmp_path, "val", "detection", None)
    found = [sample.instances.boxes.tolist() for sample in samples if sample.instances]
    assert found == [[[0, 0, 1, 1]], [[1, 0, 1, 1]]]


@pytest.mark.parametrize("name", ["../../private.png", "clip1/../../../private.png"])
def test_names_that_leave_the_data_are_refused(name: str, tmp_path: Path) -> None:
    write_image(tmp_path / "private.png", (2, 4))
    root = tmp_path / "data"
    path = write_clips(root)
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = name
    path.write_text(json.dumps(content))
    with pytest.raises(ExpediteError, match=r"names .*private\.png, which lies outside of "):
        open_data(root, "val", "detection", None)


def test_a_link_of_ones_own_may_lead_elsewhere(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_clips(root)
    (root / "val").rename(tmp_path / "elsewhere")
    (root / "val").symlink_to(tmp_path / "elsewhere")
    assert len(open_data(root, "val", "detection", None)) == 2


def test_segments_outside_of_the_data_are_refused(tmp_path: Path) -> None:
    path = write_coco_panoptic(tmp_path / "data")
    content = json.loads(path.read_text())
    content["annotations"][0]["file_name"] = "../../../a.png"
    path.write_text(json.dumps(content))
    with pytest.raises(ExpediteError, match=r"a\.png, which lies outside of "):
        open_data(tmp_path / "data", "val2017", "panoptic", None)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x" * 400, "1 files that .* names are missing"),
        ("a\0b.png", "not an annotation file of COCO: .* the file name 'a.+b.png'"),
        ("\ud800.png", "not an annotation file of COCO: .* the file name"),
        ("a\n.png", "not an annotation file of COCO: .* the file name"),
    ],
)
def test_names_that_no_file_has_are_refused(name: str, said: str, tmp_path: Path) -> None:
    path = write_clips(tmp_path)
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = name
    path.write_text(json.dumps(content))
    with pytest.raises(ExpediteError, match=said):
        open_data(tmp_path, "val", "detection", None)


def test_a_bad_object_is_left_out_and_told_unless_all_is_to_be_sound(tmp_path: Path) -> None:
    path = write_clips(tmp_path)
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"] = [0, 0, 90, 1]
    path.write_text(json.dumps(content))
    samples = open_data(tmp_path, "val", "detection", None)
    assert [len(sample.instances.classes) for sample in samples if sample.instances] == [0, 1]
    assert "1 of 2 objects" in samples.notes()[0]
    with pytest.raises(ExpediteError, match=r"holds what cannot be read: object 0 in clip1/1\.png"):
        open_data(tmp_path, "val", "detection", None, strict=True)


def test_other_objects_are_other_data(tmp_path: Path) -> None:
    path = write_clips(tmp_path)
    before = open_data(tmp_path, "val", "detection", None).fingerprint()
    assert open_data(tmp_path, "val", "detection", None).fingerprint() == before
    path.write_text(path.read_text().replace("[1, 0, 1, 1]", "[1, 1, 1, 1]"))
    os.utime(path, ns=(0, 0))
    assert open_data(tmp_path, "val", "detection", None).fingerprint() != before


PANOPTIC = [{"id": 1, "category_id": 1, "iscrowd": 0}, {"id": 2, "category_id": 7}]
OBJECTS: list[dict[str, Any]] = [
    {
        **{"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 1, 3, 3], "area": 9},
        **{"iscrowd": 0, "segmentation": [[1, 1, 4, 1, 4, 4, 1, 4]]},
    },
    {
        **{"id": 2, "image_id": 2, "category_id": 1, "bbox": [0, 0, 8, 6], "area": 48},
        **{"iscrowd": 1, "segmentation": {"size": [6, 8], "counts": [10, 20, 18]}},
    },
    {
        **{"id": 3, "image_id": 2, "category_id": 1, "bbox": [0, 0, 8, 6]},
        **{"segmentation": {"size": [6, 8], "counts": "`1"}},
    },
]
SEGMENTS = [{"image_id": n, "file_name": f"{n}.png", "segments_info": [*PANOPTIC]} for n in (1, 2)]


@pytest.mark.parametrize(
    ("task", "file", "annotations"),
    [
        ("instance", "instances_val", OBJECTS),
        ("detection", "instances_val", OBJECTS),
        ("panoptic", "panoptic_val", SEGMENTS),
        ("segmentation", "panoptic_val", SEGMENTS),
    ],
)
def test_damaged_annotations_are_left_out_or_refused_in_one_sentence(
    task: Any, file: str, annotations: list[dict[str, Any]], tmp_path: Path
) -> None:
    """A part left out or replaced by what nobody meant; a sample of some 2000 of each."""
    images = [{"id": n, "file_name": f"{n}.png", "height": 6, "width": 8} for n in (1, 2)]
    content = {
        "images": images,
        "categories": [{"id": 1, "name": "x", "isthing": 1}, {"id": 7, "name": "y"}],
        "annotations": annotations,
    }
    for number in (1, 2):
        write_image(tmp_path / f"val/{number}.png", (6, 8))
        write_segments(tmp_path / f"annotations/panoptic_val/{number}.png", [[0, 1, 2, 2] * 2] * 6)
    path = tmp_path / f"annotations/{file}.json"
    path.write_text(json.dumps(content))
    rule = LabelRule() if task == "segmentation" else None
    assert len([*open_data(tmp_path, "val", task, rule)]) == 2
    refused = 0
    for damage in random.Random(0).sample([*damaged(content)], 120):
        path.write_text(json.dumps(damage))
        try:
            found = open_data(tmp_path, "val", task, rule)
            notes = [*found.notes(), *(sample.name for sample in found)]
        except ExpediteError as error:
            refused += 1
            notes = [str(error)]
        assert not any("\n" in note for note in notes)
    assert refused > 10
