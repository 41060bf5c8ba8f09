"""The task of depth from one image, in metres or relative."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import inf
from typing import Any, Literal, Self

import torch
from torch import Tensor

from expedite.data.truths import NO_DEPTH, Sample
from expedite.errors import ExpediteError
from expedite.evaluate.tasks.base import MeanMeter, Meter, Metric, Task, at_size
from expedite.evaluate.tasks.depth_metrics import depth_metrics
from expedite.loading import LoadedModel
from expedite.scenes.scenes import FARTHEST

# How far the protocols look, in metres, by the data set's name in a published variant.yml.
MAX_DEPTHS = {"kitti": 80.0, "nyu": 10.0, "scenes": FARTHEST}

_NO_SPREAD = 1e-300


@dataclass(frozen=True)
class Depth(Task[Tensor]):
    """Depth (H, W) at every pixel; metrics are means over an image's pixels, then over images.

    As in the published protocols for KITTI and NYUv2, truth counts between the ends of a range, and
    predictions are clamped to it. The crops of Garg and Eigen come with these data sets.

    Args:
        metric: Whether the model's depth is in metres. Relative depth is aligned to the truth of
            each image; with the unpatched model's it is compared as it is, in its own units.
        minimum: The lower end in metres.
        maximum: The upper end.
        alignment: Of relative depth. "least squares": it is inverse depth, which a scale and a
            shift bring nearest to that of the truth, as for MiDaS (Ranftl and others, 2022).
            "median": it is depth, whose median is brought to that of the truth.
    """

    metric: bool = True
    minimum: float = 1e-3
    maximum: float = 80.0
    alignment: Literal["least squares", "median"] = "least squares"

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
        maximum = MAX_DEPTHS.get(loaded.dataset, cls.maximum)
        return cls(metric=loaded.metric_depth, maximum=maximum)

    @classmethod
    def tells(cls, output: Any) -> bool:
        # Three dimensions by themselves may be those of tokens.
        return hasattr(output, cls.output_name)

    @classmethod
    def read(cls, output: Tensor, size: tuple[int, int]) -> Tensor:
        return at_size(output[:, None].float(), size)[0, 0].cpu()

    def truth(self, sample: Sample) -> Tensor | None:
        if sample.depth is None:
            return None
        depth = torch.from_numpy(sample.depth)
        return depth.where((depth > self.minimum) & (depth < self.maximum), NO_DEPTH)

    def as_truth(self, answer: Tensor) -> Tensor:
        if not self.metric:
            return answer.masked_fill(answer <= self.minimum, NO_DEPTH)
        return answer.clamp(max=self.maximum).masked_fill(answer <= self.minimum, NO_DEPTH)

    def meter(self) -> Meter[Tensor]:
        align = None if self.metric else _ALIGNMENTS[self.alignment]
        return _DepthMeter(self.minimum, self.maximum, align)

    def fidelity_meter(self) -> Meter[Tensor]:
        return _DepthMeter(self.minimum, self.maximum if self.metric else inf)

    def protocol(self) -> dict[str, Any]:
        found = asdict(self)
        if self.metric:
            del found["alignment"]
        return found

    def notes(self) -> list[str]:
        means = (
            "Metrics of depth are means over the pixels of an image, then over images; truth "
            f"counts from {self.minimum:g} to {self.maximum:g} m, predictions are clamped to that "
            "range, and RMSE is in metres."
        )
        resized = (
            "Images are resized to the model's size. Garg's crop counts for KITTI and Eigen's for "
            "NYUv2 where these are read as published; fidelity counts every pixel."
        )
        relative = (
            "The model's depth is relative: it is aligned to the truth of each image "
            f"({self.alignment}), and fidelity to the unpatched model is in its own units."
        )
        return [means, resized] if self.metric else [means, resized, relative]


def _by_least_squares(truth: Tensor, answer: Tensor, maximum: float) -> Tensor:
    """Depth from inverse depth of unknown scale and shift, (N,) each."""
    answer, inverse = answer.double(), truth.double().reciprocal()
    centred = answer - answer.mean()
    spread = centred.square().sum().clamp(min=_NO_SPREAD)  # a constant map has no scale
    aligned = inverse.mean() + (centred * inverse).sum() / spread * centred
    return aligned.clamp(min=1 / maximum).reciprocal()


def _by_median(truth: Tensor, answer: Tensor, maximum: float) -> Tensor:
    """Depth of unknown scale, (N,)."""
    return answer * (truth.median() / answer.median())


_ALIGNMENTS = {"least squares": _by_least_squares, "median": _by_median}


class _DepthMeter(MeanMeter[Tensor]):
    def __init__(
        self,
        minimum: float,
        maximum: float,
        align: Callable[[Tensor, Tensor, float], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.minimum, self.maximum, self.align = minimum, maximum, align

    def measure(self, truth: Tensor, answer: Tensor) -> dict[str, float]:
        counted = truth != NO_DEPTH
        if not counted.any():
            return {}
        truth, answer = truth[counted], answer[counted]
        if self.align is not None:
            answer = self.align(truth, answer, self.maximum)
        return depth_metrics(truth, answer.clamp(self.minimum, self.maximum))
