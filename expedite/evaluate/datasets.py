"""Images with class maps from folders in the layout of ADE20K.

`images/SPLIT/NAME.jpg` and `annotations/SPLIT/NAME.png`; a folder of images alone is read too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from expedite.errors import ExpediteError

VOID = 255
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


@dataclass(frozen=True)
class LabelRule:
    """How class indices are stored in annotation files.

    Args:
        ignore_index: The stored value that does not count.
        reduce_zero_label: Whether 0 does not count either and classes begin at 1, as in ADE20K.
    """

    ignore_index: int = VOID
    reduce_zero_label: bool = False

    def apply(self, stored: NDArray[np.integer]) -> NDArray[np.int64]:
        """Turn stored values (H, W) into class indices (H, W), `VOID` where nothing counts."""
        labels = stored.astype(np.int64)
        void = labels == self.ignore_index
        if self.reduce_zero_label:
            void |= labels == 0
            labels = labels - 1
        return np.where(void, VOID, labels)


# By the data set's name in a published variant.yml.
LABEL_RULES = {
    "ade20k": LabelRule(reduce_zero_label=True),
    "pascal_context": LabelRule(),  # 60 classes, the background among them
    "cityscapes": LabelRule(),
    "camvid": LabelRule(ignore_index=11),
}


@dataclass(frozen=True)
class Sample:
    """One image (H, W, 3) uint8 RGB with its class map (H, W) int64, None where there is none."""

    name: str
    image: NDArray[np.uint8]
    labels: NDArray[np.int64] | None


class Samples(Protocol):
    """Anything with a length that gives samples, more than once."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Sample]: ...


@dataclass(frozen=True)
class SegmentationFolder:
    """The samples of one split, in the order of their names.

    Raises:
        ExpediteError: The folder has no images, some images have no annotation, or, when a sample
            is read, a file cannot be decoded or its labels have another size than its image.
    """

    images: tuple[Path, ...]
    annotations: tuple[Path, ...] | None
    rule: LabelRule = LabelRule()

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        path = self.images[index]
        image = np.asarray(_open(path).convert("RGB"))
        if self.annotations is None:
            return Sample(path.stem, image, None)
        stored = np.asarray(_open(self.annotations[index]))
        if stored.shape != image.shape[:2]:
            raise ExpediteError(
                f"{self.annotations[index]} has shape {stored.shape} for an image of "
                f"{image.shape[:2]}; a class map holds one index per pixel of its image"
            )
        return Sample(path.stem, image, self.rule.apply(stored))


def open_folder(
    root: Path, split: str = "val", rule: LabelRule = LabelRule(), limit: int | None = None
) -> SegmentationFolder:
    """Find the images of `split` below `root`, with their annotations where there are any.

    Args:
        root: Holds `images/SPLIT` and `annotations/SPLIT`, or images alone.
        split: Name of the split.
        rule: How annotations store classes.
        limit: How many images to take, spread evenly over all; None takes all.

    Raises:
        ExpediteError: There is no image, an annotation is missing, or `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise ExpediteError(f"a limit of {limit} images was asked; at least 1 is due")
    folder = root / "images" / split
    if not folder.is_dir() and not (root / "images").is_dir():
        folder = root
    images = _images_in(folder)
    if limit is not None and limit < len(images):
        # Neighbouring names are often neighbouring frames: a spread says more than a prefix.
        images = [images[i * len(images) // limit] for i in range(limit)]
    labels = root / "annotations" / split
    if not labels.is_dir():
        return SegmentationFolder(tuple(images), None, rule)
    annotations = [labels / f"{image.stem}.png" for image in images]
    missing = [path for path in annotations if not path.is_file()]
    if missing:
        raise ExpediteError(
            f"{len(missing)} of {len(images)} images in {folder} have no annotation (the first is "
            f"{missing[0]}); each needs a PNG of the same name"
        )
    return SegmentationFolder(tuple(images), tuple(annotations), rule)


def _images_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ExpediteError(
            f"images were asked from {folder}, which is not a folder; the layout is "
            "images/SPLIT/NAME.jpg with annotations/SPLIT/NAME.png"
        )
    images = sorted(path for path in folder.iterdir() if path.suffix.lower() in _IMAGE_SUFFIXES)
    if not images:
        raise ExpediteError(f"{folder} holds no image ({', '.join(sorted(_IMAGE_SUFFIXES))})")
    return images


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ExpediteError(f"{path} cannot be read as an image: {error}") from error
