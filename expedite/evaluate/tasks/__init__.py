"""What models are for. A task here is `base.Task`, one class for each.

Another one is its class, its name in `loading.TaskName`, and a rule in `truths` for its labels.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from expedite.errors import ExpediteError
from expedite.evaluate.tasks.base import NoNumberError, Task
from expedite.evaluate.tasks.classes import Classification, Segmentation
from expedite.evaluate.tasks.depth import Depth
from expedite.evaluate.tasks.features import Features
from expedite.evaluate.tasks.objects import Detection, InstanceSegmentation
from expedite.evaluate.tasks.panoptic import Panoptic
from expedite.loading import LoadedModel

# Where nobody says the task, it is the first that an output can be of: that is panoptic for models
# which give masks by query, and answer three tasks with one output.
TASKS: Mapping[str, type[Task[Any]]] = {
    task.name: task
    for task in (
        Panoptic,
        Segmentation,
        InstanceSegmentation,
        Detection,
        Classification,
        Depth,
        Features,
    )
}


def task_of(loaded: LoadedModel) -> Task[Any]:
    """The task of a model, which is run once if nobody said it.

    Depth and features in a bare tensor must be said: they have as many dimensions as tokens and
    scores have.

    Raises:
        ExpediteError: The output is not of any task, or there is no such task.

    Example:
        >>> from expedite.loading import load_model
        >>> task_of(load_model("timm:vit_tiny_patch16_224")).name
        'classification'
    """
    if loaded.task is not None:
        return _named(loaded, loaded.task).of(loaded)
    weight = next(loaded.model.parameters())
    with torch.inference_mode():
        output = loaded.model(weight.new_zeros(1, 3, *loaded.image_size))
    return _kind(loaded, output).of(loaded)


def read_answer(loaded: LoadedModel, output: Any, size: tuple[int, int]) -> Any:
    """What a model's output says of one image of `size`, in its task's form.

    Raises:
        NoNumberError: There are numbers in it that are none.
        ExpediteError: The output is not of the model's task, or not of any.
    """
    kind = _kind(loaded, output)
    found = kind.find(output)
    # A class would win among such scores, and no object be found.
    if any(part.isnan().any() for part in _tensors(found)):
        raise NoNumberError(
            f"'{loaded.name}' gives what is no number (nan), which cannot be compared; another "
            "dtype, as bfloat16 or float32, has a wider range than float16"
        )
    return kind.read(found, size)


def _tensors(found: Any) -> list[Tensor]:
    if isinstance(found, Tensor):
        return [found]
    parts = found.values() if isinstance(found, Mapping) else vars(found).values()
    return [part for part in parts if isinstance(part, Tensor)]


def _kind(loaded: LoadedModel, output: Any) -> type[Task[Any]]:
    if loaded.task is None:
        fitting = [kind for kind in TASKS.values() if kind.tells(output)]
        forms = [kind.output_form for kind in TASKS.values()]
    else:
        named = _named(loaded, loaded.task)
        fitting = [] if named.find(output) is None else [named]
        forms = [named.output_form]
    if fitting:
        return fitting[0]
    tensor = getattr(output, "logits", output)
    what = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(output).__name__
    raise ExpediteError(f"'{loaded.name}' gives {what}; {' or '.join(forms)} can be compared")


def _named(loaded: LoadedModel, task: str) -> type[Task[Any]]:
    if task not in TASKS:
        raise ExpediteError(
            f"'{loaded.name}' says that it is for '{task}'; the tasks are {', '.join(TASKS)}"
        )
    return TASKS[task]
