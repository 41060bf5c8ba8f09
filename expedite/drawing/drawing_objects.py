"""Objects as panels: boxes and masks before and after patching, and which were lost or are new."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from expedite.data.images import Image, opencv, resize
from expedite.data.instances import Instances, coco_masks, unpack
from expedite.drawing.drawing import CHANGED, Panels, class_colours, faded
from expedite.drawing.names import names_of, write_name
from expedite.drawing.panels import Panel, enlarge, panel_size

_SURE = 0.5  # the score from which an object is drawn
_SAME = 0.5  # the overlap from which two of one class are one
_ALIKE, _NEW = (120, 120, 120), (20, 90, 220)
_TINT = 0.5


def draw_objects(
    image: Image, before: Instances, after: Instances, names: Sequence[str] = ()
) -> Panels:
    """Boxes, and masks where there are any, in the hue of their class, with its name if known."""
    one, two = before.above(_SURE), after.above(_SURE)
    large = resize(image, panel_size(image.shape[:2]))
    hues = class_colours(1 + max(int(found.classes.max(initial=0)) for found in (one, two)))
    first, second = (
        Panel(
            name,
            name,
            f"objects of score {_SURE:g} or more: {len(found.classes)}",
            _named(_draw(large, found, hues[found.classes]), found, names),
        )
        for name, found in (("before", one), ("after", two))
    )
    return first, second, _difference(image, one, two)


def partners(before: Instances, after: Instances) -> list[int | None]:
    """For each object before, the index of the one that it is after; None where there is none.

    The surest choose first among those of their class that overlap enough.
    """
    found: list[int | None] = [None] * len(before.classes)
    if not len(before.classes) or not len(after.classes):
        return found
    overlap = _overlaps(before, after)  # (before, after)
    overlap[before.classes[:, None] != after.classes] = 0
    for index in np.argsort(-before.scores, kind="stable").tolist():
        best = int(overlap[index].argmax())
        if overlap[index, best] >= _SAME:
            found[index] = best
            overlap[:, best] = 0
    return found


def _overlaps(before: Instances, after: Instances) -> NDArray[np.float64]:
    shapes = [found.boxes if found.masks is None else [*found.masks] for found in (before, after)]
    alone = [0] * len(after.classes)
    overlap: NDArray[np.float64] = np.asarray(coco_masks().iou(*shapes, alone))
    return overlap


def _difference(image: Image, before: Instances, after: Instances) -> Panel:
    pairs = partners(before, after)
    lost = np.array([partner is None for partner in pairs], bool)
    new = ~np.isin(np.arange(len(after.classes)), [pair for pair in pairs if pair is not None])
    fresh = replace(after, scores=new.astype(np.float64)).above(1)
    drawn = _draw(faded(image), before, np.where(lost[:, None], CHANGED, _ALIKE))
    drawn = _draw(drawn, fresh, np.array([_NEW] * new.sum()))
    caption = f"{lost.sum()} lost (red), {new.sum()} new (blue), {(~lost).sum()} alike"
    return Panel("difference", "difference", caption, drawn)


def _named(drawn: Image, found: Instances, names: Sequence[str]) -> Image:
    """Names at the upper left corners of boxes."""
    high, wide = (n / of for n, of in zip(drawn.shape, found.shape, strict=False))
    for index, name in names_of(found.classes.tolist(), names).items():
        left, top = found.boxes[index][:2] * (wide, high)
        write_name(drawn, name, (round(left), round(top)))
    return drawn


def _draw(image: Image, found: Instances, colours: NDArray[np.integer]) -> Image:
    """Masks and boxes in their colours (N, 3) on a larger or smaller copy of what they are in."""
    drawn = image.copy()
    high, wide = (n / of for n, of in zip(image.shape, found.shape, strict=False))
    for index, colour in enumerate(colours.tolist()):
        if found.masks is not None:
            inside = enlarge(unpack([found.masks[index]])[0], image.shape[:2])
            drawn[inside] = (1 - _TINT) * drawn[inside] + _TINT * np.array(colour)
        left, top, width, height = found.boxes[index] * (wide, high, wide, high)
        corners = (round(left), round(top)), (round(left + width), round(top + height))
        opencv().rectangle(drawn, *corners, colour, 2)
    return drawn
