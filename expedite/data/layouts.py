"""Where published data sets keep what is known of their images, beside `datasets`' own layout."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from expedite.data.coco_files import CocoFile, ImageEntry, PanopticRule, read_coco
from expedite.data.coco_instances import InstanceRule
from expedite.data.datasets import ImageFolder, open_folder, spread
from expedite.data.image_classes import open_classes
from expedite.data.inside import missing_of, refuse_outside
from expedite.data.published_maps import open_published
from expedite.data.truths import TruthRule
from expedite.errors import ExpediteError
from expedite.loading import TaskName


class Layout(NamedTuple):
    """Paths below a root, in terms of a split and of an image's entry in the json.

    Args:
        panoptic: The annotations of segments; PNG files lie in the folder of its name.
        instances: The annotations of objects, if there are any.
        image: One image.
    """

    panoptic: str
    instances: str
    image: str


_LAYOUTS = (
    Layout(  # COCO, whose split is val2017
        panoptic="annotations/panoptic_{split}.json",
        instances="annotations/instances_{split}.json",
        image="{split}/{file}",
    ),
    Layout(  # ADE20K
        panoptic="ade20k_panoptic_{split}.json",
        instances="ade20k_instance_{split}.json",
        image="images/{longer}/{file}",
    ),
    Layout(  # Cityscapes
        panoptic="gtFine/cityscapes_panoptic_{split}.json",
        instances="",
        image="leftImg8bit/{split}/{city}/{number}_leftImg8bit.png",
    ),
    Layout(
        panoptic="panoptic/{split}.json",
        instances="instances/{split}.json",
        image="images/{split}/{file}",
    ),
)
# How ADE20K calls the splits of its images.
_LONGER = {"val": "validation", "train": "training"}


def open_data(
    root: Path,
    split: str,
    task: TaskName,
    rule: TruthRule | None,
    limit: int | None = None,
    strict: bool = False,
) -> ImageFolder:
    """Find the images of `split` below `root`, with what is known of them for a task.

    Panoptic segments are read as COCO, ADE20K and Cityscapes publish them, objects as COCO and
    ADE20K do, classes of whole images as ImageNet does, and maps as `open_published` says. Class
    maps come from segments where there are no others. For everything else, and where no annotations
    are found, see `open_folder`.

    Args:
        root: Of the data set.
        split: As the data set calls it, which is val2017 in COCO.
        task: Says what to look for.
        rule: How maps are stored in `datasets`' own layout, where the task has such.
        limit: How many images to take, spread evenly over all; None takes all.
        strict: Whether an object in COCO's files that cannot be read is refused; it is left out
            otherwise, and named in the folder's notes.

    Raises:
        ExpediteError: There is no image, or the truth of some is missing or damaged.
    """
    own = rule is not None and (root / rule.folder / split).is_dir()
    if not own and (found := open_published(root, split, rule, limit)):
        return found
    for layout in () if own else _LAYOUTS:
        panoptic = root / layout.panoptic.format(split=split)
        instances = root / layout.instances.format(split=split)
        place = _Place(root, split, layout, limit)
        if task in ("panoptic", "segmentation") and panoptic.is_file():
            return _panoptic(place, read_coco(panoptic), strict)
        if task in ("instance", "detection") and instances.is_file():
            other = read_coco(panoptic) if panoptic.is_file() else None
            file = read_coco(instances)
            return _instances(place, file, InstanceRule.of(file, other, task == "instance", strict))
    classes = open_classes(root, split, limit) if task == "classification" else None
    return classes or open_folder(root, split, rule, limit)


class _Place(NamedTuple):
    """Where a split lies, in which layout, and how many of its images to take."""

    root: Path
    split: str
    layout: Layout
    limit: int | None

    def found(self, paths: Iterable[Path], file: CocoFile) -> tuple[Path, ...]:
        """Paths whose names are in a json, all of which lie in the data and are there."""
        paths = tuple(paths)
        refuse_outside(self.root, paths, file.path)
        if missing := missing_of(paths):
            raise ExpediteError(
                f"{len(missing)} files that {file.path} names are missing (the first is "
                f"{missing[0]}); images and annotations have to lie as published"
            )
        return paths

    def images(self, entries: Sequence[ImageEntry], file: CocoFile) -> tuple[Path, ...]:
        """The images of entries."""
        if not entries:
            raise ExpediteError(f"{file.path} annotates no image")
        return self.found((self.root / self._image(entry) for entry in entries), file)

    def _image(self, entry: ImageEntry) -> str:
        number = str(entry.number)
        return self.layout.image.format(
            split=self.split,
            longer=_LONGER.get(self.split, self.split),
            file=entry.file_name,
            number=number,
            city=number.partition("_")[0],
        )


def _panoptic(place: _Place, file: CocoFile, strict: bool) -> ImageFolder:
    rule = PanopticRule.of(file, strict)
    entries = spread([entry for entry in file.images if entry.number in rule.maps], place.limit)
    images = place.images(entries, file)
    truths = (rule.folder / rule.maps[entry.number] for entry in entries)
    return ImageFolder(images, place.found(truths, file), rule)


def _instances(place: _Place, file: CocoFile, rule: InstanceRule) -> ImageFolder:
    entries = spread([*file.images], place.limit)
    images = place.images(entries, file)
    return ImageFolder(images, tuple(file.path / entry.file_name for entry in entries), rule)
