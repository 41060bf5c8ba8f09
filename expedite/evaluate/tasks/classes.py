"""Tasks whose answers are classes: segmentation, and classification of whole images."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from expedite.evaluate.metrics import Agreement
from expedite.evaluate.tasks.base import Meter, Metric, Task, at_size
from expedite.evaluate.tasks.queries import class_count, has_queries, read_semantic
from expedite.evaluate.truths import Sample


class Classes(NamedTuple):
    """Indices of classes, (H, W) or () for one an image, among `classes` classes."""

    indices: Tensor
    classes: int


class Segmentation(Task[Classes]):
    """A class for every pixel; mean IoU is counted over the whole data set."""

    name = "segmentation"
    metrics = (
        Metric("miou", "mIoU", percent=True),
        Metric("pixel_accuracy", "pixel accuracy", percent=True),
    )
    output_rank = 4
    output_form = "scores of shape (B, classes, h, w)"

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
        return _ClassMeter({"miou": Agreement.mean_iou, "pixel_accuracy": Agreement.accuracy})


class Classification(Task[Classes]):
    """One class for an image; there are no labels yet, so answers are compared among themselves."""

    name = "classification"
    metrics = (Metric("top1", "top-1", percent=True),)
    output_rank = 2
    output_form = "scores of shape (B, classes)"

    @classmethod
    def read(cls, output: Tensor, size: tuple[int, int]) -> Classes:
        return Classes(output[0].argmax(0).cpu(), output.shape[1])

    def truth(self, sample: Sample) -> Tensor | None:
        return None

    def as_truth(self, answer: Classes) -> Tensor:
        return answer.indices

    def meter(self) -> Meter[Classes]:
        return _ClassMeter({"top1": Agreement.accuracy})


class _ClassMeter:
    """Named figures of one confusion matrix over the data set."""

    def __init__(self, figures: Mapping[str, Callable[[Agreement], float]]) -> None:
        self.figures = figures
        self.agreement: Agreement | None = None

    def add(self, truth: Tensor, answer: Classes) -> None:
        self.agreement = self.agreement or Agreement(answer.classes)
        self.agreement.add(truth, answer.indices)

    def values(self) -> dict[str, float]:
        if self.agreement is None:
            return {}
        return {name: figure(self.agreement) for name, figure in self.figures.items()}
