"""What an object in a file of COCO has to be before pycocotools sees it.

pycocotools walks polygons edge by edge and trusts run lengths: what is far outside of an image, or
longer than it, costs it memory without end.
"""

from collections.abc import Collection, Mapping
from reprlib import repr as short
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_CORNERS = 6  # coordinates of a triangle
_BEYOND = 1  # how many times an image's side an object may reach out of it
# Pixels along all edges of a polygon, of which pycocotools keeps some 80 bytes each.
_LONGEST_WALK = 1 << 21
# Run lengths in text: 5 bits a character from "0" on, a bit that more follow, and the sign.
_FIRST, _LAST, _BITS, _MORE, _SIGN = 48, 48 + 63, 5, 32, 16
_LONGEST = 7  # characters of one number

Size = tuple[int, int]  # height, width


class Bounds(NamedTuple):
    """Between what coordinates may lie along one side of an image."""

    low: float
    high: float

    @classmethod
    def of(cls, side: int) -> "Bounds":
        return cls(-_BEYOND * side, (1 + _BEYOND) * side)

    def hold(self, value: Any) -> bool:
        """Whether a value is a number between them; what is not finite is not."""
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and self.low <= value <= self.high


def whole_number(value: Any) -> int:
    """A value that is a whole number.

    Raises:
        TypeError: It is another.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{short(value)} where a whole number is due")
    return value


def check_object(
    entry: Mapping[str, Any], size: Size, numbers: Collection[int], needs_mask: bool
) -> None:
    """Refuse an object that cannot be measured.

    Args:
        entry: As the file has it.
        size: Of its image.
        numbers: Of the file's categories.
        needs_mask: Whether a box alone will not do.

    Raises:
        ValueError: Something is impossible, in words.
        TypeError: Something is of another kind, in words.
    """
    if whole_number(entry.get("category_id")) not in numbers:
        raise ValueError(f"the category {entry['category_id']} is not among the file's")
    _check_box(entry.get("bbox"), size)
    if entry.get("iscrowd", 0) not in (0, 1):
        raise ValueError(f"iscrowd is {short(entry['iscrowd'])}")
    if not Bounds(0, 9 * size[0] * size[1]).hold(entry.get("area", 0)):  # of the largest box
        raise ValueError(f"the area is {short(entry['area'])}")
    if stored := entry.get("segmentation"):
        check_mask(stored, size)
    elif needs_mask:
        raise ValueError("it has no mask, and others have")


def check_mask(stored: Any, size: Size) -> None:
    """Refuse a mask that is no list of polygons and no run lengths of an image's size."""
    if isinstance(stored, list):
        for polygon in stored:
            _check_polygon(polygon, size)
    elif isinstance(stored, dict):
        _check_run_lengths(stored, size)
    else:
        raise TypeError(f"a mask is {short(stored)}")


def _check_box(box: Any, size: Size) -> None:
    if not isinstance(box, list) or len(box) != 4:
        raise ValueError(f"a box is {short(box)}, and four numbers are due")
    down, right = Bounds.of(size[0]), Bounds.of(size[1])
    left, top, width, height = box
    if not (right.hold(left) and down.hold(top)):
        raise ValueError(f"a box begins at {short((left, top))}, far outside of its image")
    sides = Bounds(0, right.high - left).hold(width) and Bounds(0, down.high - top).hold(height)
    if not sides:
        raise ValueError(f"a box has the sides {short((width, height))}")


def _check_polygon(polygon: Any, size: Size) -> None:
    if not isinstance(polygon, list) or len(polygon) < _CORNERS or len(polygon) % 2:
        raise ValueError("a polygon of fewer than three corners, or of half a corner")
    down, right = Bounds.of(size[0]), Bounds.of(size[1])
    if not (all(map(right.hold, polygon[::2])) and all(map(down.hold, polygon[1::2]))):
        raise ValueError("a polygon with a corner far outside of its image, or at no number")
    corners = np.array(polygon, np.float64).reshape(-1, 2)
    if np.abs(corners - np.roll(corners, 1, axis=0)).max(1).sum() > _LONGEST_WALK:
        raise ValueError(f"a polygon whose edges are longer than {_LONGEST_WALK} pixels")


def _check_run_lengths(stored: Mapping[str, Any], size: Size) -> None:
    if stored.get("size") != [*size]:
        raise ValueError(f"a mask of {short(stored.get('size'))} for an image of {[*size]}")
    counts = stored.get("counts")
    if isinstance(counts, list):
        pixels = Bounds(0, size[0] * size[1])
        if not all(map(pixels.hold, map(whole_number, counts))):
            raise ValueError("run lengths that are longer than their image, or below 0")
        total = sum(counts)
    elif isinstance(counts, str):
        total = _length(counts)
    else:
        raise TypeError(f"run lengths are {short(counts)}")
    if total != size[0] * size[1]:
        raise ValueError(f"run lengths of {short(total)} pixels for an image of {[*size]}")


def _length(text: str) -> int:
    """Of how many pixels run lengths in text are; -1 where one is below 0."""
    codes = np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int64)
    if not len(codes) or codes.min() < _FIRST or codes.max() > _LAST:
        raise ValueError("run lengths with characters that stand for none")
    counts = _decoded(codes - _FIRST)
    # Each but the first three is less the one before the last.
    counts[1::2] = counts[1::2].cumsum()
    counts[2::2] = counts[2::2].cumsum()
    return int(counts.sum()) if (counts >= 0).all() else -1


def _decoded(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    ends = np.flatnonzero(codes < _MORE)
    if not len(ends) or ends[-1] != len(codes) - 1:
        raise ValueError("run lengths that are cut off")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST:
        raise ValueError("a run length of too many characters")
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((codes % _MORE) << (_BITS * place), starts)
    is_negative = (codes[ends] & _SIGN) > 0
    found: NDArray[np.int64] = numbers - np.where(is_negative, 1 << (_BITS * lengths), 0)
    return found
