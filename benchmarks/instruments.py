"""Trained models on images that they never saw, and how far answers to these are from others."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from expedite.data.datasets import open_folder
from expedite.data.images import normalize, resize, resize_short_side
from expedite.data.truths import LABEL_RULES, NO_DEPTH, VOID, LabelRule, Sample
from expedite.errors import ExpediteError
from expedite.evaluate.demo import demo_depth_model, demo_model, unseen_scenes
from expedite.evaluate.tasks import read_answer, task_of
from expedite.loading import LoadedModel, load_model
from expedite.measure.flops import count_flops
from expedite.scenes.scenes import CLASSES

Counts = NDArray[np.float64]  # (images, ...), which are added up over images


@dataclass(frozen=True)
class Instrument(ABC):
    """A trained model, images (N, 3, H, W) as it sees them, and their truth.

    Counts of every image are kept, so that images can be drawn again (bootstrap).

    Args:
        name: Of the instrument.
        loaded: The model.
        images: As it sees them.
        truth: (N, H, W), or what answers are like; None where nobody knows it.
        views: Of each image, which overlap.
        part: Where the model gives several things by name, which of them is read.
        alphas: Where spans begin; none for a quarter, a third and half of the depth.
        kept: Where what blocks make of the images is kept between runs.
    """

    name: str
    loaded: LoadedModel
    images: Tensor
    truth: Tensor | None
    views: int = field(default=1, kw_only=True)
    part: str = field(default="", kw_only=True)
    alphas: tuple[int, ...] = field(default=(), kw_only=True)
    kept: Path | None = field(default=None, kw_only=True)

    unit: ClassVar[str] = "%"

    def answers(self) -> Tensor:
        """What the model says of every image, (N, ...), in the form of the truth."""
        return answers_of([self])[0]

    def read(self, output: Any) -> Tensor:
        """What the model's output for one image says, in the form of the truth."""
        answer = read_answer(self.loaded, self.of_part(output), self.image_size)
        truth: Tensor = task_of(self.loaded).as_truth(answer)
        return truth

    def of_part(self, output: Any) -> Any:
        """What is read of an output."""
        return output[self.part] if self.part else output

    def gflops(self) -> float:
        """Of the model as it is now, on one image, without what other parts alone need."""
        with _giving([self]):
            return count_flops(self.loaded.model, self.images[:1]).total

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.images.shape[2], self.images.shape[3]

    @abstractmethod
    def counts(self, truth: Tensor, answers: Tensor) -> Counts:
        """What of each image goes into a figure."""

    @abstractmethod
    def error(self, total: Counts) -> NDArray[np.float64]:
        """How far answers are from the truth, 0 for the same, of sums of counts (draws, ...)."""


def answers_of(group: Sequence[Instrument]) -> list[Tensor]:
    """What a model says of every image to each of the instruments that share it and its images."""
    model, found = group[0].loaded.model, []
    with torch.inference_mode(), _giving(group):
        for image in group[0].images:
            output = model(image[None])
            found.append([instrument.read(output) for instrument in group])
    return [torch.stack(answers) for answers in zip(*found, strict=True)]


def _giving(group: Sequence[Instrument]) -> AbstractContextManager[None]:
    """A model that gives several things gives those of a group for a while."""
    model: Any = group[0].loaded.model
    parts = [instrument.part for instrument in group if instrument.part]
    found: AbstractContextManager[None] = model.giving(*parts) if parts else nullcontext()
    return found


@dataclass(frozen=True)
class Segmentation(Instrument):
    """Classes of pixels; the error is 100 less the mean IoU in percent."""

    classes: int

    def counts(self, truth: Tensor, answers: Tensor) -> Counts:
        """Confusion matrices (N, classes, classes), of the truth by rows."""
        pairs = torch.where(truth == VOID, self.classes**2, truth * self.classes + answers)
        rows = [torch.bincount(one.flatten(), minlength=self.classes**2 + 1)[:-1] for one in pairs]
        return torch.stack(rows).view(-1, self.classes, self.classes).double().numpy()

    def error(self, total: Counts) -> NDArray[np.float64]:
        """Over the classes that occur in the truth."""
        both = np.diagonal(total, axis1=-2, axis2=-1)
        truth, found = total.sum(-1), total.sum(-2)
        with np.errstate(invalid="ignore"):
            iou = np.where(truth > 0, both / (truth + found - both), np.nan)
        return np.asarray(100 - 100 * np.nanmean(iou, axis=-1))


@dataclass(frozen=True)
class Depth(Instrument):
    """Metres (N, H, W); the error is their RMSE over all pixels that count."""

    unit: ClassVar[str] = "m"

    def counts(self, truth: Tensor, answers: Tensor) -> Counts:
        """Sums of squared errors, and how many pixels count, (N, 2)."""
        there = truth != NO_DEPTH
        squared = torch.where(there, (answers - truth).square(), 0).double()
        return torch.stack([squared.sum((1, 2)), there.sum((1, 2)).double()], 1).numpy()

    def error(self, total: Counts) -> NDArray[np.float64]:
        return np.asarray(np.sqrt(total[..., 0] / total[..., 1]))


@dataclass(frozen=True)
class Saliency(Instrument):
    """Maps (N, H, W) from 0 to 1; the error is their RMSE in hundredths."""

    def read(self, output: Any) -> Tensor:
        salient: Tensor = self.of_part(output)[0, 0]
        return salient

    def counts(self, truth: Tensor, answers: Tensor) -> Counts:
        """Sums of squared errors, and how many pixels there are, (N, 2)."""
        squared = (answers - truth).square().double().sum((1, 2))
        return torch.stack([squared, torch.full_like(squared, truth[0].numel())], 1).numpy()

    def error(self, total: Counts) -> NDArray[np.float64]:
        return np.asarray(100 * np.sqrt(total[..., 0] / total[..., 1]))


@dataclass(frozen=True)
class Features(Instrument):
    """Normalised tokens (N, tokens, C) of the last block; no head is needed.

    The error is Σ‖ŷ − y‖² in percent of Σ‖y − mean‖², the mean over an image's tokens: 100 is
    what a map without any detail has.
    """

    def read(self, output: Any) -> Tensor:
        maps: Tensor = self.of_part(output)
        return maps[0].flatten(1).T.contiguous()

    def counts(self, truth: Tensor, answers: Tensor) -> Counts:
        """Sums of squares of the error, and of the truth about its mean, (N, 2)."""
        error = (answers - truth).double().square().sum((1, 2))
        detail = (truth - truth.mean(1, keepdim=True)).double().square().sum((1, 2))
        return torch.stack([error, detail], 1).numpy()

    def error(self, total: Counts) -> NDArray[np.float64]:
        return np.asarray(100 * total[..., 0] / total[..., 1])


DEMOS = {"demo Segmenter": demo_model, "demo DPT": demo_depth_model}


def demo_instrument(name: str, count: int) -> Instrument:
    """A shipped model on scenes of the demo's split."""
    samples, loaded = unseen_scenes(count), DEMOS[name]()
    size, is_depth = loaded.image_size, loaded.task == "depth"
    images = torch.stack([pixels(loaded, resize(sample.image, size)) for sample in samples])
    maps = [sample.depth if is_depth else sample.labels for sample in samples]
    truth = torch.stack([resized(one, size) for one in maps if one is not None])
    if is_depth:
        return Depth(name, loaded, images, truth)
    return Segmentation(name, loaded, images, truth, len(CLASSES))


def own_instrument(name: str, model: str, data: Path, count: int) -> Instrument:
    """A segmenting model on `count` validation images, spread over all there are.

    A model that sees images through windows gets those at both lower corners.
    """
    loaded = load_model(model).for_task("segmentation")
    loaded.model.float()  # folders of transformers may hold halves
    rule = LABEL_RULES.get(loaded.dataset, LabelRule())
    views = [
        view
        for sample in open_folder(data, "val", rule, limit=count)
        for view in _views(loaded, sample)
    ]
    labels = torch.stack([truth for _, truth in views])
    images = torch.stack([image for image, _ in views])
    classes = max(_classes(loaded, images[:1]), 1 + int(labels[labels != VOID].max()))
    corners = 1 if loaded.window_stride is None else 2
    return Segmentation(name, loaded, images, labels, classes, views=corners)


def _classes(loaded: LoadedModel, image: Tensor) -> int:
    """How many the model tells apart."""
    with torch.inference_mode():
        answer = read_answer(loaded, loaded.model(image), (image.shape[2], image.shape[3]))
    return int(answer.classes)


def _views(loaded: LoadedModel, sample: Sample) -> Iterator[tuple[Tensor, Tensor]]:
    if sample.labels is None:
        raise ExpediteError(f"{sample.name} has no labels; what has both is due")
    height, width = loaded.image_size
    if loaded.window_stride is None:
        image = resize(sample.image, loaded.image_size)
        yield pixels(loaded, image), resized(sample.labels, loaded.image_size)
        return
    image = resize_short_side(sample.image, loaded.short_side or height)
    whole = pixels(loaded, image)
    labels = resized(sample.labels, (image.shape[0], image.shape[1]))
    for columns in (slice(None, width), slice(-width, None)):
        yield whole[:, -height:, columns], labels[-height:, columns]


def resized(truth: NDArray[np.generic], size: tuple[int, int]) -> Tensor:
    """The nearest values of a map (H, W) at another size."""
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new)
        for new, old in zip(size, truth.shape, strict=True)
    )
    return torch.from_numpy(truth[rows[:, None], columns])


def pixels(loaded: LoadedModel, image: NDArray[np.uint8]) -> Tensor:
    """An image (H, W, 3) as the model sees it, (3, H, W)."""
    return normalize(image, loaded.mean, loaded.deviation)


def draws(counts: Counts, error: Callable[[Counts], NDArray[np.float64]]) -> NDArray[np.float64]:
    """The error of all images first, then of a thousand draws of as many with replacement.

    The draws are the same for every call with as many images, so that errors can be paired.
    """
    count = len(counts)
    chosen = np.random.default_rng(0).integers(count, size=(1000, count))
    times = np.stack([np.bincount(draw, minlength=count) for draw in chosen]).astype(float)
    totals = np.tensordot(np.concatenate([np.ones((1, count)), times]), counts, axes=1)
    return error(totals)
