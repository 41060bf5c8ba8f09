"""What a model says of an image as panels: before and after patching, and where the two differ."""

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from expedite.data.images import Image, resize
from expedite.data.segments import NO_SEGMENT, Segments
from expedite.drawing.names import name_regions, names_of
from expedite.drawing.panels import Panel, Scale, enlarge, panel_size

Panels = tuple[Panel, Panel, Panel]

CHANGED = (230, 30, 30)
_BORDER = (255, 255, 255)
_TINT = 0.6
# A few far pixels would leave all others in one colour.
_OUTLIERS = 0.02


def draw_classes(image: Image, before: Tensor, after: Tensor, names: Sequence[str] = ()) -> Panels:
    """Classes, by their indices (H, W), as hues over the image, with their names if known."""
    one, two = before.numpy(), after.numpy()
    return (
        Panel("before", "before", "", _classes(image, one, names)),
        Panel("after", "after", "", _classes(image, two, names)),
        _changes(image, one != two, "of pixels have another class"),
    )


def draw_depth(image: Image, before: Tensor, after: Tensor, unit: str = "") -> Panels:
    """Depth from dark to bright, and its change from red, where it is less, to blue."""
    one, two = before.numpy(), after.numpy()
    lowest, highest = np.quantile(one, (_OUTLIERS, 1 - _OUTLIERS)).tolist()
    change = np.abs(two - one)
    wide = float(np.quantile(change, 1 - _OUTLIERS))
    depth = Scale("viridis", lowest, highest, unit)
    around_zero = Scale("RdBu", -wide, wide, unit)
    caption = f"after − before; {change.mean():.3g}{unit} on average, whatever the sign"
    return (
        painted("before", "depth before", "", one, depth),
        painted("after", "depth after", "", two, depth),
        painted("difference", "difference", caption, two - one, around_zero),
    )


def draw_segments(
    image: Image, before: Segments, after: Segments, names: Sequence[str] = ()
) -> Panels:
    """Segments in the hue of their class, each with a border, and its class's name if known."""
    first, second = (
        Panel(name, name, f"segments: {len(found.classes)}", _segments(image, found, names))
        for name, found in (("before", before), ("after", after))
    )
    changed = changed_segments(before, after)
    return first, second, _changes(image, changed, "of pixels went to another segment")


def changed_segments(before: Segments, after: Segments) -> NDArray[np.bool_]:
    """Pixels (H, W) whose segment afterwards is not the one of its class that most of it went to.

    Example:
        >>> one = Segments.of_ids(np.array([[1, 1, 1, 2]]), {1: 0, 2: 0}, 1)
        >>> two = Segments.of_ids(np.array([[5, 5, 7, 7]]), {5: 0, 7: 0}, 1)
        >>> changed_segments(one, two)
        array([[False, False,  True, False]])
    """
    kept: NDArray[np.bool_] = (before.map == NO_SEGMENT) & (after.map == NO_SEGMENT)
    for segment, its_class in enumerate(before.classes):
        inside = before.map == segment
        of_class = np.append(after.classes == its_class, False)[after.map]
        found, counts = np.unique(after.map[inside & of_class], return_counts=True)
        if len(found):
            kept |= inside & (after.map == found[counts.argmax()])
    return ~kept


def tint(image: Image, colours: NDArray[np.integer]) -> Image:
    """An image in grey, under colours (H, W, 3)."""
    grey = image.mean(-1, keepdims=True)
    return np.asarray((1 - _TINT) * grey + _TINT * colours, dtype=np.uint8)


def faded(image: Image) -> Image:
    """An image at the size of its panel, so pale that a change stands out."""
    pale: Image = resize(image, panel_size(image.shape[:2])) // 2 + 112
    return pale


def class_colours(count: int) -> NDArray[np.uint8]:
    """A colour for each of so many classes, (count, 3); neighbours are far apart."""
    hues = [(index * 0.61803) % 1 for index in range(count)]  # steps of the golden ratio
    colours = [colorsys.hsv_to_rgb(hue, 0.75, 0.95) for hue in hues]
    return (255 * np.array(colours).reshape(-1, 3)).astype(np.uint8)


def borders(regions: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Where regions of a map meet, (H, W): the pixels left of and above another region.

    Example:
        >>> borders(np.array([[0, 0, 1], [0, 0, 1]])).astype(int)
        array([[0, 1, 0],
               [0, 1, 0]])
    """
    found = np.zeros(regions.shape, dtype=bool)
    found[:-1] |= regions[:-1] != regions[1:]
    found[:, :-1] |= regions[:, :-1] != regions[:, 1:]
    return found


def painted(
    name: str, title: str, caption: str, values: NDArray[np.floating], scale: Scale
) -> Panel:
    """The panel of values (H, W) at an image's size."""
    size = panel_size((values.shape[0], values.shape[1]))
    return Panel(name, title, caption, scale.paint(enlarge(values, size)), scale)


def _classes(image: Image, classes: NDArray[np.integer], names: Sequence[str]) -> Image:
    size = panel_size(image.shape[:2])
    large = enlarge(classes, size)
    drawn = tint(resize(image, size), class_colours(int(classes.max()) + 1)[large])
    return name_regions(drawn, large, dict(enumerate(names)))


def _segments(image: Image, found: Segments, names: Sequence[str]) -> Image:
    size = panel_size(image.shape[:2])
    large = enlarge(found.map, size)
    of_class = class_colours(found.of_classes)[found.classes]
    drawn = tint(resize(image, size), np.vstack([of_class, [(128, 128, 128)]])[large])
    drawn[borders(large)] = _BORDER
    return name_regions(drawn, large, names_of(found.classes.tolist(), names))


def _changes(image: Image, changed: NDArray[np.bool_], what: str) -> Panel:
    drawn = faded(image)
    drawn[enlarge(changed, panel_size(image.shape[:2]))] = CHANGED
    return Panel("difference", "difference", f"{100 * changed.mean():.2f} % {what}", drawn)
