"""What is known of an image beside its pixels, and how files store it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any, ClassVar
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from expedite.data.image_files import open_image
from expedite.data.instances import Instances
from expedite.data.segments import Segments
from expedite.errors import ExpediteError

VOID = -1  # no class, however many there are
NO_DEPTH = inf  # as in the sky
_MILLIMETRES = 1000.0
_IGNORED = 255  # by most data sets
# Of labels: one channel of whole numbers.
_NUMBERS = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")


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

    def check(self, paths: Sequence[Path]) -> None:
        """Refuse files of truth that would be read as something else than they say."""
        return  # most say enough by themselves

    def sources(self) -> Sequence[Path]:
        """Files that say what is in all images, where there are such."""
        return ()

    def notes(self) -> list[str]:
        """Sentences on what was left out, for reports."""
        return []


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

    ignore_index: int = _IGNORED
    reduce_zero_label: bool = False

    def read(self, path: Path) -> NDArray[np.int64]:
        """The class indices in a file."""
        return self.apply(_stored_labels(path))

    def check(self, paths: Sequence[Path]) -> None:
        """Refuse masks of 0 and 255, of which 255 would be taken for what does not count."""
        if self.ignore_index != _IGNORED:
            return
        found: set[int] = set()
        for path in paths:  # the first tells as a rule
            found |= {*np.unique(_stored_labels(path)).tolist()}
            if not found <= {0, _IGNORED}:
                return
        if _IGNORED in found:
            raise ExpediteError(
                f"the labels in {paths[0].parent} are 0 and {_IGNORED} alone, of which {_IGNORED} "
                "does not count; masks of two classes are due as 0 and 1"
            )

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


def _stored_labels(path: Path) -> NDArray[np.integer]:
    image = open_image(path)
    if image.mode not in _NUMBERS:
        raise ExpediteError(
            f"{path} is an image of mode {image.mode}; labels are due in one channel of whole "
            "numbers"
        )
    return np.asarray(image)


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
