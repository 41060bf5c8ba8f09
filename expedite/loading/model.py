"""What was asked of `load_model`, what it returns, and how a checkpoint gets into a model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.loading.center_crop import CenterCrop
from expedite.models.files import load_weights, read_state_dict, without_prefixes

Triple = tuple[float, float, float]
State = Mapping[str, Tensor]
TaskName = Literal[
    "segmentation", "panoptic", "instance", "detection", "classification", "depth", "features"
]


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode with what is needed to feed it images.

    Args:
        name: As it was asked for.
        model: The model.
        image_size: (height, width) in pixels of the images it is run on, or of sliding windows.
        mean: Per channel of RGB from 0 to 1.
        deviation: Per channel.
        trained: Whether its weights come from training; figures of accuracy need that.
        window_stride: Step of sliding windows in pixels; None resizes whole images.
        short_side: Pixels of an image's shorter side before windows are cut.
        dataset: The data set it was trained on by its published name, where known.
        task: What its output is; None where only a look at the output tells.
        metric_depth: Whether depth is in metres, and not relative.
        crop: How classifiers are shown images, where the model says it; None resizes whole images.
        multi_scale: Whether segmentation is the mean over images of several sizes and their mirror
            images.
        class_names: In the order of the classes, where they are known.
    """

    name: str
    model: nn.Module
    image_size: tuple[int, int]
    mean: Triple
    deviation: Triple
    trained: bool
    window_stride: int | None = None
    short_side: int | None = None
    dataset: str = ""
    task: TaskName | None = None
    metric_depth: bool = True
    crop: CenterCrop | None = None
    multi_scale: bool = False
    class_names: tuple[str, ...] = ()

    def for_task(self, task: TaskName) -> Self:
        """The same model for another of its tasks; one that is told its task is told that.

        Raises:
            ExpediteError: It is told its task, and has not this one.
        """
        for hook in self.model._forward_pre_hooks.values():
            if isinstance(hook, TaskWords):
                if task not in hook.tokens:
                    known = ", ".join(hook.tokens)
                    raise ExpediteError(f"{task} was asked of '{self.name}', which is for {known}")
                hook.task = task
        return replace(self, task=task)

    @property
    def prepares_images(self) -> bool:
        """Whether the model resizes and normalises images itself, as torchvision's detectors do."""
        transform = getattr(self.model, "transform", None)
        return type(transform).__name__ == "GeneralizedRCNNTransform"


@dataclass
class TaskWords:
    """A hook that gives a model the words of its task with every image.

    Args:
        tokens: (1, length), of each task that the model has.
        task: The present one.
    """

    tokens: Mapping[TaskName, Tensor]
    task: TaskName

    def __call__(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        images: Tensor = args[0] if args else kwargs["pixel_values"]
        tokens = self.tokens[self.task].to(images.device).expand(len(images), -1)
        return args[:1], {"task_inputs": tokens, **kwargs}


@dataclass(frozen=True)
class Wanted:
    """What was asked, with `spec` split at its first colon; None where the model's own will do."""

    spec: str
    kind: str
    name: str
    image_size: tuple[int, int] | None
    classes: int | None
    checkpoint: Path | None

    @classmethod
    def of(
        cls,
        spec: str,
        image_size: tuple[int, int] | None = None,
        classes: int | None = None,
        checkpoint: str | Path | None = None,
    ) -> "Wanted":
        kind, _, name = spec.partition(":")
        path = None if checkpoint is None else Path(checkpoint)
        return cls(spec, kind, name, image_size, classes, path)

    def refuse_classes(self) -> None:
        """Refuse a number of classes for a model that has its own."""
        if self.classes is not None:
            raise ExpediteError(
                f"{self.classes} classes were asked of '{self.spec}', which has its own number"
            )

    def refuse_others(self) -> None:
        """Refuse what cannot be chosen for a model that brings its own weights."""
        self.refuse_classes()
        if self.checkpoint is not None:
            raise ExpediteError(
                f"the checkpoint {self.checkpoint} was given for '{self.spec}', which brings its "
                "own weights; give it to a recipe or to an architecture with random weights"
            )

    def fill(self, model: nn.Module, translate: Callable[[State], State] | None = None) -> bool:
        """Load the checkpoint into `model` if there is one; `translate` maps older key names."""
        if self.checkpoint is None:
            return False
        state: State = without_prefixes(read_state_dict(self.checkpoint), model.state_dict())
        load_weights(model, translate(state) if translate else state, self.checkpoint)
        return True
