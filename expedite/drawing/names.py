"""Names of classes, written into what was found of them."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from expedite.data.images import Image, opencv

_LEAST = 0.01  # of a picture's pixels; smaller regions get no name
_SCALE, _ROOM = 0.45, 3  # of letters; pixels around them


def name_regions(drawn: Image, regions: NDArray[np.integer], names: Mapping[int, str]) -> Image:
    """Write each large region's name where it is widest.

    Args:
        drawn: (H, W, 3), which stays as it is.
        regions: (H, W), numbers of regions.
        names: Of the regions that have one.

    Example:
        >>> plain = np.zeros((60, 90, 3), np.uint8)
        >>> regions = np.zeros((60, 90), int)
        >>> regions[:, 60:] = 1
        >>> changed = name_regions(plain, regions, {0: "sky"}).any(-1)
        >>> bool(changed[:, :60].any()), bool(changed[:, 70:].any())
        (True, False)
    """
    named = drawn.copy()
    for region, name in names.items():
        inside = np.pad(regions == region, 1)  # beyond the picture nothing is inside
        if inside.sum() >= _LEAST * regions.size:
            depth = opencv().distanceTransform(inside.astype(np.uint8), opencv().DIST_L2, 3)
            row, column = np.unravel_index(int(depth.argmax()), depth.shape)
            write_name(named, name, (int(column) - 1, int(row) - 1))
    return named


def write_name(drawn: Image, name: str, place: tuple[int, int]) -> None:
    """Write a name onto a picture, white on black, its middle at (x, y) or near, where it fits."""
    letters = name.encode("ascii", "replace").decode()  # OpenCV's font has no others
    style = opencv().FONT_HERSHEY_SIMPLEX, _SCALE
    (wide, high), below = opencv().getTextSize(letters, *style, 1)
    left = max(_ROOM, min(place[0] - wide // 2, drawn.shape[1] - wide - _ROOM))
    foot = max(high + _ROOM, min(place[1] + high // 2, drawn.shape[0] - below - _ROOM))
    corners = (left - _ROOM, foot - high - _ROOM), (left + wide + _ROOM, foot + below)
    opencv().rectangle(drawn, *corners, (0, 0, 0), -1)
    opencv().putText(drawn, letters, (left, foot), *style, (255, 255, 255), 1, opencv().LINE_AA)


def names_of(classes: Sequence[int], names: Sequence[str]) -> dict[int, str]:
    """The name of each place in a list of classes, of those that have one.

    Example:
        >>> names_of([1, 7, 0], ["sky", "road"])
        {0: 'road', 2: 'sky'}
    """
    return {place: names[one] for place, one in enumerate(classes) if one < len(names)}
