from types import SimpleNamespace

import numpy as np
import pytest
import torch

from expedite import ExpediteError
from expedite.data.segments import NO_SEGMENT
from expedite.evaluate.tasks.queries import (
    has_queries,
    read_instances,
    read_panoptic,
    read_semantic,
)
from tests.evaluate.tasks.query_outputs import SURE, masks_of, output_of

FAMILIES = ["MaskFormer", "Mask2Former", "OneFormer"]
HALVES = [[0, 1], [0, 1]]


@pytest.mark.parametrize("family", FAMILIES)
def test_segments_at_the_size_of_the_image(family: str) -> None:
    output = output_of([2, 0], masks_of(HALVES, 2), classes=3, family=family)
    assert has_queries(output)
    found = read_panoptic(output, (4, 8))
    assert found.of_classes == 3
    assert found.classes.tolist() == [2, 0]
    assert found.map.tolist() == [[0] * 4 + [1] * 4] * 4


@pytest.mark.parametrize("family", FAMILIES)
def test_the_class_of_each_pixel(family: str) -> None:
    output = output_of([2, 0], masks_of(HALVES, 2), classes=3, family=family)
    assert read_semantic(output, (4, 8)).tolist() == [[2] * 4 + [0] * 4] * 4


def test_queries_of_no_object_and_unsure_ones_are_left_out() -> None:
    """At 0.8, which is published; the processors' own default is 0.5."""
    unsure = float(torch.tensor(0.7 / 0.15).log())  # 0.7 against twice 0.15
    masks = masks_of([[0, 1, 2, 2]], 3)
    output = output_of([3, 1, 0], masks, classes=3, sureness=[20.0, unsure, 20.0])
    found = read_panoptic(output, (1, 4))
    assert found.classes.tolist() == [0]


def test_nothing_found() -> None:
    found = read_panoptic(output_of([2, 2], masks_of(HALVES, 2), classes=2), (3, 5))
    assert found.map.tolist() == [[NO_SEGMENT] * 5] * 3
    assert len(found.classes) == 0


def test_stuff_in_pieces_takes_nothing_from_things() -> None:
    """Stuff, a thing, the same stuff again and another thing."""
    output = output_of([0, 1, 0, 2], masks_of([[0, 1, 2, 3]], 4), classes=3)
    found = read_panoptic(output, (1, 4)).fused({0})
    assert len({*found.map.ravel().tolist()}) == 3
    assert found.semantic(255).tolist() == [[0, 1, 0, 2]]
    assert found.map[0, 0] == found.map[0, 2]


def test_low_precision_is_read_as_the_same_segments() -> None:
    output = output_of([2, 0], masks_of(HALVES, 2).bfloat16(), classes=3)
    plain = output_of([2, 0], masks_of(HALVES, 2), classes=3)
    assert np.array_equal(read_panoptic(output, (4, 4)).map, read_panoptic(plain, (4, 4)).map)


@pytest.mark.parametrize("family", FAMILIES)
def test_instances_are_all_queries_whatever_their_score(family: str) -> None:
    masks = masks_of([[0, 1], [0, 2]], 3)
    output = output_of([2, 0, 3], masks, classes=3, sureness=[20, 0.5, 20], family=family)
    found = read_instances(output, (4, 8))
    assert (found.shape, found.of_classes) == ((4, 8), 3)
    kinds, scores = found.classes.tolist(), found.scores.tolist()
    first, second = kinds.index(2), kinds.index(0)
    assert found.boxes[first].tolist() == [0, 0, 4, 4]
    assert found.areas[first] == 16
    assert 0.95 < scores[first] <= 1
    assert 0.3 < scores[second] < 0.4  # a logit of 1/2 against three of 0
    assert found.boxes[second].tolist() == [4, 0, 4, 2]


def test_instances_where_there_are_none() -> None:
    empty = torch.full((1, 2, 2, 2), -SURE)
    found = read_instances(output_of([0, 1], empty, classes=2), (3, 5))
    assert (len(found.classes), found.shape, found.masks) == (0, (3, 5), [])


def test_instances_of_a_processor_that_gives_one_map() -> None:
    class EomtForUniversalSegmentationOutput(SimpleNamespace):
        pass

    output = EomtForUniversalSegmentationOutput(
        class_queries_logits=torch.zeros(1, 1, 2), masks_queries_logits=torch.zeros(1, 1, 2, 2)
    )
    with pytest.raises(ExpediteError, match="whose processor gives no mask for each; those of Mas"):
        read_instances(output, (2, 2))


def test_a_family_without_a_processor_is_refused() -> None:
    class EomtlikeForSegmentationOutput(SimpleNamespace):
        pass

    output = EomtlikeForSegmentationOutput(
        class_queries_logits=torch.zeros(1, 1, 2), masks_queries_logits=torch.zeros(1, 1, 2, 2)
    )
    with pytest.raises(ExpediteError, match="has no EomtlikeImageProcessor to read them"):
        read_panoptic(output, (2, 2))
