from collections import Counter

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchmetrics.detection import PanopticQuality

from expedite import ExpediteError
from expedite.data.segments import NO_SEGMENT, Segments
from expedite.evaluate.tasks.panoptic_quality import PanopticCounts, Quality

CLASSES = 4
BOOK = dict[str, "Counter[int]"]


def segments(map_: list[list[int]], classes: list[int], crowd: tuple[int, ...] = ()) -> Segments:
    """Pixels say which place in `classes` they are of, -1 for none."""
    numbers = dict(enumerate(classes))
    return Segments.of_ids(np.array(map_), numbers, CLASSES, crowd)


def counts(*pairs: tuple[Segments, Segments]) -> PanopticCounts:
    found = PanopticCounts(CLASSES)
    for truth, answer in pairs:
        found.add(truth, answer)
    return found


def random_segments(rng: np.random.Generator, cells: int, void: bool, crowds: bool) -> Segments:
    """Cells of 3×3 pixels, several of which are one segment, with one crowd a class at most."""
    rows = rng.integers(0, cells, (4, 5)).repeat(3, 0).repeat(3, 1)
    rows = np.roll(rows, rng.integers(0, 2, 2), (0, 1))
    classes = dict(enumerate(rng.integers(0, CLASSES, cells).tolist()))
    if void:
        rows[rng.random(rows.shape) < 0.25] = cells
    first = {kind: number for number, kind in reversed(classes.items())}
    crowd = {first[kind] for kind in list(first)[:2]} if crowds else ()
    return Segments.of_ids(rows, classes, CLASSES, crowd)


def like(rng: np.random.Generator, truth: Segments, void: bool) -> Segments:
    """An answer that has much of a truth right."""
    rows = np.where(rng.random(truth.shape) < 0.2, np.roll(truth.map, 1, 1), truth.map)
    classes = truth.classes.copy()
    classes[rng.random(len(classes)) < 0.2] = 0
    if not void:
        rows = np.where(rows == NO_SEGMENT, 0, rows)
    return shown(rows, classes)


def shown(rows: NDArray[np.int32], classes: NDArray[np.int64]) -> Segments:
    """Only the segments that have a pixel."""
    return Segments.of_ids(rows, {n: int(classes[n]) for n in np.unique(rows) if n >= 0}, CLASSES)


def by_the_book(truth: Segments, answer: Segments) -> BOOK:
    """The rules of panopticapi in sets of pixels, one segment after the other."""
    pixels = [
        [{*np.flatnonzero(s.map == n).tolist()} for n in range(len(s.classes))]
        for s in (truth, answer)
    ]
    void = {*np.flatnonzero(truth.map == NO_SEGMENT).tolist()}
    book: BOOK = {name: Counter() for name in ("iou", "found", "missed", "false")}
    hits = set()
    for t, true in enumerate(pixels[0]):
        kind = int(truth.classes[t])
        if truth.crowd[t]:
            continue
        for a, found in enumerate(pixels[1]):
            union = len(true | (found - void))
            if answer.classes[a] == kind and len(true & found) / union > 0.5:
                hits.add(a)
                book["found"][kind] += 1
                book["iou"][kind] += len(true & found) / union  # type: ignore[assignment]
                break
        else:
            book["missed"][kind] += 1
    for a, found in enumerate(pixels[1]):
        kind = int(answer.classes[a])
        crowds = [
            true for t, true in enumerate(pixels[0]) if truth.crowd[t] and truth.classes[t] == kind
        ]
        if a not in hits and len(found & void.union(*crowds)) / len(found) <= 0.5:
            book["false"][kind] += 1
    return book


@pytest.mark.parametrize("seed", range(40))
def test_equals_the_rules_of_panopticapi(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = random_segments(rng, 9, void=True, crowds=True)
    answer = like(rng, truth, void=True)
    found, book = counts((truth, answer)), by_the_book(truth, answer)
    figures = {"missed": found.missed, "false": found.false}
    figures["iou"] = np.array([sum(ious) for ious in found.ious])
    figures["found"] = np.array([len(ious) for ious in found.ious])
    for name, expected in book.items():
        values = [expected[kind] for kind in range(CLASSES)]
        assert figures[name].tolist() == pytest.approx(values)


def test_the_order_of_images_changes_nothing() -> None:
    """To the last digit, counted apart and merged too; 1/3 added up thrice is not 1."""
    rng = np.random.default_rng(0)
    truths = [random_segments(rng, 9, void=True, crowds=True) for _ in range(12)]
    pairs = [(truth, like(rng, truth, void=True)) for truth in truths]
    whole, parts = counts(*pairs), counts(*pairs[7:])
    parts.merge(counts(*pairs[3:7]))
    parts.merge(counts(*pairs[:3]))
    assert parts.quality() == whole.quality()


def test_equals_torchmetrics_where_it_has_the_same_rules() -> None:
    """Without crowds, and with a class for every pixel of an answer."""
    rng = np.random.default_rng(0)
    metric = PanopticQuality(
        things={*range(CLASSES)}, stuffs=set(), return_sq_and_rq=True,
        allow_unknown_preds_category=True,
    )  # fmt: skip
    found = PanopticCounts(CLASSES)
    for _ in range(10):
        drawn = random_segments(rng, 9, void=True, crowds=False)
        truth = shown(drawn.map, drawn.classes)
        answer = like(rng, truth, void=False)
        found.add(truth, answer)
        colours = [
            torch.from_numpy(np.stack([s.semantic(CLASSES), s.map], -1))[None]
            for s in (answer, truth)
        ]
        metric.update(*colours)
    assert found.quality() == pytest.approx(tuple(metric.compute().tolist()))


def test_by_hand() -> None:
    truth = segments([[0, 0, 0, 0, 1, 1, 2, 2]], [0, 1, 1])
    answer = segments([[0, 0, 0, 1, 1, 1, 2, 2]], [0, 1, 3])
    found = counts((truth, answer))
    # Class 0: IoU 3/4. Class 1: 2/3, and one missed. Class 3: one false. Class 2: not there.
    assert found.ious == [[3 / 4], [2 / 3], [], []]
    recognition = [1, 1 / 1.5, 0]
    panoptic = [3 / 4, 2 / 3 / 1.5, 0]
    assert found.quality() == pytest.approx(
        (sum(panoptic) / 3, (3 / 4 + 2 / 3) / 3, sum(recognition) / 3)
    )
    only = np.array([True, False, False, False])
    assert found.quality(only) == pytest.approx((3 / 4, 3 / 4, 1))
    assert found.quality(~only[::-1] & ~only) == pytest.approx((2 / 3 / 1.5, 2 / 3, 1 / 1.5))


def test_an_iou_of_a_half_is_no_match() -> None:
    found = counts((segments([[0, 0, -1, 1]], [0, 1]), segments([[0, 1, 1, 1]], [0, 1])))
    # Class 0: 1/2. Class 1: 1/2 without the void pixel, which would make it 1/3.
    assert (found.ious, found.missed.sum(), found.false.sum()) == ([[]] * CLASSES, 2, 2)


def test_void_pixels_of_the_truth_do_not_count_and_those_of_an_answer_do() -> None:
    truth, all_of_it = segments([[0, 0, -1, -1]], [0]), segments([[0, 0, 0, 0]], [0])
    assert counts((truth, all_of_it)).ious[0] == [1]
    part = segments([[0, 0, 0, -1]], [0])
    assert counts((all_of_it, part)).ious[0] == [3 / 4]


@pytest.mark.parametrize(("kind", "false"), [(2, 0), (3, 1)])
def test_answers_in_a_crowd_of_their_class_are_not_false(kind: int, false: int) -> None:
    truth = segments([[0, 0, 0, 1]], [2, 0], crowd=(0,))
    found = counts((truth, segments([[0, 0, 0, 1]], [kind, 0])))
    assert (found.false.sum(), found.missed.sum()) == (false, 0)


def test_void_and_crowd_are_added_up_for_what_is_ignored() -> None:
    truth = segments([[-1, -1, 0, 1, 1]], [2, 0], crowd=(0,))
    answer = segments([[0, 0, 0, 0, 0]], [2])
    assert counts((truth, answer)).false.sum() == 0  # 3 of 5
    assert counts((segments([[-1, -1, 0, 1, 1]], [0, 0]), answer)).false.sum() == 1  # 2 of 5


def test_a_segment_without_pixels_is_missed() -> None:
    truth = segments([[0, 0]], [0, 1])  # as where things lie over all of it
    assert counts((truth, segments([[0, 0]], [0]))).missed.tolist() == [0, 1, 0, 0]


def test_nothing_counted_is_no_figure() -> None:
    empty = segments([[-1]], [])
    assert counts((empty, empty)).quality() is None
    assert counts().quality() is None
    assert counts((segments([[0]], [1]), empty)).quality() == Quality(0, 0, 0)


def test_another_number_of_classes_is_refused() -> None:
    other = Segments.of_ids(np.zeros((1, 1), int), {0: 0}, of_classes=7)
    with pytest.raises(ExpediteError, match="the data has 7 classes and the model 4"):
        counts((other, segments([[0]], [0])))
