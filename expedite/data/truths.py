"""What is known of an image beside its pixels, and how files store it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any, ClassVar
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from expedite.data.instances import Instances
from expedite.data.segments import Segments
from expedite.errors import ExpediteError

VOID = 255
NO_DEPTH = inf  # as in the sky
_MILLIMETRES = 1000.0


@dataclass(frozen=True)
class ImageClass:
    """The class of a whole image by its index, and how many classes there are."""

    index: int
    of_classes: int


@dataclass(frozen=True)
class Sample:
    """One image with what is known of it.

    Args:
        name: Without folders and suffix.
        image: RGB, (H, W, 3) uint8.
        labels: Indices of classes, `VOID` where nothing counts, (H, W) int64.
        depth: Metres, `NO_DEPTH` where none is known, (H, W) float32.
        panoptic: Segments, void where there is none.
        instances: Objects.
        image_class: What the whole image shows.
        source: The file of what is known, for errors; empty where there is none.
    """

    name: str
    image: NDArray[np.uint8]
    labels: NDArray[np.int64] | None = None
    depth: NDArray[np.float32] | None = None
    panoptic: Segments | None = None
    instances: Instances | None = None
    image_class: ImageClass | None = None
    source: str = ""


@dataclass(frozen=True)
class Truths(ABC):
    """How the truth of an image is read."""

    @abstractmethod
    def read(self, path: Path) -> Any:
        """What is known of an image by a path of its own."""

    def shape_of(self, truth: Any) -> tuple[int, ...] | None:
        """(H, W) of what was read, which is its image's; None where it has none."""
        shape: tuple[int, ...] = truth.shape
        return shape

    @abstractmethod
    def attach(self, sample: Sample, truth: Any) -> Sample:
        """The sample with what was read."""


@dataclass(frozen=True)
class TruthRule(Truths):
    """How truth is stored in a file for each image: where, and how it is read.

    Attributes:
        folder: Beside `images`.
        suffixes: Of the files; the first that is there is read.
        noun: What a file holds, in words.
    """

    folder: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    noun: ClassVar[str]


@dataclass(frozen=True)
class LabelRule(TruthRule):
    """How class indices are stored in annotation files.

    Args:
        ignore_index: The stored value that does not count.
        reduce_zero_label: Whether 0 does not count either and classes begin at 1, as in ADE20K.
    """

    folder: ClassVar = "annotations"
    suffixes: ClassVar = (".png",)
    noun: ClassVar = "annotation"

    ignore_index: int = VOID
    reduce_zero_label: bool = False

    def read(self, path: Path) -> NDArray[np.int64]:
        """The class indices in a file."""
        return self.apply(np.asarray(open_image(path)))

    def apply(self, stored: NDArray[np.integer]) -> NDArray[np.int64]:
        """Turn stored values (H, W) into class indices (H, W), `VOID` where nothing counts."""
        labels = stored.astype(np.int64)
        void = labels == self.ignore_index
        if self.reduce_zero_label:
            void |= labels == 0
            labels = labels - 1
        return np.where(void, VOID, labels)

    def attach(self, sample: Sample, truth: NDArray[np.int64]) -> Sample:
        """The sample with labels."""
        return replace(sample, labels=truth)


@dataclass(frozen=True)
class DepthRule(TruthRule):
    """How depth is stored: in PNG files of 16 bits, or as metres in NPY files; 0 is not known.

    Args:
        scale: What stands for a metre in PNG files; None is 1000, for millimetres, or what a
            published data set has.

    Raises:
        ExpediteError: A scale that is not above 0.
    """

    folder: ClassVar = "depth"
    suffixes: ClassVar = (".png", ".npy")
    noun: ClassVar = "depth"

    scale: float | None = None

    def __post_init__(self) -> None:
        if self.scale is not None and not self.scale > 0:
            raise ExpediteError(f"a depth scale of {self.scale} was asked; it is above 0")

    def read(self, path: Path) -> NDArray[np.float32]:
        """The metres in a file, `NO_DEPTH` where it has none."""
        stored = _load_array(path) if path.suffix == ".npy" else self._load_png(path)
        known = np.isfinite(stored) & (stored > 0)
        return np.where(known, stored, NO_DEPTH).astype(np.float32)

    def attach(self, sample: Sample, truth: NDArray[np.float32]) -> Sample:
        """The sample with depth."""
        return replace(sample, depth=truth)

    def _load_png(self, path: Path) -> NDArray[np.floating]:
        image = open_image(path)
        if not image.mode.startswith("I"):  # I;16, and I before Pillow 10.3
            raise ExpediteError(
                f"{path} is an image of mode {image.mode}; depth is due in one channel of 16 bits"
            )
        return np.asarray(image) / (self.scale or _MILLIMETRES)


# By the data set's name in a published variant.yml.
LABEL_RULES = {
    "ade20k": LabelRule(reduce_zero_label=True),
    "pascal_context": LabelRule(),  # 60 classes, the background among them
    "pascal_context_59": LabelRule(reduce_zero_label=True),
    "cityscapes": LabelRule(),
    "camvid": LabelRule(ignore_index=11),
}


def open_image(path: Path) -> Image.Image:
    """An image file, decoded; anything else is refused in one sentence."""
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ExpediteError(f"{path} cannot be read as an image: {error}") from error


def _load_array(path: Path) -> NDArray[np.floating]:
    try:
        with path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, BadZipFile, MemoryError) as error:
        raise ExpediteError(f"{path} cannot be read as an array: {error}") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiu":
        what = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "several arrays"
        raise ExpediteError(f"{path} holds {what}; metres of shape (H, W) are due")
    return array.astype(np.float64)
