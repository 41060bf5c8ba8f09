"""Images with their truth from folders in the layout of ADE20K.

`images/SPLIT/NAME.jpg` with class maps in `annotations/SPLIT/NAME.png`, or with depth in
`depth/SPLIT/NAME.png` or `NAME.npy`; a folder of images alone is read too.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

from expedite.data.image_files import is_shown, is_turned, read_rgb
from expedite.data.truths import LabelRule, Sample, TruthRule, Truths
from expedite.errors import ExpediteError

Item = TypeVar("Item")

_CLASS_MAPS = LabelRule()
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


class Samples(Protocol):
    """Anything with a length that gives samples by their index, as often as asked."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


@dataclass(frozen=True)
class ImageFolder:
    """The samples of one split, in the order of their names.

    Raises:
        ExpediteError: When a sample is read: a file cannot be decoded, or its truth has another
            size than its image.
    """

    images: tuple[Path, ...]
    truths: tuple[Path, ...] = ()
    rule: Truths | None = None  # of the truths

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        path = self.images[index]
        sample = Sample(path.stem, read_rgb(path))
        if self.rule is None:
            return sample
        truth = self.rule.read(self.truths[index])
        if (shape := self.rule.shape_of(truth)) not in (None, sample.image.shape[:2]):
            turned = ", turned as its file says," if is_turned(path) else ""
            raise ExpediteError(
                f"{self.truths[index]} has shape {shape} for an image of "
                f"{sample.image.shape[:2]}{turned}; one value per pixel of its image is due"
            )
        return replace(self.rule.attach(sample, truth), source=str(self.truths[index]))

    def fingerprint(self) -> str:
        """A digest of the names, sizes and times of all files; of other files it is another."""
        sources = () if self.rule is None else self.rule.sources()
        found = hashlib.sha256()
        for path in (*self.images, *self.truths, *sources):
            # Where one file is the truth of all images, its paths go on with names of theirs.
            if path.is_file():
                status = path.stat()
                found.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        return found.hexdigest()[:16]

    def notes(self) -> list[str]:
        """Sentences on what was left out, for reports."""
        return [] if self.rule is None else self.rule.notes()


def open_folder(
    root: Path,
    split: str = "val",
    rule: TruthRule | None = _CLASS_MAPS,
    limit: int | None = None,
) -> ImageFolder:
    """Find the images of `split` below `root`, with their truth where there is any.

    Args:
        root: Holds `images/SPLIT` and the rule's folder, or images alone.
        split: Name of the split.
        rule: Which truth to read and how it is stored; None reads images alone.
        limit: How many images to take, spread evenly over all; None takes all.

    Raises:
        ExpediteError: There is no image, the truth of some is missing, or `limit` is below 1.
    """
    folder = root / "images" / split
    if not folder.is_dir() and not (root / "images").is_dir():
        folder = root
    images = spread(images_in(folder), limit)
    if rule is None or not (root / rule.folder / split).is_dir():
        return ImageFolder(tuple(images))
    truths = _truths_of(images, root / rule.folder / split, rule)
    rule.check(truths)
    return ImageFolder(tuple(images), truths, rule)


def spread(items: list[Item], limit: int | None) -> list[Item]:
    """Take `limit` of the items, evenly over all; None takes all."""
    if limit is not None and limit < 1:
        raise ExpediteError(f"a limit of {limit} images was asked; at least 1 is due")
    if limit is None or limit >= len(items):
        return items
    # Neighbouring names are often neighbouring frames: a spread says more than a prefix.
    return [items[i * len(items) // limit] for i in range(limit)]


def _truths_of(images: list[Path], folder: Path, rule: TruthRule) -> tuple[Path, ...]:
    candidates = [
        [folder / f"{image.stem}{suffix}" for suffix in rule.suffixes] for image in images
    ]
    found = [next((path for path in paths if path.is_file()), None) for paths in candidates]
    missing = [paths[0] for paths, path in zip(candidates, found, strict=True) if path is None]
    if missing:
        raise ExpediteError(
            f"{len(missing)} of {len(images)} images in {images[0].parent} have no {rule.noun} "
            f"(the first is {missing[0]}); each needs a file of the same name"
        )
    return tuple(path for path in found if path is not None)


def images_in(folder: Path) -> list[Path]:
    """The images that lie in a folder, by their names.

    Raises:
        ExpediteError: It is no folder, or has no image.
    """
    if not folder.is_dir():
        raise ExpediteError(
            f"images were asked from {folder}, which is not a folder; the layout is "
            "images/SPLIT/NAME.jpg with annotations/SPLIT/NAME.png or depth/SPLIT/NAME.png"
        )
    images = sorted(path for path in folder.iterdir() if _is_image(path))
    if not images:
        raise ExpediteError(f"{folder} holds no image ({', '.join(sorted(_IMAGE_SUFFIXES))})")
    return images


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _IMAGE_SUFFIXES and is_shown(path) and path.is_file()
