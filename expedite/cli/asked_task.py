"""What a sweep measures, and how its truth is stored, from the options that say it."""

from dataclasses import replace
from typing import Any

from expedite.data.truths import LABEL_RULES, DepthRule, LabelRule, TruthRule
from expedite.errors import ExpediteError
from expedite.evaluate.tasks import TASKS, task_of
from expedite.evaluate.tasks.base import Task
from expedite.evaluate.tasks.classes import Segmentation
from expedite.evaluate.tasks.depth import Depth
from expedite.loading import LoadedModel


def for_task(loaded: LoadedModel, task: str | None, multi_scale: bool) -> LoadedModel:
    """The model for the task that was asked, if one was.

    Raises:
        ExpediteError: There is no such task, or multi-scale testing was asked for another one.
    """
    if task is not None:
        if task not in TASKS:
            raise ExpediteError(f"the task '{task}' was asked; there are {', '.join(TASKS)}")
        loaded = loaded.for_task(TASKS[task].name)
    if multi_scale and (found := task_of(loaded).name) != "segmentation":
        single = ", whose published protocols look at an image once" if found == "depth" else ""
        raise ExpediteError(
            f"--multi-scale was given; '{loaded.name}' is for {found}{single}, and segmentation "
            "alone is tested so"
        )
    return replace(loaded, multi_scale=multi_scale)


def task_from(loaded: LoadedModel, max_depth: float | None) -> Task[Any]:
    """The task of a model, with the depth that counts.

    Raises:
        ExpediteError: A depth was asked where there is none.
    """
    task = task_of(loaded)
    if max_depth is None:
        return task
    if not isinstance(task, Depth):
        raise ExpediteError(f"--max-depth was given; '{loaded.name}' gives no depth")
    return replace(task, maximum=max_depth)


def truth_rule(
    loaded: LoadedModel,
    task: Task[Any],
    ignore_index: int | None,
    reduce_zero: bool,
    depth_scale: float | None,
) -> TruthRule | None:
    """How labels are stored that the task can be compared with; None where there are none."""
    of_task = {
        "--ignore-index": ("segmentation", ignore_index is not None),
        "--reduce-zero-label": ("segmentation", reduce_zero),
        "--depth-scale": ("depth", depth_scale is not None),
    }
    for option, (name, given) in of_task.items():
        if given and task.name != name:
            raise ExpediteError(f"{option} was given; '{loaded.name}' is for {task.name}")
    if isinstance(task, Depth):
        return DepthRule(depth_scale)
    if not isinstance(task, Segmentation):
        return None
    known = LABEL_RULES.get(loaded.dataset, LabelRule())
    return LabelRule(
        known.ignore_index if ignore_index is None else ignore_index,
        reduce_zero or known.reduce_zero_label,
    )
