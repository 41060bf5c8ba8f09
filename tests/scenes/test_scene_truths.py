"""Truths in COCO's form: what pycocotools reads in them is what was rendered."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from expedite.scenes.scene_truths import pack_mask
from expedite.scenes.scenes import CLASSES, Scene, render_scene, scene_seed, write_scenes

coco_mask = pytest.importorskip("pycocotools.mask")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SIZE = (48, 72)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, "val", 3, SIZE)
    return folder


def scenes() -> list[Scene]:
    return [render_scene(scene_seed("val", index), SIZE) for index in range(3)]


@given(st.tuples(st.integers(1, 40), st.integers(1, 40)), st.floats(0, 1), st.integers(0, 1000))
def test_masks_are_packed_as_pycocotools_packs_them(
    size: tuple[int, int], share: float, seed: int
) -> None:
    mask = np.random.default_rng(seed).random(size) < share
    packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    assert pack_mask(mask) == packed.decode()


@pytest.mark.parametrize("value", [False, True])
def test_long_runs_take_several_characters(value: bool) -> None:
    mask = np.full((300, 500), value)
    packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    assert pack_mask(mask) == packed.decode()


def test_instances_are_the_things_of_the_scenes(root: Path) -> None:
    content = json.loads((root / "instances/val.json").read_text())
    assert [image["file_name"] for image in content["images"]] == [f"{i:05d}.jpg" for i in range(3)]
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert set(names.values()) == {"building", "fence", "tree", "car", "column", "ball"}
    found = [np.zeros(SIZE, int) for _ in range(3)]
    for annotation in content["annotations"]:
        mask = coco_mask.decode(annotation["segmentation"]).astype(bool)
        scene = scenes()[annotation["image_id"]]
        (instance,) = np.unique(scene.instances[mask])
        assert CLASSES[scene.labels[mask][0]] == names[annotation["category_id"]]
        assert annotation["area"] == mask.sum()
        assert annotation["bbox"] == coco_mask.toBbox(annotation["segmentation"]).tolist()
        assert annotation["iscrowd"] == 0
        found[annotation["image_id"]][mask] = instance
    for instances, scene in zip(found, scenes(), strict=True):
        np.testing.assert_array_equal(instances, scene.instances)
    numbers = [annotation["id"] for annotation in content["annotations"]]
    assert len({*numbers}) == len(numbers)
    assert min(numbers) == 1  # pycocotools takes 0 for no match


def test_panoptic_segments_are_objects_and_classes_of_stuff(root: Path) -> None:
    content = json.loads((root / "panoptic/val.json").read_text())
    is_thing = {category["id"]: category["isthing"] for category in content["categories"]}
    for annotation, scene in zip(content["annotations"], scenes(), strict=True):
        colours = np.asarray(Image.open(root / "panoptic/val" / annotation["file_name"])).astype(
            int
        )
        ids = colours @ [1, 256, 256**2]
        for segment in annotation["segments_info"]:
            mask = ids == segment["id"]
            label = segment["category_id"]
            assert mask.sum() == segment["area"] > 0
            assert {*scene.labels[mask]} == {label}
            same = scene.labels == label
            if is_thing[label]:
                same = scene.instances == scene.instances[mask][0]
            np.testing.assert_array_equal(mask, same)
        assert {segment["id"] for segment in annotation["segments_info"]} == {*np.unique(ids)}
