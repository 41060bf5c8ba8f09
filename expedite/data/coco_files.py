"""Annotation files of COCO: one json for all images of a split, with maps of colours for segments.

ADE20K's and Cityscapes' panoptic annotations are published in the same form.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from reprlib import repr as short
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from expedite.data.coco_checks import whole_number
from expedite.data.image_files import open_image
from expedite.data.segments import Segments
from expedite.data.truths import VOID, Sample, Truths
from expedite.errors import ExpediteError, first_line

_UNLABELLED = 0
_NAMED = 3  # of what was left out
# What reading an entry fails with where it is not what it should be.
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError)


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
        left_out: What annotations are of no image, in words.
    """

    path: Path
    images: Sequence[ImageEntry]
    categories: Sequence[Category]
    left_out: Sequence[str] = ()

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
        categories = sorted(map(_category, content["categories"]))
        images = [_image(entry) for entry in content["images"]]
        _refuse_doubles("the category", [category.number for category in categories])
        _refuse_doubles("the image", [image.number for image in images])
        _refuse_doubles("the file", [image.file_name for image in images])
        left_out = _share_out(content["annotations"], images)
    except MALFORMED as error:
        reason = f"KeyError: {error}" if isinstance(error, KeyError) else first_line(error)
        raise ExpediteError(f"{path} is not an annotation file of COCO: {reason}") from error
    images.sort(key=lambda image: image.file_name)
    return CocoFile(path, images, categories, left_out)


def left_out_note(path: Path, left_out: Sequence[str], of: int, strict: bool) -> list[str]:
    """The sentence on what of a json is left out, if anything is.

    Args:
        path: Of the json.
        left_out: Each in words.
        of: Of how many.
        strict: Whether the first ends all.

    Raises:
        ExpediteError: It does, or nothing else is left.
    """
    if not left_out:
        return []
    if strict:
        raise ExpediteError(f"{path} holds what cannot be read: {left_out[0]}")
    if len(left_out) >= of:
        raise ExpediteError(f"{path} holds nothing that can be read: {left_out[0]}")
    named = "; ".join(left_out[:_NAMED])
    more = f"; and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
    return [f"{len(left_out)} of {of} objects in {path} are left out: {named}{more}."]


def _category(entry: Mapping[str, Any]) -> Category:
    return Category(whole_number(entry["id"]), bool(entry.get("isthing", True)))


def _image(entry: Mapping[str, Any]) -> ImageEntry:
    number, name = entry["id"], entry["file_name"]
    if not _is_name(name) or not isinstance(number, (int, str)):
        raise TypeError(f"an image has the id {short(number)} and the file name {short(name)}")
    size = (whole_number(entry["height"]), whole_number(entry["width"]))
    limit = 2 * (Image.MAX_IMAGE_PIXELS or size[0] * size[1])  # as Pillow has it
    if min(size) < 1 or size[0] * size[1] > limit:
        raise ValueError(f"an image has the size {short(size)}")
    return ImageEntry(number, PurePosixPath(name).as_posix(), size, [])


def _is_name(value: Any) -> bool:
    """Whether a value can be a file's name that is fit to be shown."""
    return isinstance(value, str) and value.isprintable()


def _refuse_doubles(what: str, found: Sequence[int | str]) -> None:
    seen: set[int | str] = set()
    for one in found:
        if one in seen:
            raise ValueError(f"{what} {short(one)} is in it twice")
        seen.add(one)


def _share_out(annotations: Any, images: Sequence[ImageEntry]) -> list[str]:
    """Give images their annotations; what is of none is returned in words."""
    if not isinstance(annotations, list):
        raise TypeError("annotations are no list")
    by_number = {image.number: image for image in images}
    left_out = []
    for place, annotation in enumerate(annotations):
        number = annotation.get("image_id") if isinstance(annotation, dict) else None
        image = by_number.get(number) if isinstance(number, (int, str)) else None
        if image is None:
            name = name_of(annotation, place)
            left_out.append(f"{name} is of the image {short(number)}, which is not there")
        else:
            image.annotations.append({**annotation})
    if left_out and len(left_out) == len(annotations):
        raise ValueError(left_out[0])
    return left_out


def name_of(annotation: Any, place: int) -> str:
    """What an annotation is called in messages: by its id, or by its place in a list."""
    number = annotation.get("id") if isinstance(annotation, dict) else None
    return f"object {place} of the list" if number is None else f"object {short(number)}"


@dataclass(frozen=True)
class PanopticRule(Truths):
    """Segments in PNG files of colours, whose classes are in a json.

    Args:
        source: The json; the PNG files lie in the folder of its name.
        categories: Its categories, by rising number.
        segments: The entries of each PNG file by its name.
        maps: The name of each image's PNG file by the image's number.
        damaged: Names of PNG files of which a segment was left out.
        left_out: The sentence on these, if there are any.
    """

    source: Path
    categories: Sequence[Category]
    segments: Mapping[str, Sequence[Mapping[str, Any]]]
    maps: Mapping[int | str, str] = field(default_factory=dict)
    damaged: Collection[str] = ()
    left_out: Sequence[str] = ()

    @classmethod
    def of(cls, file: CocoFile, strict: bool = False) -> "PanopticRule":
        """The rule for a json.

        Args:
            file: The json.
            strict: Whether a segment that cannot be read is refused, and not left out.

        Raises:
            ExpediteError: It is of another kind.
        """
        segments: dict[str, list[Mapping[str, Any]]] = {}
        maps: dict[int | str, str] = {}
        faults, damaged, count = [*file.left_out], set(), len(file.left_out)
        for image, annotation in _annotations(file):
            name = _map_name(annotation)
            if name is None:
                raise ExpediteError(
                    f"{file.path} is not of panoptic segments: an annotation of {image.file_name} "
                    "has no file_name with segments_info"
                )
            if name in segments:
                raise ExpediteError(f"{file.path} names the map {name} for two images")
            maps.setdefault(image.number, name)
            sound, bad = _sound(annotation["segments_info"], file.numbers, name)
            segments[name] = sound
            count += len(sound) + len(bad)
            faults += bad
            damaged |= {name} if bad else set()
        note = left_out_note(file.path, faults, count, strict)
        return cls(file.path, file.categories, segments, maps, damaged, note)

    @property
    def folder(self) -> Path:
        """Of the PNG files."""
        return self.source.with_suffix("")

    @property
    def stuff(self) -> frozenset[int]:
        """Indices of the classes that are not things."""
        return frozenset(i for i, category in enumerate(self.categories) if not category.is_thing)

    def sources(self) -> Sequence[Path]:
        """The json."""
        return (self.source,)

    def notes(self) -> list[str]:
        """What was left out."""
        return [*self.left_out]

    def read(self, path: Path) -> Segments:
        """The segments in a PNG file."""
        ids = _ids(path)
        index = {category.number: i for i, category in enumerate(self.categories)}
        try:
            name = path.relative_to(self.folder).as_posix()
            entries = self.segments[name]
        except (ValueError, KeyError) as error:
            raise ExpediteError(f"{self.source} does not say what is in {path}") from error
        # A number that is given twice is of the latter, as panopticapi has it.
        classes = {entry["id"]: index[entry["category_id"]] for entry in entries}
        crowd = {entry["id"] for entry in entries if entry.get("iscrowd")}
        unknown = {*np.unique(ids).tolist()} - {*classes, _UNLABELLED}
        if unknown and name not in self.damaged:
            raise ExpediteError(
                f"{path} has a segment {min(unknown)} that {self.source} does not know; the two "
                "have to be of one release"
            )
        return Segments.of_ids(ids, classes, len(self.categories), crowd)

    def attach(self, sample: Sample, truth: Segments) -> Sample:
        """The sample with segments, and with the class of each pixel."""
        return replace(sample, panoptic=truth, labels=truth.semantic(VOID))


def _annotations(file: CocoFile) -> Iterator[tuple[ImageEntry, dict[str, Any]]]:
    for image in file.images:
        for annotation in image.annotations:
            yield image, annotation


def _map_name(annotation: Mapping[str, Any]) -> str | None:
    name = annotation.get("file_name")
    is_panoptic = _is_name(name) and isinstance(annotation.get("segments_info"), list)
    return PurePosixPath(str(name)).as_posix() if is_panoptic else None


def _sound(
    entries: Sequence[Any], numbers: Collection[int], name: str
) -> tuple[list[Mapping[str, Any]], list[str]]:
    """The entries of segments that can be read, and the others in words."""
    sound, bad = [], []
    for place, entry in enumerate(entries):
        try:
            whole_number(entry["id"])
            if whole_number(entry["category_id"]) not in numbers:
                raise ValueError(f"the category {entry['category_id']} is not among the file's")
            sound.append(entry)
        except MALFORMED as error:
            bad.append(f"{name_of(entry, place)} in {name} ({first_line(error)})")
    return sound, bad


def _ids(path: Path) -> NDArray[np.int64]:
    """The number of each pixel's segment, (H, W): red + 256 green + 256² blue."""
    image = open_image(path)
    if image.mode != "RGB":
        raise ExpediteError(
            f"{path} is an image of mode {image.mode}; segments are due as colours, in mode RGB"
        )
    colours = np.asarray(image).astype(np.int64)
    return colours[..., 0] + 256 * colours[..., 1] + 256**2 * colours[..., 2]
