"""Annotation files of COCO: one json for all images of a split, with maps of colours for segments.

ADE20K's and Cityscapes' panoptic annotations are published in the same form.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from expedite.data.segments import Segments
from expedite.data.truths import VOID, Sample, Truths, open_image
from expedite.errors import ExpediteError, first_line

_UNLABELLED = 0
# What reading an entry fails with where it is not what it should be.
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, RecursionError)


class Category(NamedTuple):
    """A class by its number in the files; those of things are counted one by one."""

    number: int
    is_thing: bool


class ImageEntry(NamedTuple):
    """An image by its number or name in the files, with what is annotated in it."""

    number: int | str
    file_name: str
    size: tuple[int, int]  # height, width
    annotations: list[dict[str, Any]]


@dataclass(frozen=True)
class CocoFile:
    """What one json holds.

    Args:
        path: Of the json.
        images: All, in the order of their file names.
        categories: By rising number; the place of one is the index of its class.
    """

    path: Path
    images: Sequence[ImageEntry]
    categories: Sequence[Category]

    @property
    def numbers(self) -> tuple[int, ...]:
        """The number of each class."""
        return tuple(category.number for category in self.categories)


def read_coco(path: Path) -> CocoFile:
    """Read a json of COCO.

    Raises:
        ExpediteError: It is cut off, or not of COCO.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        categories = sorted(
            Category(int(entry["id"]), bool(entry.get("isthing", True)))
            for entry in content["categories"]
        )
        images = {entry["id"]: _image(entry) for entry in content["images"]}
        for annotation in content["annotations"]:
            images[annotation["image_id"]].annotations.append({**annotation})
    except MALFORMED as error:
        reason = f"KeyError: {error}" if isinstance(error, KeyError) else first_line(error)
        raise ExpediteError(f"{path} is not an annotation file of COCO: {reason}") from error
    return CocoFile(path, sorted(images.values(), key=lambda image: image.file_name), categories)


def _image(entry: Mapping[str, Any]) -> ImageEntry:
    size = (int(entry["height"]), int(entry["width"]))
    return ImageEntry(entry["id"], str(entry["file_name"]), size, [])


@dataclass(frozen=True)
class PanopticRule(Truths):
    """Segments in PNG files of colours, whose classes are in a json.

    Args:
        source: The json.
        categories: Its categories, by rising number.
        segments: The entries of each PNG file by its name.
    """

    source: Path
    categories: Sequence[Category]
    segments: Mapping[str, Sequence[Mapping[str, Any]]]

    @classmethod
    def of(cls, file: CocoFile) -> "PanopticRule":
        """The rule for a json.

        Raises:
            ExpediteError: It is of another kind, or has more classes than class maps can hold.
        """
        if len(file.categories) > VOID:
            raise ExpediteError(
                f"{file.path} has {len(file.categories)} categories; up to {VOID} can be read"
            )
        try:
            segments = {
                annotation["file_name"]: annotation["segments_info"]
                for image in file.images
                for annotation in image.annotations
            }
        except KeyError as error:
            raise ExpediteError(
                f"{file.path} is not of panoptic segments: an annotation has no {error}"
            ) from error
        return cls(file.path, file.categories, segments)

    @property
    def stuff(self) -> frozenset[int]:
        """Indices of the classes that are not things."""
        return frozenset(i for i, category in enumerate(self.categories) if not category.is_thing)

    def read(self, path: Path) -> Segments:
        """The segments in a PNG file."""
        ids = _ids(path)
        index = {category.number: i for i, category in enumerate(self.categories)}
        try:
            entries = self.segments[path.name]
            # A number that is given twice is of the latter, as panopticapi has it.
            classes = {int(entry["id"]): index[entry["category_id"]] for entry in entries}
            crowd = {int(entry["id"]) for entry in entries if entry.get("iscrowd")}
        except MALFORMED as error:
            raise ExpediteError(
                f"{self.source} does not say what is in {path.name}: {type(error).__name__} {error}"
            ) from error
        unknown = {*np.unique(ids).tolist()} - {*classes, _UNLABELLED}
        if unknown:
            raise ExpediteError(
                f"{path} has a segment {min(unknown)} that {self.source} does not know; the two "
                "have to be of one release"
            )
        return Segments.of_ids(ids, classes, len(self.categories), crowd)

    def attach(self, sample: Sample, truth: Segments) -> Sample:
        """The sample with segments, and with the class of each pixel."""
        return replace(sample, panoptic=truth, labels=truth.semantic(VOID))


def _ids(path: Path) -> NDArray[np.int64]:
    """The number of each pixel's segment, (H, W): red + 256 green + 256² blue."""
    image = open_image(path)
    if image.mode != "RGB":
        raise ExpediteError(
            f"{path} is an image of mode {image.mode}; segments are due as colours, in mode RGB"
        )
    colours = np.asarray(image).astype(np.int64)
    return colours[..., 0] + 256 * colours[..., 1] + 256**2 * colours[..., 2]
