"""The task of depth from one image, in metres or relative."""

from dataclasses import asdict, dataclass
from math import inf
from typing import Any, Self

import torch
from torch import Tensor

from expedite.errors import ExpediteError
from expedite.evaluate.scenes import FARTHEST
from expedite.evaluate.tasks.base import MeanMeter, Meter, Metric, Task, at_size
from expedite.evaluate.tasks.depth_metrics import depth_metrics
from expedite.evaluate.truths import NO_DEPTH, Sample
from expedite.loading import LoadedModel

# How far the protocols look, in metres, by the data set's name in a published variant.yml.
MAX_DEPTHS = {"kitti": 80.0, "nyu": 10.0, "scenes": FARTHEST}


@dataclass(frozen=True)
class Depth(Task[Tensor]):
    """Depth (H, W) at every pixel; metrics are means over an image's pixels, then over images.

    As in the published protocols for KITTI and NYUv2, truth counts between the ends of a range, and
    predictions are clamped to it. Unlike there, images are resized to the model's size, and there
    is no crop of Garg or Eigen yet: figures are not those of the published protocols.

    Args:
        metric: Whether the model's depth is in metres. Relative depth has no scale of its own, so
            it is compared with the unpatched model's alone, without an upper end.
        minimum: The lower end in metres.
        maximum: The upper end.
    """

    metric: bool = True
    minimum: float = 1e-3
    maximum: float = 80.0

    name = "depth"
    metrics = (
        Metric("rmse", "RMSE", lower_is_better=True),
        Metric("abs_rel", "AbsRel", lower_is_better=True),
        Metric("delta1", "δ<1.25", percent=True),
        Metric("delta2", "δ<1.25²", percent=True),
        Metric("delta3", "δ<1.25³", percent=True),
        Metric("rmse_log", "RMSElog", lower_is_better=True),
        Metric("silog", "SILog", lower_is_better=True),
        Metric("log10", "log10", lower_is_better=True),
        Metric("sq_rel", "SqRel", lower_is_better=True),
    )
    shown = 3
    output_name = "predicted_depth"
    output_rank = 3
    output_form = "depth of shape (B, h, w)"

    def __post_init__(self) -> None:
        if not 0 < self.minimum < self.maximum:
            raise ExpediteError(
                f"depth from {self.minimum} to {self.maximum} m was asked; a range above 0 is due"
            )

    @classmethod
    def of(cls, loaded: LoadedModel) -> Self:
        if not loaded.metric_depth:
            return cls(metric=False, maximum=inf)
        return cls(maximum=MAX_DEPTHS.get(loaded.dataset, cls.maximum))

    @classmethod
    def tells(cls, output: Any) -> bool:
        # Three dimensions by themselves may be those of tokens.
        return hasattr(output, cls.output_name)

    @classmethod
    def read(cls, output: Tensor, size: tuple[int, int]) -> Tensor:
        return at_size(output[:, None].float(), size)[0, 0].cpu()

    def truth(self, sample: Sample) -> Tensor | None:
        if sample.depth is None or not self.metric:
            return None
        depth = torch.from_numpy(sample.depth)
        return depth.where((depth > self.minimum) & (depth < self.maximum), NO_DEPTH)

    def as_truth(self, answer: Tensor) -> Tensor:
        return answer.clamp(max=self.maximum).masked_fill(answer <= self.minimum, NO_DEPTH)

    def meter(self) -> Meter[Tensor]:
        return _DepthMeter(self.minimum, self.maximum)

    def protocol(self) -> dict[str, Any]:
        return asdict(self) if self.metric else {"metric": False}

    def notes(self) -> list[str]:
        means = "Metrics of depth are means over the pixels of an image, then over images"
        if not self.metric:
            return [
                f"{means}.",
                "The model's depth is relative, so there is fidelity to the unpatched model, in "
                "its own units, and no accuracy against labels in metres.",
            ]
        return [
            f"{means}; truth counts from {self.minimum:g} to {self.maximum:g} m, predictions are "
            "clamped to that range, and RMSE is in metres.",
            "Images are resized to the model's size, and truth counts without the crops of Garg or "
            "Eigen, so figures are not those of the published protocols.",
        ]


class _DepthMeter(MeanMeter[Tensor]):
    def __init__(self, minimum: float, maximum: float) -> None:
        super().__init__()
        self.minimum, self.maximum = minimum, maximum

    def measure(self, truth: Tensor, answer: Tensor) -> dict[str, float]:
        counted = truth != NO_DEPTH
        if not counted.any():
            return {}
        clamped = answer[counted].clamp(self.minimum, self.maximum)
        return depth_metrics(truth[counted], clamped)
