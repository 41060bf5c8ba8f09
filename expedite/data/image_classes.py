"""Images in a folder for each class, as ImageNet has them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from expedite.data.datasets import ImageFolder, images_in, spread
from expedite.data.image_files import is_shown
from expedite.data.truths import ImageClass, Sample, Truths


@dataclass(frozen=True)
class ClassRule(Truths):
    """The class of an image is the place of its folder among `folders`."""

    folders: Sequence[str]

    def read(self, path: Path) -> ImageClass:
        """The class of the image at `path`."""
        return ImageClass(self.folders.index(path.parent.name), len(self.folders))

    def shape_of(self, truth: ImageClass) -> None:
        """A class has no shape."""

    def attach(self, sample: Sample, truth: ImageClass) -> Sample:
        """The sample with its class."""
        return replace(sample, image_class=truth)


def open_classes(root: Path, split: str, limit: int | None) -> ImageFolder | None:
    """The images in `root/SPLIT/CLASS`; None where there are no such folders.

    Args:
        root: Holds the splits.
        split: Name of the split.
        limit: How many images to take, spread evenly over all; None takes all.

    Raises:
        ExpediteError: A class has no image.
    """
    folder = root / split
    classes = sorted(path for path in folder.glob("*") if path.is_dir() and is_shown(path))
    if not classes:
        return None
    images = [path for of_class in classes for path in images_in(of_class)]
    images = spread(images, limit)
    return ImageFolder(tuple(images), tuple(images), ClassRule([path.name for path in classes]))
