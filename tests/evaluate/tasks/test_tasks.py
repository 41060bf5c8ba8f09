from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from expedite import ExpediteError
from expedite.evaluate.tasks import TASKS, read_answer, task_of
from expedite.loading import LoadedModel
from tests.hosts import depth_vit, segmenter, timm_vit

HALF = (0.5, 0.5, 0.5)


def loaded(model: nn.Module, **changes: Any) -> LoadedModel:
    return replace(LoadedModel("test", model, (32, 32), HALF, HALF, trained=True), **changes)


class Answering(nn.Module):
    """Whatever the image, it has one answer."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.answer = answer

    def forward(self, images: torch.Tensor) -> Any:
        return self.answer


DEPTH = SimpleNamespace(predicted_depth=torch.full((1, 4, 4), 3.0))


@pytest.mark.parametrize(
    ("model", "name"),
    [(segmenter(), "segmentation"), (timm_vit(), "classification"), (Answering(DEPTH), "depth")],
)
def test_the_output_tells_where_nobody_said(model: nn.Module, name: str) -> None:
    assert task_of(loaded(model)).name == name


def test_what_was_said_is_not_asked_of_the_model() -> None:
    assert task_of(loaded(nn.Identity(), task="depth")).name == "depth"


def test_outputs_of_transformers_are_known_by_their_fields() -> None:
    found = loaded(segmenter())
    assert read_answer(found, DEPTH, (2, 2)).tolist() == [[3, 3], [3, 3]]
    classes = SimpleNamespace(logits=torch.eye(3)[:1])
    assert read_answer(found, classes, (2, 2)).indices[0] == 0


def test_an_output_of_another_task_is_refused() -> None:
    with pytest.raises(ExpediteError, match=r"gives \(1, 5\); depth of shape \(B, h, w\) can be"):
        read_answer(loaded(segmenter(), task="depth"), torch.zeros(1, 5), (2, 2))


def test_tokens_are_not_taken_for_depth() -> None:
    assert read_answer(loaded(depth_vit(), task="depth"), torch.ones(1, 4, 9), (2, 2)).shape == (
        2,
        2,
    )
    with pytest.raises(ExpediteError, match=r"gives \(1, 4, 9\); masks by query or sc"):
        read_answer(loaded(depth_vit()), torch.ones(1, 4, 9), (2, 2))


def test_a_task_that_is_none_is_refused() -> None:
    with pytest.raises(ExpediteError, match="is for 'dreaming'; the tasks are panoptic, seg"):
        task_of(loaded(depth_vit(), task="dreaming"))


def test_an_output_of_no_task_is_refused() -> None:
    with pytest.raises(
        ExpediteError, match=r"gives dict; masks .* or scores of .* or depth of shape"
    ):
        task_of(loaded(Answering({"out": 1})))


@pytest.mark.parametrize("task", TASKS.values())
def test_every_task_shows_metrics_that_it_measures(task: Any) -> None:
    assert 1 <= task.shown <= len(task.metrics)
    assert len({metric.name for metric in task.metrics}) == len(task.metrics)
