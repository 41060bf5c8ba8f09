"""What a task is: how an output is read, answers are compared, and the metrics are called."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import inf, isfinite
from statistics import fmean
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, Self, TypeVar

import torch.nn.functional as F
from torch import Tensor

from expedite.data.truths import Sample, Truths
from expedite.errors import ExpediteError
from expedite.loading import LoadedModel, TaskName

Answer = TypeVar("Answer")  # what a model says of an image
Answer_contra = TypeVar("Answer_contra", contravariant=True)


class NoNumberError(ExpediteError):
    """A model's answer holds what is no number, so nothing can be compared with it."""


class Metric(NamedTuple):
    """A figure by its name in files and its title in tables; shares are shown in percent.

    Narrow tables leave out what is a `detail`.
    """

    name: str
    title: str
    percent: bool = False
    lower_is_better: bool = False
    detail: bool = False

    def shown(self, value: float) -> float:
        """A value in the unit that it is shown in."""
        return 100 * value if self.percent else value

    def text(self, value: float) -> str:
        """A value as tables show it."""
        return f"{self.shown(value):.2f}" if self.percent else f"{value:.3f}"


class Meter(Protocol[Answer_contra]):
    """Compares answers with their truth, image by image.

    Images that others count are merged to the last digit: a meter keeps counts, and numbers whose
    exact sum is taken at the end.
    """

    def add(self, truth: Any, answer: Answer_contra) -> None: ...

    def merge(self, later: Self) -> None:
        """Add what another counted of the images that come after."""

    def values(self) -> dict[str, float]: ...

    def notes(self) -> list[str]:
        """Sentences on what the values are not of: classes that were never seen, ..."""


class MeanMeter(ABC, Generic[Answer]):
    """Means over images of each image's metrics; an image that says nothing does not count."""

    def __init__(self) -> None:
        self.images: list[dict[str, float]] = []
        self.silent = 0  # images whose truth says nothing

    def add(self, truth: Any, answer: Answer) -> None:
        if found := self.measure(truth, answer):
            self.images.append(found)
        else:
            self.silent += 1

    def merge(self, later: Self) -> None:
        self.images += later.images
        self.silent += later.silent

    def notes(self) -> list[str]:
        if not self.silent:
            return []
        total = self.silent + len(self.images)
        return [f"In {self.silent} of {total} images the truth says nothing; they do not count."]

    def values(self) -> dict[str, float]:
        names = self.images[0] if self.images else ()
        return {name: fmean(image[name] for image in self.images) for name in names}

    @abstractmethod
    def measure(self, truth: Any, answer: Answer) -> dict[str, float]:
        """The metrics of one image; none where its truth says nothing."""


class Task(ABC, Generic[Answer]):
    """How one kind of model is measured; an instance fixes the protocol.

    The truth that answers are compared with comes from labels, or from the unpatched model.

    Attributes:
        name: As in `LoadedModel.task`.
        metrics: What a meter measures. The first is what retention and plots are about.
        shown: How many of `metrics` tables show.
        output_name: What models of transformers call the tensor that is read.
        output_rank: How many dimensions it has.
        output_form: The same in words.
    """

    name: ClassVar[TaskName]
    metrics: ClassVar[tuple[Metric, ...]]
    shown: ClassVar[int] = 1
    output_name: ClassVar[str] = "logits"
    output_rank: ClassVar[int]
    output_form: ClassVar[str]

    @classmethod
    def of(cls, loaded: LoadedModel) -> Self:
        """The task with the protocol that the model's data set has."""
        return cls()

    @classmethod
    def find(cls, output: Any) -> Any | None:
        """What this task reads of a model's output; None where it is not there."""
        tensor = getattr(output, cls.output_name, output)
        return tensor if isinstance(tensor, Tensor) and tensor.dim() == cls.output_rank else None

    @classmethod
    def tells(cls, output: Any) -> bool:
        """Whether an output can be of this task alone."""
        return cls.find(output) is not None

    @classmethod
    @abstractmethod
    def read(cls, output: Any, size: tuple[int, int]) -> Answer:
        """The answer in what was found, for one image of `size` (height, width), on the CPU."""

    @abstractmethod
    def truth(self, sample: Sample) -> Any | None:
        """What labels say of an image; None where they say nothing that can be compared."""

    @abstractmethod
    def as_truth(self, answer: Answer) -> Any:
        """An answer of the unpatched model in the place of labels."""

    @abstractmethod
    def meter(self) -> Meter[Answer]:
        """A new meter, at zero."""

    def fidelity_meter(self) -> Meter[Answer]:
        """The same for answers that are compared with the unpatched model's."""
        return self.meter()

    def on(self, rule: Truths | None) -> Self:
        """The task with what the truth's own files say of the protocol."""
        return self

    def protocol(self) -> dict[str, Any]:
        """What tells figures of one protocol from those of another, for files."""
        return {}

    def notes(self) -> list[str]:
        """Sentences that belong under the figures."""
        return []

    def retention(self, values: Mapping[str, float], base: Mapping[str, float]) -> float | None:
        """The share of the first metric that is kept, so that 1 is always nothing lost.

        None where there is no such share: of a best value that was 0 and is not any more, or of
        what is no number.

        Args:
            values: Against labels, of the patched model; nothing where there are no labels.
            base: The same, of the unpatched model.
        """
        metric = self.metrics[0]
        if metric.name not in values:
            return None
        before, after = base[metric.name], values[metric.name]
        if before == after:
            return 1.0
        part, whole = (before, after) if metric.lower_is_better else (after, before)
        share = part / whole if whole else inf
        return share if isfinite(share) else None


def at_size(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, channels, h, w) at another size, bilinearly."""
    return maps if maps.shape[-2:] == size else F.interpolate(maps, size=size, mode="bilinear")
