"""The task of panoptic segmentation: every pixel to one object, or to one of the background."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from expedite.data.coco_files import PanopticRule
from expedite.data.segments import Segments
from expedite.data.truths import Sample, Truths
from expedite.evaluate.tasks.base import Meter, Metric, Task
from expedite.evaluate.tasks.panoptic_quality import PanopticCounts
from expedite.evaluate.tasks.queries import has_queries, read_panoptic

_NAMES = ("pq", "sq", "rq")


@dataclass(frozen=True)
class Panoptic(Task[Segments]):
    """Segments (H, W) of an image; qualities are counted over the data set, then over classes.

    Args:
        stuff: Classes of background, by their index: their segments in one image are fused.
    """

    stuff: frozenset[int] = frozenset()

    name = "panoptic"
    metrics = (
        Metric("pq", "PQ", percent=True),
        Metric("sq", "SQ", percent=True),
        Metric("rq", "RQ", percent=True),
        Metric("pq_things", "PQ things", percent=True),
        Metric("pq_stuff", "PQ stuff", percent=True),
    )
    shown = 3
    output_form = "masks by query"

    @classmethod
    def find(cls, output: Any) -> Any | None:
        return output if has_queries(output) else None

    @classmethod
    def read(cls, output: Any, size: tuple[int, int]) -> Segments:
        return read_panoptic(output, size)

    def on(self, rule: Truths | None) -> Self:
        return replace(self, stuff=rule.stuff) if isinstance(rule, PanopticRule) else self

    def truth(self, sample: Sample) -> Segments | None:
        return sample.panoptic

    def as_truth(self, answer: Segments) -> Segments:
        return answer.fused(self.stuff)

    def meter(self) -> Meter[Segments]:
        return _QualityMeter(self.stuff)

    def protocol(self) -> dict[str, Any]:
        return {"stuff": sorted(self.stuff)}

    def notes(self) -> list[str]:
        apart = "No class is known to be stuff, so no segments were fused."
        return [
            "PQ is the mean over classes of SQ times RQ, counted over the data set by the rules of "
            "panopticapi: void in the truth does not count, nor do answers mostly in void or in a "
            "crowd of their class. Fidelity takes the unpatched model's map for the truth.",
            "Segments are read by the model's own processor in transformers, which differs in "
            "details from the published code: figures need not be the published ones.",
            *([] if self.stuff else [apart]),
        ]


class _QualityMeter:
    """Qualities over the data set, of all classes, of things and of stuff."""

    def __init__(self, stuff: frozenset[int]) -> None:
        self.stuff = stuff
        self.counts: PanopticCounts | None = None

    def add(self, truth: Segments, answer: Segments) -> None:
        self.counts = self.counts or PanopticCounts(answer.of_classes)
        self.counts.add(truth, answer.fused(self.stuff))

    def merge(self, later: Self) -> None:
        if self.counts and later.counts:
            self.counts.merge(later.counts)
        self.counts = self.counts or later.counts

    def notes(self) -> list[str]:
        if self.counts is None or (seen := int(self.counts.seen.sum())) == self.counts.classes:
            return []
        return [
            f"PQ, SQ and RQ are means over the {seen} of {self.counts.classes} classes that occur "
            "in the truth or in the unpatched model's answers."
        ]

    def values(self) -> dict[str, float]:
        if self.counts is None or (all_classes := self.counts.quality()) is None:
            return {}
        found = dict(zip(_NAMES, all_classes, strict=True))
        is_stuff = np.isin(np.arange(self.counts.classes), list(self.stuff))
        for name, of in (("pq_things", ~is_stuff), ("pq_stuff", is_stuff)):
            if self.stuff and (part := self.counts.quality(of)) is not None:
                found[name] = part.panoptic
        return found
