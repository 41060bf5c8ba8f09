"""Published data sets with a map for each image: Cityscapes, PASCAL-Context, KITTI and NYUv2.

Where their files lie, how they number classes, and which part of an image counts for depth.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from expedite.data.datasets import ImageFolder, spread
from expedite.data.image_files import is_shown
from expedite.data.inside import missing_of, refuse_outside
from expedite.data.truths import NO_DEPTH, VOID, DepthRule, LabelRule, Sample, TruthRule
from expedite.errors import ExpediteError

# The label of each class of Cityscapes, by its index; others are not evaluated.
_CITYSCAPES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_CITYSCAPES_LABELS = 34
_KITTI_SCALE = 256.0
_KITTI_SIZE = (352, 1216)  # of the benchmark's images
_Pairs = list[tuple[Path, Path]]


@dataclass(frozen=True)
class CityscapesRule(LabelRule):
    """Labels of Cityscapes' `labelIds` files as the 19 classes that are evaluated."""

    def read(self, path: Path) -> NDArray[np.int64]:
        """The class indices in a file."""
        stored = super().read(path)
        unknown = stored[stored >= _CITYSCAPES_LABELS]
        if unknown.size:
            raise ExpediteError(
                f"{path} has a label {unknown[0]}; those of Cityscapes are 0 to "
                f"{_CITYSCAPES_LABELS - 1}"
            )
        # The last row is of void, which is -1.
        table = np.full(_CITYSCAPES_LABELS + 1, VOID)
        table[list(_CITYSCAPES)] = np.arange(len(_CITYSCAPES))
        return table[stored]


@dataclass(frozen=True)
class KittiRule(DepthRule):
    """Depth of KITTI in Garg's crop; image and depth are cut to the benchmark's 352×1216.

    Garg and others (2016) count a part of the whole image. The models see its lower middle alone,
    as in the published code of DPT and BTS.
    """

    def read(self, path: Path) -> NDArray[np.float32]:
        """The metres in a file, `NO_DEPTH` outside of the crop."""
        depth = DepthRule(self.scale or _KITTI_SCALE).read(path)
        height, width = depth.shape
        counted = np.zeros(depth.shape, bool)
        rows = slice(int(0.40810811 * height), int(0.99189189 * height))
        counted[rows, int(0.03594771 * width) : int(0.96405229 * width)] = True
        return np.where(counted, depth, np.float32(NO_DEPTH))

    def attach(self, sample: Sample, truth: NDArray[np.float32]) -> Sample:
        """The sample with depth, both cut."""
        height, width = _KITTI_SIZE
        if truth.shape[0] < height or truth.shape[1] < width:
            raise ExpediteError(
                f"{sample.name} has {truth.shape} pixels; images of KITTI have {_KITTI_SIZE} at "
                "least"
            )
        top, left = truth.shape[0] - height, (truth.shape[1] - width) // 2
        part = (slice(top, None), slice(left, left + width))
        return super().attach(replace(sample, image=sample.image[part]), truth[part])


@dataclass(frozen=True)
class NyuRule(DepthRule):
    """Depth of NYUv2 in the crop of Eigen and others (2014)."""

    def read(self, path: Path) -> NDArray[np.float32]:
        """The metres in a file, `NO_DEPTH` outside of the crop."""
        depth = super().read(path)
        if depth.shape != (480, 640):
            raise ExpediteError(f"{path} has {depth.shape} pixels; depth of NYUv2 has (480, 640)")
        counted = np.zeros(depth.shape, bool)
        counted[45:471, 41:601] = True
        return np.where(counted, depth, np.float32(NO_DEPTH))


def open_published(
    root: Path, split: str, rule: TruthRule | None, limit: int | None
) -> ImageFolder | None:
    """The images of a published data set with their maps; None where there is none.

    Args:
        root: Of the data set.
        split: As the data set calls it; for depth, `eigen_test` of KITTI and `nyudepthv2_test`,
            whose published lists `SPLIT_files_with_gt.txt` lie at the root.
        rule: Whether labels or depth are wanted, and how they are stored.
        limit: How many images to take, spread evenly over all; None takes all.

    Raises:
        ExpediteError: Files are missing.
    """
    pairs: _Pairs = []
    found: TruthRule | None = None
    if isinstance(rule, DepthRule):
        pairs, found = _depth(root, split, rule)
    elif isinstance(rule, LabelRule):
        pairs, found = _labels(root, split, rule)
    if not pairs:
        return None
    pairs = spread(pairs, limit)
    paths = [path for pair in pairs for path in pair]
    refuse_outside(root, paths, root / "the list of the split")
    if missing := missing_of(paths):
        raise ExpediteError(
            f"{len(missing)} files of the split '{split}' in {root} are missing (the first is "
            f"{missing[0]}); images and maps have to lie as published"
        )
    images, truths = zip(*pairs, strict=True)
    assert found is not None  # there are pairs
    found.check(truths)
    return ImageFolder(images, truths, found)


def _labels(root: Path, split: str, rule: LabelRule) -> tuple[_Pairs, LabelRule]:
    found = (root / "leftImg8bit" / split).glob("*/*_leftImg8bit.png")
    images = sorted(path for path in found if is_shown(path))
    if images and (root / "gtFine" / split).is_dir():
        return [(image, _cityscapes(root, split, image)) for image in images], CityscapesRule(
            rule.ignore_index, rule.reduce_zero_label
        )
    names = _lines(root / "ImageSets/SegmentationContext" / f"{split}.txt")
    images_, maps = root / "JPEGImages", root / "SegmentationClassContext"
    return [(images_ / f"{name}.jpg", maps / f"{name}.png") for name in sorted(names)], rule


def _cityscapes(root: Path, split: str, image: Path) -> Path:
    name = image.name.replace("_leftImg8bit", "_gtFine_labelIds")
    return root / "gtFine" / split / image.parent.name / name


def _depth(root: Path, split: str, rule: DepthRule) -> tuple[_Pairs, DepthRule]:
    kitti = split.startswith("eigen")
    pairs = []
    for line in _lines(root / f"{split}_files_with_gt.txt"):
        image, truth = [*line.split(), "None"][:2]
        if truth != "None":  # KITTI has no depth for some images of Eigen's split
            pairs.append((_below(root, image), _below(root, truth)))
    return pairs, KittiRule(rule.scale) if kitti else NyuRule(rule.scale)


def _below(root: Path, name: str) -> Path:
    """A listed file, in one of the folders that the published ones are unpacked into."""
    places = ("", "raw", "data_depth_annotated", "official_splits/test")
    paths = [root / place / name.lstrip("/") for place in places]
    return next((path for path in paths if path.is_file()), paths[0])


def _lines(path: Path) -> Sequence[str]:
    if not path.is_file():
        return []
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").split("\n") if line]
    except UnicodeDecodeError as error:
        raise ExpediteError(f"{path} is not a list of files: {error}") from error
