"""Average precision as COCO defines it, counted by pycocotools."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from expedite.data.instances import Instances, coco_masks
from expedite.errors import ExpediteError

Kind = Literal["segm", "bbox"]  # what the overlap is of: masks or boxes
# The first figures that pycocotools sums up, in its order.
FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
Areas: TypeAlias = NDArray[np.float64]
_NONE = -1  # pycocotools' figure where there is nothing to find


def average_precision(pairs: Sequence[tuple[Instances, Instances]], kind: Kind) -> dict[str, float]:
    """Compare detections with the truth, image by image.

    AP is the mean over IoU thresholds from 0.5 to 0.95, over 101 recalls and over the classes that
    the truth has, of the 100 surest detections of a class in an image; `ap50` and `ap75` are at one
    threshold. Small is below 32² pixels of area, large above 96². What overlaps a crowd of its
    class neither counts nor costs.

    Args:
        pairs: Truth and detections of each image, with one numbering of classes.
        kind: Whether masks or boxes overlap.

    Returns:
        Shares from 0 to 1 by the names in `FIGURES`; those that have nothing to find are left out.

    Raises:
        ExpediteError: pycocotools is missing.
    """
    images, truth, found = [], [], []
    for number, (true, detected) in enumerate(pairs, 1):
        images.append({"id": number, "height": true.shape[0], "width": true.shape[1]})
        truth += _entries(number, true, true.areas)
        found += _entries(number, detected, _areas(detected, kind))
    if not truth:
        return {}
    stats = _evaluate(images, truth, found, kind)
    named = zip(FIGURES, stats[: len(FIGURES)], strict=True)
    return {name: float(value) for name, value in named if value != _NONE}


def _entries(image: int, objects: Instances, areas: Areas) -> list[dict[str, Any]]:
    entries = []
    for row, number in enumerate(objects.classes):
        entry = {
            "image_id": image,
            "category_id": int(number),
            "bbox": objects.boxes[row].tolist(),
            "area": float(areas[row]),
            "score": float(objects.scores[row]),
            "iscrowd": int(objects.crowd[row]),
        }
        if objects.masks is not None:
            entry["segmentation"] = {**objects.masks[row]}
        entries.append(entry)
    return entries


def _areas(objects: Instances, kind: Kind) -> Areas:
    """Of detections: of their masks where these are compared, and else of their boxes."""
    return objects.areas if kind == "segm" else objects.boxes[:, 2] * objects.boxes[:, 3]


def _evaluate(
    images: Sequence[Mapping[str, Any]],
    truth: list[dict[str, Any]],
    found: list[dict[str, Any]],
    kind: Kind,
) -> Sequence[float]:
    coco_masks()
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    numbers = sorted({entry["category_id"] for entry in truth + found})
    with contextlib.redirect_stdout(io.StringIO()):  # it prints every step
        sides = []
        for entries in (truth, found):
            side = COCO()
            side.dataset = {
                "images": [*images],
                "categories": [{"id": number} for number in numbers],
                "annotations": [{**entry, "id": n} for n, entry in enumerate(entries, 1)],
            }
            side.createIndex()
            sides.append(side)
        evaluation = COCOeval(*sides, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return list(map(float, evaluation.stats))


def renumbered(truth: Instances, found: Instances) -> Instances:
    """Detections with the truth's numbers of classes in the place of a model's indices.

    Raises:
        ExpediteError: The data has another number of classes than the model.
    """
    if found.of_classes is None or not truth.numberings:
        return found
    for numbers in truth.numberings:
        if len(numbers) == found.of_classes:
            return replace(found, classes=np.array(numbers, np.int64)[found.classes])
    counts = " or ".join(str(len(numbers)) for numbers in truth.numberings)
    raise ExpediteError(
        f"the data has {counts} classes and the model {found.of_classes}; both have the same, the "
        "data's by rising id"
    )
