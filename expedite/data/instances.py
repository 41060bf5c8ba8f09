"""Objects in an image: what detection and instance segmentation compare."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from expedite.errors import ExpediteError

RunLengths = Mapping[str, Any]  # of pycocotools: "size" and "counts"


@dataclass(frozen=True)
class Instances:
    """Objects with their boxes, and their masks where there are any.

    Args:
        shape: Height and width of the image.
        classes: Their numbers, (N,) int64; see `of_classes`.
        boxes: Left, top, width and height in pixels, (N, 4) float64.
        masks: Run lengths of pycocotools, N of them; None where there are boxes alone.
        scores: From 0 to 1, (N,); 1 in the truth.
        crowd: Whether one stands for several that nobody told apart, (N,) bool.
        areas: In pixels, which say what is small and large, (N,) float64.
        of_classes: How many classes there are, where `classes` are indices; None where they are
            numbers of the data's categories.
        numberings: In the truth, the numbers of the classes of models for this data, by index.
    """

    shape: tuple[int, ...]
    classes: NDArray[np.int64]
    boxes: NDArray[np.float64]
    masks: Sequence[RunLengths] | None
    scores: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]
    of_classes: int | None = None
    numberings: Sequence[Sequence[int]] = field(default=())

    @classmethod
    def of_masks(
        cls,
        masks: NDArray[np.bool_],
        classes: NDArray[np.int64],
        scores: NDArray[np.float64] | None = None,
        of_classes: int | None = None,
    ) -> Self:
        """Objects from their masks (N, H, W); boxes are the smallest around them.

        Raises:
            ExpediteError: pycocotools is missing.
        """
        packed, count = pack(masks), len(masks)
        tools = coco_masks()
        return cls(
            shape=masks.shape[1:],
            classes=classes.astype(np.int64),
            boxes=np.array(tools.toBbox(packed), np.float64).reshape(count, 4),
            masks=packed,
            scores=np.ones(count) if scores is None else scores.astype(np.float64),
            crowd=np.zeros(count, bool),
            areas=np.array(tools.area(packed), np.float64).reshape(count),
            of_classes=of_classes,
        )

    def above(self, score: float) -> Self:
        """Those of a score and more."""
        kept, masks = self.scores >= score, self.masks
        return replace(
            self,
            classes=self.classes[kept],
            boxes=self.boxes[kept],
            masks=None if masks is None else [masks[row] for row in np.flatnonzero(kept).tolist()],
            scores=self.scores[kept],
            crowd=self.crowd[kept],
            areas=self.areas[kept],
        )


def pack(masks: NDArray[np.bool_]) -> list[RunLengths]:
    """Masks (N, H, W) as run lengths."""
    columns = np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8))
    packed: list[RunLengths] = coco_masks().encode(columns)
    return packed


def unpack(masks: Sequence[RunLengths]) -> NDArray[np.bool_]:
    """Run lengths of at least one mask as masks (N, H, W)."""
    with warnings.catch_warnings():
        # pycocotools hands NumPy arrays in a way that it warns of.
        warnings.simplefilter("ignore", DeprecationWarning)
        columns: NDArray[np.uint8] = coco_masks().decode([*masks])
    return columns.transpose(2, 0, 1) > 0


def coco_masks() -> ModuleType:
    """The masks of pycocotools, imported when they are first needed."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ExpediteError(
            "objects are measured with pycocotools, which is missing; pip install "
            "'expedite-vit[coco]' brings it"
        ) from error
    tools: ModuleType = mask
    return tools
