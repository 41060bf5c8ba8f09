"""The tasks of finding objects: by boxes, and by masks with boxes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch

from expedite.data.instances import Instances, coco_masks, pack
from expedite.data.truths import Sample
from expedite.errors import ExpediteError
from expedite.evaluate.tasks.average_precision import (
    FIGURES,
    Kind,
    average_precision,
    renumbered,
)
from expedite.evaluate.tasks.base import Meter, Metric, Task
from expedite.evaluate.tasks.queries import has_queries, read_instances
from expedite.loading import TaskName

_TITLES = ("AP", "AP50", "AP75", "AP small", "AP medium", "AP large")
_INSIDE = 0.5  # of a mask, as torchvision's reference has it


def _metrics(what: str) -> tuple[Metric, ...]:
    named = zip(FIGURES, _TITLES, strict=True)
    return tuple(Metric(f"{what}_{name}", f"{what} {title}", percent=True) for name, title in named)


@dataclass(frozen=True)
class Detection(Task[Instances]):
    """Objects by their boxes; average precision is counted over the data set.

    Args:
        score: What a detection of the unpatched model needs to be the truth of fidelity.
    """

    score: float = 0.5

    name: ClassVar[TaskName] = "detection"
    metrics = _metrics("box")
    shown = 3
    output_form = "boxes, labels and scores of each image"

    @classmethod
    def find(cls, output: Any) -> Any | None:
        return output[0] if _has(output, "boxes", "labels", "scores") else None

    @classmethod
    def read(cls, output: Any, size: tuple[int, int]) -> Instances:
        return _detections(output, size)

    def truth(self, sample: Sample) -> Instances | None:
        return sample.instances

    def as_truth(self, answer: Instances) -> Instances:
        return answer.above(self.score)

    def meter(self) -> Meter[Instances]:
        return _PrecisionMeter({"box": "bbox"})

    def protocol(self) -> dict[str, Any]:
        return {"fidelity_score": self.score}

    def notes(self) -> list[str]:
        return [
            "AP is COCO's, counted by pycocotools over the data set. Fidelity takes the unpatched "
            f"model's detections with a score of {self.score:g} and more for the truth."
        ]


@dataclass(frozen=True)
class InstanceSegmentation(Detection):
    """Objects by their masks, and by their boxes besides."""

    name = "instance"
    metrics = (*_metrics("mask"), *_metrics("box"))
    output_form = "boxes, labels, scores and masks of each image"

    @classmethod
    def find(cls, output: Any) -> Any | None:
        if has_queries(output):
            return output
        return output[0] if _has(output, "boxes", "labels", "scores", "masks") else None

    @classmethod
    def read(cls, output: Any, size: tuple[int, int]) -> Instances:
        return read_instances(output, size) if has_queries(output) else _detections(output, size)

    def truth(self, sample: Sample) -> Instances | None:
        if sample.instances is not None and sample.instances.masks is None:
            raise ExpediteError(
                f"the objects in {sample.name} have boxes and no masks; they can be measured as "
                "detection"
            )
        return sample.instances

    def meter(self) -> Meter[Instances]:
        return _PrecisionMeter({"mask": "segm", "box": "bbox"})

    def notes(self) -> list[str]:
        return [
            *super().notes(),
            "Models that give masks by query are read by their own processors in transformers, and "
            "boxes are those around their masks.",
        ]


class _PrecisionMeter:
    """Average precision of masks and boxes by the names that figures begin with."""

    def __init__(self, kinds: dict[str, Kind]) -> None:
        self.kinds = kinds
        self.pairs: list[tuple[Instances, Instances]] = []

    def add(self, truth: Instances, answer: Instances) -> None:
        self.pairs.append((truth, renumbered(truth, answer)))

    def merge(self, later: Self) -> None:
        self.pairs += later.pairs

    def notes(self) -> list[str]:
        seen = {int(number) for truth, _ in self.pairs for number in truth.classes}
        known = {number for truth, _ in self.pairs for number in truth.numberings[:1] or ()}
        numbers = {number for numbering in known for number in numbering}
        if not seen:
            return ["The truth has no object, so there is no figure against it."]
        if seen >= numbers:
            return []
        return [
            f"AP is the mean over the {len(seen)} of {len(numbers)} classes that the truth has."
        ]

    def values(self) -> dict[str, float]:
        return {
            f"{what}_{name}": value
            for what, kind in self.kinds.items()
            for name, value in average_precision(self.pairs, kind).items()
        }


def _has(output: Any, *names: str) -> bool:
    found = output[0] if isinstance(output, Sequence) and len(output) == 1 else None
    return isinstance(found, dict) and all(name in found for name in names)


def _detections(found: Any, size: tuple[int, int]) -> Instances:
    """What a detector found in an image of `size`, which it saw at that size."""
    boxes, labels, scores = (
        found[name].float().cpu().numpy().astype(np.float64)
        for name in ("boxes", "labels", "scores")
    )
    sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    areas, masks = sides[:, 2] * sides[:, 3], None
    if "masks" in found:
        inside: torch.Tensor = found["masks"][:, 0] > _INSIDE  # (N, H, W)
        masks = pack(inside.cpu().numpy())
        areas = np.array(coco_masks().area(masks), np.float64).reshape(len(labels))
    return Instances(
        shape=size,
        classes=labels.astype(np.int64),
        boxes=sides,
        masks=masks,
        scores=scores,
        crowd=np.zeros(len(labels), bool),
        areas=areas,
    )
