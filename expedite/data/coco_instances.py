"""Objects in annotation files of COCO: boxes with masks as polygons or run lengths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from expedite.data.coco_files import MALFORMED, CocoFile, ImageEntry
from expedite.data.instances import Instances, RunLengths, coco_masks
from expedite.data.truths import Sample, Truths
from expedite.errors import ExpediteError

_CORNERS = 6  # coordinates of a triangle


@dataclass(frozen=True)
class InstanceRule(Truths):
    """Objects of each image in one json.

    Args:
        source: The json.
        images: Its entries by the names of their files.
        numberings: See `Instances`; the first is the json's own.
    """

    source: Path
    images: Mapping[str, ImageEntry]
    numberings: Sequence[Sequence[int]]

    @classmethod
    def of(cls, file: CocoFile, panoptic: CocoFile | None = None) -> "InstanceRule":
        """The rule for a json.

        Args:
            file: The json.
            panoptic: That of the same images' segments. Models of its classes, which are more,
                can be measured too.
        """
        images = {Path(image.file_name).name: image for image in file.images}
        others = () if panoptic is None else (panoptic.numbers,)
        return cls(file.path, images, (file.numbers, *others))

    def read(self, path: Path) -> Instances:
        """The objects in an image by its name."""
        image = self.images[path.name]
        try:
            objects = _objects(image, self.numberings)
        except MALFORMED as error:
            raise ExpediteError(
                f"{self.source} does not say what is in {path.name}: {type(error).__name__} {error}"
            ) from error
        if unknown := {*objects.classes.tolist()} - {*self.numberings[0]}:
            raise ExpediteError(
                f"{self.source} has an object of the category {min(unknown)} in {path.name}, which "
                "is not among its categories"
            )
        return objects

    def attach(self, sample: Sample, truth: Instances) -> Sample:
        """The sample with objects."""
        return replace(sample, instances=truth)


def _objects(image: ImageEntry, numberings: Sequence[Sequence[int]]) -> Instances:
    entries, size = image.annotations, image.size
    have_masks = all(entry.get("segmentation") for entry in entries)
    masks = [_mask(entry["segmentation"], size) for entry in entries] if have_masks else None
    boxes = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
    areas = [_area(entry, mask) for entry, mask in zip(entries, masks or boxes, strict=True)]
    return Instances(
        shape=size,
        classes=np.array([entry["category_id"] for entry in entries], np.int64),
        boxes=boxes,
        masks=masks,
        scores=np.ones(len(entries)),
        crowd=np.array([bool(entry.get("iscrowd")) for entry in entries], bool),
        areas=np.array(areas, np.float64),
        numberings=numberings,
    )


def _mask(stored: Any, size: tuple[int, int]) -> RunLengths:
    """A mask as compressed run lengths, from these, from plain ones or from polygons."""
    tools = coco_masks()
    if isinstance(stored, list):
        if not all(isinstance(polygon, list) and len(polygon) >= _CORNERS for polygon in stored):
            raise ValueError("a polygon of fewer than three corners")
        packed: RunLengths = tools.merge(tools.frPyObjects(stored, *size))
        return packed
    if tuple(stored["size"]) != size:
        raise ValueError(f"a mask of {stored['size']} for an image of {[*size]}")
    if isinstance(stored["counts"], list):
        plain: RunLengths = tools.frPyObjects(stored, *size)
        return plain
    return {"size": [*size], "counts": stored["counts"]}


def _area(entry: Mapping[str, Any], mask: Any) -> float:
    """As annotated, which is what says large and small; of the box or mask where it is not."""
    if "area" in entry:
        return float(entry["area"])
    if "segmentation" in entry and isinstance(mask, dict):
        return float(coco_masks().area(mask))
    return float(entry["bbox"][2] * entry["bbox"][3])
