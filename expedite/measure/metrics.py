"""Agreement of class maps over a data set: mIoU against labels, fidelity against a model."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from expedite.data.truths import VOID
from expedite.errors import ExpediteError


@dataclass
class Agreement:
    """A confusion matrix that grows image by image; rows are the truth, columns the prediction.

    Counted over the whole data set, as segmentation benchmarks do; the truth is labels for mIoU and
    the unpatched model's own prediction for fidelity.

    Example:
        >>> agreement = Agreement(classes=2)
        >>> agreement.add(torch.tensor([[0, 0], [1, VOID]]), torch.tensor([[0, 1], [1, 1]]))
        >>> agreement.iou()
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """

    classes: int
    counts: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.counts = torch.zeros(self.classes, self.classes, dtype=torch.int64)

    def add(self, truth: Tensor, prediction: Tensor) -> None:
        """Count one image: maps of class indices of one shape; `VOID` in the truth is left out."""
        truth, prediction = truth.cpu(), prediction.cpu()
        self._check(truth[truth != VOID])
        self.counts += multiclass_confusion_matrix(
            prediction, truth, self.classes, ignore_index=VOID, validate_args=False
        )

    def iou(self) -> Tensor:
        """Intersection over union of each class, (classes,); NaN where a class is not in the truth.

        A class that is predicted but nowhere true lowers the IoU of the classes it hides.
        """
        both = self.counts.diag().double()
        truth, predicted = self.counts.sum(1), self.counts.sum(0)
        return torch.where(truth > 0, both / (truth + predicted - both), torch.nan)

    @property
    def seen(self) -> int:
        """How many classes occur in the truth."""
        return int((self.counts.sum(1) > 0).sum())

    def mean_iou(self) -> float:
        """Mean IoU over the classes that occur in the truth, 0 to 1; NaN where nothing counted."""
        return float(self.iou().nanmean())

    def mean_accuracy(self) -> float:
        """Mean over the classes in the truth of the share of their pixels that are found, 0 to 1.

        NaN where nothing counted.
        """
        return float((self.counts.diag().double() / self.counts.sum(1)).nanmean())

    def accuracy(self) -> float:
        """Share of counted pixels that agree, 0 to 1; NaN where nothing counted."""
        return float(self.counts.diag().sum().double() / self.counts.sum())

    def _check(self, truth: Tensor) -> None:
        if not truth.numel():
            return
        least, most = int(truth.min()), int(truth.max())
        if least < 0 or most >= self.classes:
            raise ExpediteError(
                f"a label {least if least < 0 else most} was found, and the model has the classes "
                f"0 to {self.classes - 1}; {self._remedy(least, most)}"
            )

    def _remedy(self, least: int, most: int) -> str:
        if least < 0:
            return "labels are stored as numbers from 0 on"
        if most > self.classes:
            return f"if it stands for pixels that do not count, say so with --ignore-index {most}"
        # As many labels as classes and one more: of 0 and up, or of 1 and up beside a void 0. One
        # taken for the other measures classes shifted by one, and nothing would say so.
        return (
            "if 0 does not count and classes begin at 1, as ADE20K's, --reduce-zero-label says so; "
            f"--ignore-index {most} is right only where 0 is a class and {most} does not count"
        )
