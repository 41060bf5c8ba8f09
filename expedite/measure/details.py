"""What thin and small things lose: agreement along boundaries, and within small parts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import hypot
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from expedite.data.images import opencv
from expedite.data.truths import VOID

# How far boundaries may lie apart, as a share of the image's diagonal (Csurka et al., 2013).
TOLERANCE = 0.0075
# Parts of less than so large a share of an image are small, as COCO's 32² pixels of 640×480.
SMALL = 1 / 300

_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


@dataclass
class Details:
    """Boundaries and small parts, counted image by image.

    Example:
        >>> import torch
        >>> truth = torch.zeros(60, 80, dtype=torch.int64)
        >>> truth[20:23, 30:34] = 1  # a sign
        >>> details = Details(classes=2)
        >>> details.add(truth, truth.roll(1, 1))  # all of it one pixel aside
        >>> details.boundary_f(), details.small_recall()
        (1.0, 0.75)
    """

    classes: int
    near: NDArray[np.int64] = field(init=False)  # boundary pixels of the truth, of the answer,
    lengths: NDArray[np.int64] = field(init=False)  # that are near the other's; and of all, (2, n)
    found: int = 0  # pixels of small parts that have their class
    small: int = 0

    def __post_init__(self) -> None:
        self.near, self.lengths = (np.zeros((2, self.classes), np.int64) for _ in range(2))

    def add(self, truth: Tensor, prediction: Tensor) -> None:
        """Count one image: maps (H, W) of class indices; `VOID` in the truth is left out."""
        true, answer = truth.cpu().numpy(), prediction.cpu().numpy()
        is_void = true == VOID
        answer = np.where(is_void, VOID, answer)  # no boundary inside, and none that counts around
        counts = opencv().erode((~is_void).astype(np.uint8), _CROSS).astype(bool)
        edges = [_edges(each) & counts for each in (true, answer)]
        seen = sum(np.bincount(each[~is_void], minlength=self.classes) for each in (true, answer))
        for index in np.flatnonzero(seen).tolist():
            masks = [each == index for each in (true, answer)]
            box = _box(masks[0] | masks[1])
            inside = [mask[box] for mask in masks]
            lines = [edge[box] & mask for edge, mask in zip(edges, inside, strict=True)]
            self._add_boundaries(index, lines, hypot(*true.shape))
            small = _small_parts(inside[0], true.size)
            self.small += int(small.sum())
            self.found += int((small & inside[1]).sum())

    def merge(self, later: Self) -> None:
        """Count what another counted, of later images, too."""
        self.near += later.near
        self.lengths += later.lengths
        self.found, self.small = self.found + later.found, self.small + later.small

    def boundary_f(self) -> float:
        """Mean over classes in the truth of the F-score of boundaries, 0 to 1; NaN without any.

        Of a class it is the harmonic mean of two shares, each of the boundary pixels that lie
        within `TOLERANCE` of the other map's boundary: of the answer's and of the truth's.
        """
        there = self.lengths[0] > 0
        if not there.any():
            return float("nan")
        recall, precision = self.near[:, there] / np.maximum(self.lengths[:, there], 1)
        both = recall + precision
        return float((2 * recall * precision / np.where(both > 0, both, 1)).mean())

    def small_recall(self) -> float:
        """The share of the pixels of connected parts under `SMALL` that have their class."""
        return self.found / self.small if self.small else float("nan")

    def _add_boundaries(
        self, index: int, lines: Sequence[NDArray[np.bool_]], diagonal: float
    ) -> None:
        for own, (line, other) in enumerate((lines, lines[::-1])):
            self.lengths[own, index] += int(line.sum())
            if line.any() and other.any():
                apart = (~other).astype(np.uint8)
                away = opencv().distanceTransform(apart, opencv().DIST_L2, 5)
                self.near[own, index] += int((away[line] <= max(TOLERANCE * diagonal, 1.0)).sum())


def _edges(classes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Pixels with a neighbour of another class; the image's edge is none."""
    found = np.zeros(classes.shape, np.bool_)
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differ = classes[one] != classes[other]
        found[one] |= differ
        found[other] |= differ
    return found


def _box(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The smallest rectangle that holds a mask, beyond which nothing of a class is to be found."""
    left, top, width, height = opencv().boundingRect(mask.astype(np.uint8))
    return slice(top, top + height), slice(left, left + width)


def _small_parts(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """Pixels of connected parts that are small in an image of so many pixels."""
    _, parts, statistics, _ = opencv().connectedComponentsWithStats(mask.astype(np.uint8))
    is_small = statistics[:, opencv().CC_STAT_AREA] < SMALL * pixels
    is_small[0] = False  # what is outside the mask
    found: NDArray[np.bool_] = is_small[parts]
    return found
