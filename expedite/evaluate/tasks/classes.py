"""Tasks whose answers are classes: segmentation, and classification of whole images."""

from dataclasses import dataclass
from math import isnan
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from expedite.data.truths import ImageClass, Sample
from expedite.errors import ExpediteError
from expedite.evaluate.tasks.base import MeanMeter, Meter, Metric, Task, at_size
from expedite.evaluate.tasks.queries import class_count, has_queries, read_semantic
from expedite.loading import LoadedModel
from expedite.loading.center_crop import CenterCrop
from expedite.measure.details import Details
from expedite.measure.metrics import Agreement
from expedite.measure.multi_scale import FACTORS

_RANKS = 5


class Classes(NamedTuple):
    """Indices of classes, (H, W) or () for one an image, among `classes` classes."""

    indices: Tensor
    classes: int


class Ranking(NamedTuple):
    """The likeliest of `classes` classes by their indices, first the likeliest, (k,)."""

    indices: Tensor
    classes: int


@dataclass(frozen=True)
class Segmentation(Task[Classes]):
    """A class for every pixel; mean IoU is counted over the whole data set.

    Thin and small things have figures of their own, see `Details`. Beside the metrics there is the
    IoU of each class in the truth, as `iou_` and its index.

    Args:
        multi_scale: See `LoadedModel`.
    """

    multi_scale: bool = False

    name = "segmentation"
    metrics = (
        Metric("miou", "mIoU", percent=True),
        Metric("boundary_f", "boundary F", percent=True, detail=True),
        Metric("small_recall", "small parts", percent=True, detail=True),
        Metric("mean_accuracy", "mAcc", percent=True),
        Metric("pixel_accuracy", "aAcc", percent=True),
    )
    shown = 3
    output_rank = 4
    output_form = "scores of shape (B, classes, h, w)"

    @classmethod
    def of(cls, loaded: LoadedModel) -> Self:
        return cls(loaded.multi_scale)

    @classmethod
    def find(cls, output: Any) -> Any | None:
        return output if has_queries(output) else super().find(output)

    @classmethod
    def read(cls, output: Any, size: tuple[int, int]) -> Classes:
        if has_queries(output):
            return Classes(read_semantic(output, size), class_count(output))
        return Classes(at_size(output, size)[0].argmax(0).cpu(), output.shape[1])

    def truth(self, sample: Sample) -> Tensor | None:
        return None if sample.labels is None else torch.from_numpy(sample.labels)

    def as_truth(self, answer: Classes) -> Tensor:
        return answer.indices

    def meter(self) -> Meter[Classes]:
        return _PixelMeter()

    def protocol(self) -> dict[str, Any]:
        return {"multi_scale": True} if self.multi_scale else {}

    def notes(self) -> list[str]:
        factors = ", ".join(map(str, FACTORS))
        scaled = (
            f"Multi-scale testing: class probabilities are means over {factors} times the size, "
            "each with its mirror image. GFLOPs, speed and memory are those of one forward pass of "
            "one image at the model's own size."
        )
        return [scaled] if self.multi_scale else []


@dataclass(frozen=True)
class Classification(Task[Ranking]):
    """One class for an image.

    Args:
        crop: How images are cut; None where they are resized whole.
    """

    crop: CenterCrop | None = None

    name = "classification"
    metrics = (Metric("top1", "top-1", percent=True), Metric("top5", "top-5", percent=True))
    output_rank = 2
    output_form = "scores of shape (B, classes)"

    @classmethod
    def of(cls, loaded: LoadedModel) -> Self:
        return cls(loaded.crop)

    @classmethod
    def read(cls, output: Tensor, size: tuple[int, int]) -> Ranking:
        classes = output.shape[1]
        return Ranking(output[0].topk(min(_RANKS, classes)).indices.cpu(), classes)

    def truth(self, sample: Sample) -> ImageClass | None:
        return sample.image_class

    def as_truth(self, answer: Ranking) -> ImageClass:
        return ImageClass(int(answer.indices[0]), answer.classes)

    def meter(self) -> Meter[Ranking]:
        return _RankMeter()

    def protocol(self) -> dict[str, Any]:
        return {"crop": str(self.crop)} if self.crop else {}

    def notes(self) -> list[str]:
        if self.crop:
            return [
                f"Images are {self.crop}, and their centre is cut out at the model's size, as its "
                "own evaluation does."
            ]
        return [
            "Images are resized whole to the model's size, without the centre crop of published "
            "protocols: the model says none for it."
        ]


class _PixelMeter:
    """Figures of one confusion matrix, and of boundaries and small parts, over the data set."""

    def __init__(self) -> None:
        self.agreement: Agreement | None = None
        self.details: Details | None = None

    def add(self, truth: Tensor, answer: Classes) -> None:
        self.agreement = self.agreement or Agreement(answer.classes)
        self.details = self.details or Details(answer.classes)
        self.agreement.add(truth, answer.indices)
        self.details.add(truth, answer.indices)

    def merge(self, later: Self) -> None:
        if self.agreement and self.details and later.agreement and later.details:
            self.agreement.counts += later.agreement.counts
            self.details.merge(later.details)
        self.agreement = self.agreement or later.agreement
        self.details = self.details or later.details

    def values(self) -> dict[str, float]:
        if (found := self.agreement) is None or not found.seen:
            return {}
        assert self.details is not None  # it comes with the other
        by_class = {f"iou_{index}": iou for index, iou in enumerate(found.iou().tolist())}
        by_class["boundary_f"] = self.details.boundary_f()
        by_class["small_recall"] = self.details.small_recall()
        return {
            "miou": found.mean_iou(),
            "mean_accuracy": found.mean_accuracy(),
            "pixel_accuracy": found.accuracy(),
            **{name: iou for name, iou in by_class.items() if not isnan(iou)},
        }

    def notes(self) -> list[str]:
        if (found := self.agreement) is None or found.seen == found.classes:
            return []
        if not found.seen:
            return ["No pixel of the labels counts, so there is no figure against them."]
        return [
            f"mIoU and mAcc are means over the {found.seen} of {found.classes} classes that the "
            "labels have."
        ]


class _RankMeter(MeanMeter[Ranking]):
    def measure(self, truth: ImageClass, answer: Ranking) -> dict[str, float]:
        if truth.of_classes != answer.classes:
            raise ExpediteError(
                f"the data has {truth.of_classes} folders of classes and the model "
                f"{answer.classes} classes; a folder for each is due, in the order of their names"
            )
        found = answer.indices == truth.index
        return {"top1": float(found[0]), "top5": float(found.any())}
