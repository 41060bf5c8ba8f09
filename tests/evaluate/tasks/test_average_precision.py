from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from expedite import ExpediteError
from expedite.data.instances import Instances
from expedite.evaluate.tasks.average_precision import Kind, average_precision, renumbered

SIDE = 40
Pairs = list[tuple[Instances, Instances]]


def rectangles(boxes: list[list[int]]) -> NDArray[np.bool_]:
    """Masks of boxes (left, top, width, height) whose lower right corner is cut out."""
    masks = np.zeros((len(boxes), SIDE, SIDE), bool)
    for mask, (left, top, width, height) in zip(masks, boxes, strict=True):
        mask[top : top + height, left : left + width] = True
        mask[top + height // 2 : top + height, left + width // 2 : left + width] = False
    return masks


def objects(
    boxes: list[list[int]], classes: list[int], scores: list[float] | None = None
) -> Instances:
    return Instances.of_masks(
        rectangles(boxes), np.array(classes), None if scores is None else np.array(scores)
    )


def crowded(truth: Instances, crowd: list[bool]) -> Instances:
    return Instances(**{**vars(truth), "crowd": np.array(crowd)})


def draw(seed: int, least: int = 4) -> Pairs:
    """Images with objects of two classes, some of them crowds, and detections near to them."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(4):
        count = int(rng.integers(1, 6))
        boxes = np.concatenate(
            [rng.integers(0, 20, (count, 2)), rng.integers(least, 18, (count, 2))], axis=1
        )
        kinds = rng.integers(0, 2, count)
        truth = crowded(objects(boxes.tolist(), kinds.tolist()), (rng.random(count) < 0.2).tolist())
        near = np.maximum(boxes + rng.integers(-2, 3, boxes.shape), [0, 0, 3, 3])
        near = np.concatenate([near, near[:2] + np.array([1, 0, 0, 1])])
        scores = rng.permutation(len(near)) / 100 + rng.integers(0, 2, len(near)) / 1000
        pairs.append((truth, objects(near.tolist(), [*kinds, *kinds[:2]], scores.tolist())))
    return pairs


def overlap(truth: Instances, found: Instances, t: int, f: int, kind: Kind) -> float:
    """IoU; of a crowd, the share of the detection that lies in it."""
    if kind == "segm":
        sides = (truth.boxes[t], found.boxes[f])
        both = [rectangles([side.astype(int).tolist()])[0] for side in sides]
    else:
        both = [np.zeros((2 * SIDE, 2 * SIDE), bool) for _ in range(2)]
        for area, (o, i) in zip(both, ((truth, t), (found, f)), strict=True):
            left, top, width, height = o.boxes[i].astype(int)
            area[top : top + height, left : left + width] = True
    shared = (both[0] & both[1]).sum()
    return float(shared / (both[1].sum() if truth.crowd[t] else (both[0] | both[1]).sum()))


def by_the_book(pairs: Pairs, kind: Kind, threshold: float, number: int) -> float:
    """AP of one class at one threshold: the best precision at and beyond each of 101 recalls."""
    right: list[tuple[float, bool]] = []
    total = 0
    for truth, found in pairs:
        due = [t for t in range(len(truth.classes)) if truth.classes[t] == number]
        total += sum(not truth.crowd[t] for t in due)
        free = [t for t in due if not truth.crowd[t]]
        mine = [f for f in range(len(found.classes)) if found.classes[f] == number]
        for f in sorted(mine, key=lambda f: -found.scores[f]):
            fits = {t: overlap(truth, found, t, f, kind) for t in due}
            best = max(free, key=lambda t: (fits[t], t), default=None)
            if best is not None and fits[best] >= threshold:
                free.remove(best)
                right.append((found.scores[f], True))
            elif not any(truth.crowd[t] and fits[t] >= threshold for t in due):
                right.append((found.scores[f], False))
    hits = np.cumsum([hit for _, hit in sorted(right, key=lambda item: -item[0])])
    precision = hits / np.arange(1, len(hits) + 1)
    recall = hits / max(total, 1)
    points = [precision[recall >= r].max(initial=0) for r in np.linspace(0, 1, 101)]
    return float(np.mean(points))


@pytest.mark.parametrize("kind", ["segm", "bbox"])
@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definition(kind: Kind, seed: int) -> None:
    pairs = draw(seed)
    found = average_precision(pairs, kind)
    numbers = {int(n) for truth, _ in pairs for n in truth.classes[~truth.crowd]}
    table = np.array(
        [
            [by_the_book(pairs, kind, threshold, number) for number in numbers]
            for threshold in np.linspace(0.5, 0.95, 10)
        ]
    )
    assert 0 < table.mean() < 1
    assert found["ap"] == pytest.approx(table.mean(), abs=1e-6)
    assert found["ap50"] == pytest.approx(table[0].mean(), abs=1e-6)
    assert found["ap75"] == pytest.approx(table[5].mean(), abs=1e-6)


def enlarged(found: Instances, factor: int) -> Instances:
    """Every pixel as so many in both directions."""
    masks = rectangles(found.boxes.astype(int).tolist())
    large = masks.repeat(factor, 1).repeat(factor, 2)
    return replace(Instances.of_masks(large, found.classes, found.scores), crowd=found.crowd)


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_sizes_are_counted_apart(kind: Kind) -> None:
    """Images of small, of medium and of large objects: each figure is that of its images alone."""
    factors = {"small": 1, "medium": 5, "large": 14}
    groups = {size: draw(seed, least=10) for seed, size in enumerate(factors)}
    everything = [
        (enlarged(truth, factors[size]), enlarged(found, factors[size]))
        for size, pairs in groups.items()
        for truth, found in pairs
    ]
    measured = average_precision(everything, kind)
    for size, pairs in groups.items():
        numbers = {int(n) for truth, _ in pairs for n in truth.classes[~truth.crowd]}
        expected = [
            by_the_book(pairs, kind, threshold, number)
            for threshold in np.linspace(0.5, 0.95, 10)
            for number in numbers
        ]
        assert measured[f"ap_{size}"] == pytest.approx(np.mean(expected), abs=1e-6)
        assert 0 < np.mean(expected) < 1


def test_by_hand() -> None:
    """Of two objects one is found, after a false detection."""
    truth = objects([[0, 0, 10, 10], [20, 20, 10, 10]], [7, 7])
    found = objects([[30, 0, 8, 8], [0, 0, 10, 10]], [7, 7], [0.9, 0.8])
    # Precision is 1/2 up to a recall of 1/2: 51 of 101 points.
    expected = pytest.approx(51 / 101 / 2)
    for kind in ("segm", "bbox"):
        assert average_precision([(truth, found)], kind) == {
            "ap": expected, "ap50": expected, "ap75": expected, "ap_small": expected
        }  # fmt: skip


def test_sizes_are_those_of_the_truths_areas() -> None:
    truth = objects([[0, 0, 10, 10], [0, 20, 20, 20]], [1, 1])
    found = average_precision([(truth, objects([[0, 0, 10, 10]], [1], [1.0]))], "bbox")
    assert set(found) == {"ap", "ap50", "ap75", "ap_small"}
    large = Instances(**{**vars(truth), "areas": np.array([32.0**2 + 1, 96.0**2 + 1])})
    found = average_precision([(large, objects([[0, 20, 20, 20]], [1], [1.0]))], "bbox")
    assert found["ap_medium"] == 0
    assert found["ap_large"] == pytest.approx(1)
    assert "ap_small" not in found


def test_nothing_to_find_is_no_figure() -> None:
    nothing, something = objects([], []), objects([[0, 0, 5, 5]], [1])
    assert average_precision([], "segm") == {}
    assert average_precision([(nothing, something)], "segm") == {}
    assert average_precision([(crowded(something, [True]), something)], "segm") == {}
    assert average_precision([(something, nothing)], "segm")["ap"] == 0


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    average_precision(draw(0), "segm")
    assert capfd.readouterr().out == ""


def test_classes_of_models_are_the_datas_by_rising_number() -> None:
    truth = Instances(**{**vars(objects([], [])), "numberings": ((1, 3), (1, 3, 200))})
    found = objects([[0, 0, 5, 5]] * 2, [0, 1])
    for count in (2, 3):
        model = Instances(**{**vars(found), "of_classes": count})
        assert renumbered(truth, model).classes.tolist() == [1, 3]
        assert renumbered(model, model).classes.tolist() == [0, 1]  # against itself
    assert renumbered(truth, found).classes.tolist() == [0, 1]  # numbers already
    with pytest.raises(ExpediteError, match="the data has 2 or 3 classes and the model 80"):
        renumbered(truth, Instances(**{**vars(found), "of_classes": 80}))
