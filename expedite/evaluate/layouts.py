"""Where published data sets keep what is known of their images, beside `datasets`' own layout."""

from pathlib import Path
from typing import NamedTuple

from expedite.errors import ExpediteError
from expedite.evaluate.coco_files import CocoFile, ImageEntry, PanopticRule, read_coco
from expedite.evaluate.datasets import ImageFolder, open_folder, spread
from expedite.evaluate.truths import TruthRule
from expedite.loading import TaskName


class Layout(NamedTuple):
    """Paths below a root, in terms of a split and of an image's entry in the json.

    Args:
        json: The annotations.
        maps: The folder of PNG files, if there is one.
        image: One image.
    """

    json: str
    maps: str
    image: str


_PANOPTIC = (
    Layout(  # COCO, whose split is val2017
        "annotations/panoptic_{split}.json", "annotations/panoptic_{split}", "{split}/{file}"
    ),
    Layout(  # ADE20K
        "ade20k_panoptic_{split}.json", "ade20k_panoptic_{split}", "images/{longer}/{file}"
    ),
    Layout(  # Cityscapes
        "gtFine/cityscapes_panoptic_{split}.json",
        "gtFine/cityscapes_panoptic_{split}",
        "leftImg8bit/{split}/{city}/{number}_leftImg8bit.png",
    ),
    Layout("panoptic/{split}.json", "panoptic/{split}", "images/{split}/{file}"),
)
# How ADE20K calls the splits of its images.
_LONGER = {"val": "validation", "train": "training"}


def open_data(
    root: Path, split: str, task: TaskName, rule: TruthRule | None, limit: int | None = None
) -> ImageFolder:
    """Find the images of `split` below `root`, with what is known of them for a task.

    Panoptic segments are read as COCO, ADE20K and Cityscapes publish them; class maps come from
    them too where there are no others. For everything else, and where no annotations are found,
    see `open_folder`.

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
    if task in ("panoptic", "segmentation") and not own:
        for layout in _PANOPTIC:
            if (path := root / layout.json.format(split=split)).is_file():
                return _panoptic(root, split, layout, read_coco(path), limit)
    return open_folder(root, split, rule, limit)


def _panoptic(
    root: Path, split: str, layout: Layout, file: CocoFile, limit: int | None
) -> ImageFolder:
    rule, maps = PanopticRule.of(file), root / layout.maps.format(split=split)
    entries = [entry for entry in file.images if entry.annotations]
    if not entries:
        raise ExpediteError(f"{file.path} annotates no image")
    entries = spread(entries, limit)
    images = tuple(root / _image_path(layout, split, entry) for entry in entries)
    truths = tuple(maps / entry.annotations[0]["file_name"] for entry in entries)
    _refuse_missing([*images, *truths], file.path)
    return ImageFolder(images, truths, rule)


def _image_path(layout: Layout, split: str, entry: ImageEntry) -> str:
    number = str(entry.number)
    return layout.image.format(
        split=split,
        longer=_LONGER.get(split, split),
        file=entry.file_name,
        number=number,
        city=number.partition("_")[0],
    )


def _refuse_missing(paths: list[Path], source: Path) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise ExpediteError(
            f"{len(missing)} files that {source} names are missing (the first is {missing[0]}); "
            "images and annotations have to lie as published"
        )
