"""Maps of segments: what panoptic truth and panoptic answers are made of."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

NO_SEGMENT = -1


@dataclass(frozen=True)
class Segments:
    """A panoptic map: every pixel belongs to one segment at most.

    Args:
        map: Which segment a pixel belongs to, `NO_SEGMENT` where to none, (H, W) int32.
        classes: The class of each segment by its index, (S,) int64.
        of_classes: How many classes there are.
        crowd: Whether a segment is of several things that nobody told apart, (S,) bool.
    """

    map: NDArray[np.int32]
    classes: NDArray[np.int64]
    of_classes: int
    crowd: NDArray[np.bool_]

    @classmethod
    def of_ids(
        cls,
        ids: NDArray[np.integer],
        classes: Mapping[int, int],
        of_classes: int,
        crowd: Collection[int] = (),
    ) -> Self:
        """Segments from a map of any numbers.

        Args:
            ids: A number for each pixel, (H, W); one without a class is of no segment.
            classes: The class of each number, by its index.
            of_classes: How many classes there are.
            crowd: Numbers of crowds.

        Example:
            >>> Segments.of_ids(np.array([[7, 7, 0]]), {7: 2}, of_classes=3).map
            array([[ 0,  0, -1]], dtype=int32)
        """
        found, places = np.unique(ids, return_inverse=True)
        row = {number: index for index, number in enumerate(classes)}
        rows = np.array([row.get(int(number), NO_SEGMENT) for number in found], np.int32)
        return cls(
            rows[places].reshape(ids.shape),
            np.array([*classes.values()], np.int64),
            of_classes,
            np.array([number in crowd for number in classes], bool),
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Height and width."""
        return self.map.shape

    def semantic(self, void: int) -> NDArray[np.int64]:
        """The class of each pixel, crowds included, `void` where there is no segment, (H, W)."""
        return np.append(self.classes, void)[self.map]

    def fused(self, stuff: Collection[int]) -> Self:
        """The same with one segment at most for each class of `stuff`.

        Example:
            >>> Segments.of_ids(np.array([[1, 2]]), {1: 0, 2: 0}, 1).fused({0}).map
            array([[0, 0]], dtype=int32)
        """
        is_stuff = np.isin(self.classes, list(stuff))
        keys = np.where(is_stuff, self.classes, self.of_classes + np.arange(len(self.classes)))
        _, first, places = np.unique(keys, return_index=True, return_inverse=True)
        rows = np.append(places, NO_SEGMENT).astype(np.int32)
        return type(self)(rows[self.map], self.classes[first], self.of_classes, self.crowd[first])
