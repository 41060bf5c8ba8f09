"""The task of an encoder without a head: its map of features, against the unpatched model's own."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from expedite.data.truths import Sample
from expedite.evaluate.tasks.base import MeanMeter, Meter, Metric, Task


class Features(Task[Tensor]):
    """A map (C, h, w) of features; no label says what it should be, so there is fidelity alone."""

    name = "features"
    metrics = (
        Metric("cosine", "cosine"),
        Metric("relative_l2", "relative L2", lower_is_better=True),
    )
    shown = 2
    output_name = "last_hidden_state"
    output_rank = 4
    output_form = "features of shape (B, channels, h, w)"

    @classmethod
    def tells(cls, output: Any) -> bool:
        # Four dimensions by themselves may be those of scores.
        return hasattr(output, cls.output_name) and cls.find(output) is not None

    @classmethod
    def read(cls, output: Tensor, size: tuple[int, int]) -> Tensor:
        return output[0].float().cpu()

    def truth(self, sample: Sample) -> Tensor | None:
        return None

    def as_truth(self, answer: Tensor) -> Tensor:
        return answer

    def meter(self) -> Meter[Tensor]:
        return _FeatureMeter()

    def notes(self) -> list[str]:
        return [
            "The model gives features, so there is fidelity to the unpatched model and no accuracy "
            "against labels: the mean cosine similarity over the positions of a map, and the L2 "
            "norm of the difference over that of the unpatched map, both means over images."
        ]


class _FeatureMeter(MeanMeter[Tensor]):
    def measure(self, truth: Tensor, answer: Tensor) -> dict[str, float]:
        truth, answer = truth.double(), answer.double()
        return {
            "cosine": float(F.cosine_similarity(truth, answer, dim=0).mean()),
            "relative_l2": float((answer - truth).norm() / truth.norm()),
        }
