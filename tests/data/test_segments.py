import numpy as np

from expedite.data.segments import NO_SEGMENT, Segments

# Two things of class 2, two pieces of stuff of class 0, and a number that nobody explains.
IDS = np.array([[5, 5, 9], [70000, 3, 8]])
FOUND = Segments.of_ids(IDS, {9: 2, 5: 0, 8: 0, 70000: 2}, of_classes=3, crowd={70000})


def test_numbers_become_segments() -> None:
    assert FOUND.shape == (2, 3)
    assert FOUND.map.tolist() == [[1, 1, 0], [3, NO_SEGMENT, 2]]
    assert FOUND.classes.tolist() == [2, 0, 0, 2]
    assert FOUND.crowd.tolist() == [False, False, False, True]


def test_the_class_of_each_pixel() -> None:
    assert FOUND.semantic(void=255).tolist() == [[0, 0, 2], [2, 255, 0]]


def test_stuff_is_one_segment_and_things_stay_apart() -> None:
    fused = FOUND.fused({0, 1})
    assert len(fused.classes) == 3
    assert fused.map[0, 0] == fused.map[0, 1] == fused.map[1, 2]
    assert len(np.unique(fused.map)) == 4
    assert fused.map[1, 1] == NO_SEGMENT
    assert np.array_equal(fused.semantic(255), FOUND.semantic(255))
    assert fused.crowd[fused.map[1, 0]]
    assert fused.crowd.sum() == 1


def test_nothing_at_all() -> None:
    empty = Segments.of_ids(np.zeros((1, 2), int), {}, of_classes=3)
    assert empty.fused({0}).map.tolist() == [[NO_SEGMENT] * 2]
    assert empty.semantic(255).tolist() == [[255, 255]]
