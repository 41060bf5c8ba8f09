"""Boundaries and small parts, against slow loops and by hand."""

import subprocess
import sys
from math import hypot, isnan

import pytest
import torch
from torch import Tensor

from expedite.data.truths import VOID
from expedite.measure.details import SMALL, TOLERANCE, Details


def outline(mask: Tensor, counts: Tensor) -> list[tuple[int, int]]:
    """Pixels that count and have a neighbour outside the mask."""
    height, width = mask.shape
    found = []
    for y, x in mask.nonzero().tolist():
        around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        inside = [(j, i) for j, i in around if 0 <= j < height and 0 <= i < width]
        if counts[y, x] and not all(mask[place] for place in inside):
            found.append((y, x))
    return found


def slow_f(truth: Tensor, answer: Tensor) -> float:
    """The mean F-score of boundaries, pixel by pixel."""
    reach = max(1.0, TOLERANCE * hypot(*truth.shape))
    counts = torch.ones_like(truth, dtype=torch.bool)
    for y, x in (truth == VOID).nonzero().tolist():
        for j, i in ((y, x), (y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= j < truth.shape[0] and 0 <= i < truth.shape[1]:
                counts[j, i] = False
    scores = []
    for index in range(4):
        true, found = outline(truth == index, counts), outline(answer == index, counts)
        if not true:
            continue
        near = [
            sum(any(hypot(y - j, x - i) <= reach for j, i in others) for y, x in own)
            for own, others in ((true, found), (found, true))
        ]
        recall, precision = near[0] / len(true), near[1] / max(1, len(found))
        both = recall + precision
        scores.append(2 * recall * precision / both if both else 0.0)
    return sum(scores) / len(scores)


def blobs(seed: int, size: tuple[int, int] = (90, 120)) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 4, (1, 1, 9, 12), generator=generator).float()
    return torch.nn.functional.interpolate(coarse, size).long()[0, 0]


@pytest.mark.parametrize("seed", range(3))
def test_boundaries_equal_a_slow_loop(seed: int) -> None:
    truth, answer = blobs(seed), blobs(seed).roll((seed, 1), (0, 1))
    answer[10:25, 20:40] = 3
    truth[60:70, 30:50] = VOID
    details = Details(classes=4)
    details.add(truth, answer)
    assert details.boundary_f() == pytest.approx(slow_f(truth, answer), abs=1e-6)


def test_only_small_parts_count_as_such() -> None:
    truth = torch.zeros(60, 80, dtype=torch.int64)
    least = int(SMALL * truth.numel())  # 16
    truth[2, 2 : 2 + least - 1] = 1  # one pixel less than the limit
    truth[30:40, 30:50] = 1
    answer = truth.clone()
    answer[30:40, 30:50] = 0  # a large part is lost
    answer[2, 2:5] = 2  # and three pixels of the small one
    details = Details(classes=3)
    details.add(truth, answer)
    assert details.small == least - 1
    assert details.small_recall() == pytest.approx((least - 4) / (least - 1))


def test_images_counted_apart_add_up() -> None:
    together, first, second = Details(4), Details(4), Details(4)
    for seed, part in enumerate((first, second)):
        truth, answer = blobs(seed), blobs(seed).roll(2, 0)
        part.add(truth, answer)
        together.add(truth, answer)
    first.merge(second)
    assert first.boundary_f() == together.boundary_f()
    assert (first.found, first.small) == (together.found, together.small)


def test_a_class_that_is_found_nowhere_else_than_in_the_answer_lowers_nothing() -> None:
    truth = torch.zeros(40, 40, dtype=torch.int64)
    truth[10:20, 10:20] = 1
    answer = truth.clone()
    answer[30:35, 30:35] = 2
    details = Details(classes=3)
    details.add(truth, answer)
    # The hole in class 0 is a boundary of 20 more pixels around it, corners left out.
    precision = 40 / (40 + 20)
    assert details.boundary_f() == pytest.approx((1 + 2 * precision / (1 + precision)) / 2)


def test_nothing_to_count_is_no_number() -> None:
    details = Details(classes=2)
    details.add(torch.full((20, 20), VOID), torch.zeros(20, 20, dtype=torch.int64))
    assert isnan(details.boundary_f())
    assert isnan(details.small_recall())


def test_tasks_are_known_where_opencv_cannot_be_imported() -> None:
    """It wants libraries that a bare system lacks, and is asked for when pixels are counted."""
    code = "import sys; sys.modules['cv2'] = None; import expedite.evaluate.tasks"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
