from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from expedite.data.instances import Instances
from expedite.data.segments import NO_SEGMENT, Segments
from expedite.drawing.drawing import (
    CHANGED,
    changed_segments,
    class_colours,
    draw_classes,
    draw_depth,
    draw_segments,
    tint,
)
from expedite.drawing.drawing_objects import draw_objects, partners

IMAGE = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)


def test_classes_are_told_apart() -> None:
    colours = tint(np.full((1, 12, 3), 128, np.uint8), class_colours(12)[None])
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 12
    assert class_colours(0).shape == (0, 3)


def test_pixels_of_another_class_are_marked() -> None:
    before = torch.zeros(40, 60, dtype=torch.long)
    after = before.clone()
    after[:10] = 3
    first, second, third = draw_classes(IMAGE, before, after)
    assert [panel.name for panel in (first, second, third)] == ["before", "after", "difference"]
    assert first.image.shape == third.image.shape
    marked = (third.image == CHANGED).all(-1)
    quarter = len(marked) // 4
    assert marked[:quarter].all()
    assert not marked[quarter + 1 :].any()
    assert third.caption == "25.00 % of pixels have another class"


def test_names_stand_in_what_they_name() -> None:
    classes = torch.zeros(40, 60, dtype=torch.long)
    classes[:, 30:] = 1
    plain, *_ = draw_classes(IMAGE, classes, classes)
    named, *_ = draw_classes(IMAGE, classes, classes, ["sky", "ball", "never there"])
    differs = (plain.image != named.image).any(-1)
    half = differs.shape[1] // 2
    quarter = half // 2
    assert differs[:, quarter - 20 : quarter + 20].any()  # in the middle of either region
    assert differs[:, half + quarter - 20 : half + quarter + 20].any()
    assert not differs[:, half - 40 : half + 40].any()


def test_depth_is_drawn_on_one_scale() -> None:
    before = torch.linspace(1, 9, 2400).reshape(40, 60)
    first, second, third = draw_depth(IMAGE, before, before + 0.5, unit=" m")
    assert first.scale == second.scale
    assert third.scale is not None and third.scale.ends() == ("-0.5 m", "0.5 m")
    assert third.caption.startswith("after − before; 0.5 m on average")
    blue = third.image[0, 0]
    assert blue[2] > blue[0]  # farther than before


def test_depth_that_did_not_change() -> None:
    same = torch.ones(40, 60)
    panels = draw_depth(IMAGE, same, same)
    assert all(np.isfinite(panel.image).all() for panel in panels)


def segments(rows: list[list[int]], classes: dict[int, int]) -> Segments:
    return Segments.of_ids(np.array(rows), classes, 9)


@pytest.mark.parametrize(
    ("after", "classes", "changed"),
    [
        ([[7, 7, 9, 0]], {7: 1, 9: 2}, [False] * 4),  # other numbers are no change
        ([[7, 9, 9, 0]], {7: 1, 9: 2}, [False, True, False, False]),
        ([[7, 7, 9, 0]], {7: 1, 9: 3}, [False, False, True, False]),  # another class
        ([[7, 8, 9, 0]], {7: 1, 8: 1, 9: 2}, [False, True, False, False]),  # split
        ([[0, 0, 9, 9]], {9: 2}, [True, True, False, True]),
        ([[0, 0, 0, 0]], {}, [True, True, True, False]),
    ],
)
def test_pixels_that_went_to_another_segment(
    after: list[list[int]], classes: dict[int, int], changed: list[bool]
) -> None:
    before = segments([[1, 1, 2, 0]], {1: 1, 2: 2})
    found = changed_segments(before, segments(after, classes))
    assert found[0].tolist() == changed


def test_segments_are_drawn_with_borders_and_without_any() -> None:
    ids = np.zeros((40, 60), int)
    ids[:, 30:] = 5
    found = Segments.of_ids(ids, {0: 1, 5: 1}, 3)
    first, _, third = draw_segments(IMAGE, found, found)
    assert (first.image[:, first.image.shape[1] // 2 - 1] == 255).all()  # between two of one class
    assert first.caption == "segments: 2"
    assert third.caption.startswith("0.00 %")
    no_map = np.full((40, 60), NO_SEGMENT, np.int32)
    nothing = Segments(no_map, np.zeros(0, int), 3, np.zeros(0, bool))
    assert draw_segments(IMAGE, nothing, nothing)[0].caption == "segments: 0"


def objects(
    boxes: list[list[float]], classes: list[int], scores: list[float], masks: Any = None
) -> Instances:
    count = len(boxes)
    return Instances(
        shape=(40, 60),
        classes=np.array(classes, np.int64),
        boxes=np.array(boxes, np.float64).reshape(count, 4),
        masks=masks,
        scores=np.array(scores, np.float64),
        crowd=np.zeros(count, bool),
        areas=np.zeros(count),
    )


LEFT, RIGHT = [2.0, 2, 16, 20], [40.0, 5, 16, 30]


def test_an_object_is_the_one_of_its_class_that_overlaps_most() -> None:
    pytest.importorskip("pycocotools")
    before = objects([LEFT, RIGHT, LEFT], [1, 1, 2], [0.9, 0.8, 0.7])
    moved = [3.0, 2, 16, 20]
    assert partners(before, objects([RIGHT, moved], [1, 1], [1, 1])) == [1, 0, None]
    assert partners(before, objects([LEFT], [1], [1])) == [0, None, None]
    far = [20.0, 2, 16, 20]
    assert partners(before, objects([far], [1], [1])) == [None] * 3
    assert partners(before, objects([], [], [])) == [None] * 3
    assert partners(objects([], [], []), before) == []


def test_each_object_has_one_partner_and_the_surest_choose_first() -> None:
    pytest.importorskip("pycocotools")
    before = objects([LEFT, LEFT], [1, 1], [0.6, 0.9])
    assert partners(before, objects([LEFT], [1], [1])) == [None, 0]


def test_objects_are_drawn_where_they_are() -> None:
    pytest.importorskip("pycocotools")
    before = objects([LEFT, RIGHT], [1, 2], [0.9, 0.4])
    after = objects([RIGHT], [3], [0.9])
    first, second, third = draw_objects(IMAGE, before, after)
    assert first.caption == "objects of score 0.5 or more: 1"
    assert third.caption == "1 lost (red), 1 new (blue), 0 alike"
    high, wide = third.image.shape[0] / 40, third.image.shape[1] / 60
    assert colour_at(third.image, 2 * high, 10 * wide) == CHANGED  # the upper edge
    above = 5 * high, 48 * wide
    assert colour_at(third.image, *above) == (20, 90, 220)
    assert colour_at(second.image, *above) != colour_at(first.image, *above)


def test_masks_are_drawn_and_nothing_is_too() -> None:
    pytest.importorskip("pycocotools")
    masks = np.zeros((1, 40, 60), bool)
    masks[0, :20] = True
    found = Instances.of_masks(masks, np.array([4]), np.array([0.9]))
    first, _, third = draw_objects(np.full_like(IMAGE, 100), found, found)
    middle = len(first.image) // 2
    assert (first.image[: middle - 4] != 100).all()
    assert (first.image[middle + 4 :] == 100).all()
    assert third.caption == "0 lost (red), 0 new (blue), 1 alike"
    nothing = objects([], [], [])
    assert draw_objects(IMAGE, nothing, nothing)[2].caption.startswith("0 lost")


def colour_at(image: NDArray[np.uint8], row: float, column: float) -> tuple[int, ...]:
    return tuple(image[round(row), round(column)].tolist())
