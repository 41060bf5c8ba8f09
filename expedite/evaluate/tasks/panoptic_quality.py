"""Panoptic quality as panopticapi counts it, after Kirillov and others (2019).

Counted here, from one table of overlaps an image: torchmetrics knows no crowds, takes pixels that
a model leaves out for void, and sorts all pixels three times, which is a hundred times the work.
The tests hold both against each other where their rules agree.
"""

from dataclasses import dataclass, field
from math import fsum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from expedite.data.segments import Segments
from expedite.errors import ExpediteError


class Quality(NamedTuple):
    """Means over classes, each from 0 to 1: `panoptic` is segmentation times recognition."""

    panoptic: float
    segmentation: float
    recognition: float


@dataclass
class PanopticCounts:
    """What was found and missed of each class, image by image.

    A segment is found where an answer of its class has an IoU above 0.5 with it; there is one such
    at most. Void pixels of the truth count for no IoU. An answer that fits nothing is no false one
    where more than half of it lies in void and in crowds of its class; crowds are never missed.

    Example:
        >>> truth = Segments.of_ids(np.array([[1, 1, 1, 2]]), {1: 0, 2: 1}, of_classes=2)
        >>> answer = Segments.of_ids(np.array([[1, 1, 2, 2]]), {1: 0, 2: 1}, of_classes=2)
        >>> counts = PanopticCounts(classes=2)
        >>> counts.add(truth, answer)
        >>> counts.quality()
        Quality(panoptic=0.333..., segmentation=0.333..., recognition=0.5)
    """

    classes: int
    ious: list[list[float]] = field(init=False)  # of what was found of each class
    missed: NDArray[np.float64] = field(init=False)
    false: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.ious = [[] for _ in range(self.classes)]
        self.missed, self.false = np.zeros((2, self.classes))

    def add(self, truth: Segments, answer: Segments) -> None:
        """Count one image.

        Raises:
            ExpediteError: Truth and answers do not have the same number of classes.
        """
        if not truth.of_classes == answer.of_classes == self.classes:
            raise ExpediteError(
                f"the data has {truth.of_classes} classes and the model {answer.of_classes}; both "
                "have the same, the data's by rising id"
            )
        overlaps = _overlaps(truth, answer)  # (S + 1, P + 1)
        iou = _iou(overlaps)  # (S, P)
        same = truth.classes[:, None] == answer.classes
        pairs = same & ~truth.crowd[:, None] & (iou > 0.5)
        missed = ~pairs.any(1) & ~truth.crowd
        false = ~pairs.any(0) & ~_mostly_ignored(overlaps, same & truth.crowd[:, None])
        for segment, found in np.argwhere(pairs):
            self.ious[truth.classes[segment]].append(float(iou[segment, found]))
        self.missed += self._by_class(truth.classes, missed)
        self.false += self._by_class(answer.classes, false)

    def merge(self, other: "PanopticCounts") -> None:
        """Add what was counted of other images."""
        for own, others in zip(self.ious, other.ious, strict=True):
            own.extend(others)
        self.missed += other.missed
        self.false += other.false

    @property
    def seen(self) -> NDArray[np.bool_]:
        """Which classes occur in truth or answers, (classes,)."""
        return self._total > 0

    @property
    def _found(self) -> NDArray[np.int64]:
        return np.array([len(ious) for ious in self.ious])

    @property
    def _total(self) -> NDArray[np.float64]:
        total: NDArray[np.float64] = self._found + (self.missed + self.false) / 2
        return total

    def quality(self, of: NDArray[np.bool_] | None = None) -> Quality | None:
        """Means over the classes that occur in truth or answers; None where none does.

        Args:
            of: Which classes to look at, (classes,); None takes all.
        """
        found, total = self._found, self._total
        seen = self.seen if of is None else self.seen & of
        if not seen.any():
            return None
        # Exact sums, in which the order of images has no part.
        sums = np.array([fsum(ious) for ious in self.ious])
        segmentation = sums[seen] / np.maximum(found[seen], 1)
        recognition = found[seen] / total[seen]
        means = ((segmentation * recognition).mean(), segmentation.mean(), recognition.mean())
        return Quality(*map(float, means))

    def _by_class(
        self, classes: NDArray[np.int64], values: NDArray[np.generic]
    ) -> NDArray[np.float64]:
        return np.bincount(classes, values, self.classes).astype(np.float64)


def _overlaps(truth: Segments, answer: Segments) -> NDArray[np.int64]:
    """Pixels that segments share; the last row is the truth's void, the last column nothing."""
    rows, columns = len(truth.classes) + 1, len(answer.classes) + 1
    pairs = truth.map.astype(np.int64) % rows * columns + answer.map % columns
    return np.bincount(pairs.ravel(), minlength=rows * columns).reshape(rows, columns)


def _iou(overlaps: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of each segment with each answer, without the pixels of void, (S, P)."""
    shared, areas = overlaps[:-1, :-1], overlaps.sum(1)[:-1, None]
    union = areas + (overlaps.sum(0) - overlaps[-1])[:-1] - shared
    iou: NDArray[np.float64] = shared / np.maximum(union, 1)
    return iou


def _mostly_ignored(overlaps: NDArray[np.int64], crowds: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which answers lie in void and in the `crowds` (S, P) of their class to more than half."""
    in_crowds = np.where(crowds, overlaps[:-1, :-1], 0).sum(0)
    mostly: NDArray[np.bool_] = 2 * (overlaps[-1, :-1] + in_crowds) > overlaps.sum(0)[:-1]
    return mostly
