"""Objects in annotation files of COCO: boxes with masks as polygons or run lengths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from expedite.data.coco_checks import check_object
from expedite.data.coco_files import MALFORMED, CocoFile, ImageEntry, left_out_note, name_of
from expedite.data.instances import Instances, RunLengths, coco_masks
from expedite.data.truths import Sample, Truths
from expedite.errors import ExpediteError, first_line


@dataclass(frozen=True)
class InstanceRule(Truths):
    """Objects of each image in one json.

    Args:
        source: The json.
        images: Its entries by the names of their files, with the objects that can be read.
        numberings: See `Instances`; the first is the json's own.
        left_out: The sentence on the others, if there are any.
    """

    source: Path
    images: Mapping[str, ImageEntry]
    numberings: Sequence[Sequence[int]]
    left_out: Sequence[str] = ()

    @classmethod
    def of(
        cls,
        file: CocoFile,
        panoptic: CocoFile | None = None,
        masks: bool = False,
        strict: bool = False,
    ) -> "InstanceRule":
        """The rule for a json.

        Args:
            file: The json.
            panoptic: That of the same images' segments. Models of its classes, which are more,
                can be measured too.
            masks: Whether masks are asked for, and not boxes alone.
            strict: Whether an object that cannot be read is refused, and not left out.

        Raises:
            ExpediteError: None can be read, or one cannot.
        """
        # Where no object has a mask, that is said of the file as a whole, when it is measured.
        needs_mask = masks and any(
            entry.get("segmentation") for image in file.images for entry in image.annotations
        )
        images, faults, count = {}, [*file.left_out], len(file.left_out)
        for image in file.images:
            sound, bad = _sound(image, file.numbers, needs_mask)
            images[image.file_name] = image._replace(annotations=sound)
            faults += bad
            count += len(image.annotations)
        others = () if panoptic is None else (panoptic.numbers,)
        note = left_out_note(file.path, faults, count, strict)
        return cls(file.path, images, (file.numbers, *others), note)

    def sources(self) -> Sequence[Path]:
        """The json."""
        return (self.source,)

    def notes(self) -> list[str]:
        """What was left out."""
        return [*self.left_out]

    def read(self, path: Path) -> Instances:
        """The objects in an image, by the json's path with the name of the image's file behind."""
        name = path.relative_to(self.source).as_posix()
        try:
            return _objects(self.images[name], self.numberings)
        except MALFORMED as error:
            raise ExpediteError(
                f"{self.source} does not say what is in {name}: {type(error).__name__} {error}"
            ) from error

    def attach(self, sample: Sample, truth: Instances) -> Sample:
        """The sample with objects."""
        return replace(sample, instances=truth)


def _sound(
    image: ImageEntry, numbers: Sequence[int], needs_mask: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """The objects of an image that can be read, and the others in words."""
    sound, bad = [], []
    for place, entry in enumerate(image.annotations):
        try:
            check_object(entry, image.size, numbers, needs_mask)
            sound.append(entry)
        except (TypeError, ValueError) as error:
            bad.append(f"{name_of(entry, place)} in {image.file_name} ({first_line(error)})")
    return sound, bad


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
        packed: RunLengths = tools.merge(tools.frPyObjects(stored, *size))
        return packed
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
