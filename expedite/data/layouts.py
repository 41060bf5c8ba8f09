"""Where published data sets keep what is known of their images, beside `datasets`' own layout."""

from pathlib import Path
from typing import NamedTuple

from expedite.data.coco_files import CocoFile, ImageEntry, PanopticRule, read_coco
from expedite.data.coco_instances import InstanceRule
from expedite.data.datasets import ImageFolder, open_folder, spread
from expedite.data.image_classes import open_classes
from expedite.data.published_maps import open_published
from expedite.data.truths import TruthRule
from expedite.errors import ExpediteError
from expedite.loading import TaskName


class Layout(NamedTuple):
    """Paths below a root, in terms of a split and of an image's entry in the json.

    Args:
        panoptic: The annotations of segments.
        maps: The folder of their PNG files.
        instances: The annotations of objects, if there are any.
        image: One image.
    """

    panoptic: str
    maps: str
    instances: str
    image: str


_LAYOUTS = (
    Layout(  # COCO, whose split is val2017
        panoptic="annotations/panoptic_{split}.json",
        maps="annotations/panoptic_{split}",
        instances="annotations/instances_{split}.json",
        image="{split}/{file}",
    ),
    Layout(  # ADE20K
        panoptic="ade20k_panoptic_{split}.json",
        maps="ade20k_panoptic_{split}",
        instances="ade20k_instance_{split}.json",
        image="images/{longer}/{file}",
    ),
    Layout(  # Cityscapes
        panoptic="gtFine/cityscapes_panoptic_{split}.json",
        maps="gtFine/cityscapes_panoptic_{split}",
        instances="",
        image="leftImg8bit/{split}/{city}/{number}_leftImg8bit.png",
    ),
    Layout(
        panoptic="panoptic/{split}.json",
        maps="panoptic/{split}",
        instances="instances/{split}.json",
        image="images/{split}/{file}",
    ),
)
# How ADE20K calls the splits of its images.
_LONGER = {"val": "validation", "train": "training"}


def open_data(
    root: Path, split: str, task: TaskName, rule: TruthRule | None, limit: int | None = None
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

    Raises:
        ExpediteError: There is no image, or the truth of some is missing or damaged.
    """
    own = rule is not None and (root / rule.folder / split).is_dir()
    if not own and (found := open_published(root, split, rule, limit)):
        return found
    for layout in () if own else _LAYOUTS:
        panoptic = root / layout.panoptic.format(split=split)
        instances = root / layout.instances.format(split=split)
        if task in ("panoptic", "segmentation") and panoptic.is_file():
            return _panoptic(root, split, layout, read_coco(panoptic), limit)
        if task in ("instance", "detection") and instances.is_file():
            other = read_coco(panoptic) if panoptic.is_file() else None
            return _instances(root, split, layout, read_coco(instances), other, limit)
    classes = open_classes(root, split, limit) if task == "classification" else None
    return classes or open_folder(root, split, rule, limit)


def _panoptic(
    root: Path, split: str, layout: Layout, file: CocoFile, limit: int | None
) -> ImageFolder:
    maps = root / layout.maps.format(split=split)
    entries = spread([entry for entry in file.images if entry.annotations], limit)
    images = _images(root, split, layout, entries, file)
    rule = PanopticRule.of(file)
    truths = tuple(maps / entry.annotations[0]["file_name"] for entry in entries)
    _refuse_missing(truths, file)
    return ImageFolder(images, truths, rule)


def _instances(
    root: Path,
    split: str,
    layout: Layout,
    file: CocoFile,
    panoptic: CocoFile | None,
    limit: int | None,
) -> ImageFolder:
    entries = spread([*file.images], limit)
    images = _images(root, split, layout, entries, file)
    truths = tuple(file.path / path.name for path in images)
    return ImageFolder(images, truths, InstanceRule.of(file, panoptic))


def _images(
    root: Path, split: str, layout: Layout, entries: list[ImageEntry], file: CocoFile
) -> tuple[Path, ...]:
    if not entries:
        raise ExpediteError(f"{file.path} annotates no image")
    images = tuple(root / _image_path(layout, split, entry) for entry in entries)
    _refuse_missing(images, file)
    return images


def _image_path(layout: Layout, split: str, entry: ImageEntry) -> str:
    number = str(entry.number)
    return layout.image.format(
        split=split,
        longer=_LONGER.get(split, split),
        file=entry.file_name,
        number=number,
        city=number.partition("_")[0],
    )


def _refuse_missing(paths: tuple[Path, ...], file: CocoFile) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise ExpediteError(
            f"{len(missing)} files that {file.path} names are missing (the first is {missing[0]}); "
            "images and annotations have to lie as published"
        )
