from types import SimpleNamespace

import numpy as np
import pytest
import torch

from expedite.data.truths import Sample
from expedite.evaluate.tasks.features import Features


def test_a_map_is_compared_position_by_position() -> None:
    meter = Features().meter()
    meter.add(
        torch.tensor([[[3.0, 0.0]], [[0.0, 4.0]]]), torch.tensor([[[6.0, 4.0]], [[0.0, 0.0]]])
    )
    # Twice as long at one position, turned by 90° at the other.
    values = meter.values()
    assert values["cosine"] == pytest.approx(0.5)
    assert values["relative_l2"] == pytest.approx((9 + 32) ** 0.5 / 5)
    assert list(values) == [metric.name for metric in Features.metrics]


def test_images_count_alike_and_a_map_is_its_own_truth() -> None:
    task, found = Features(), torch.randn(8, 4, 4)
    meter = task.meter()
    meter.add(task.as_truth(found), found)
    assert meter.values() == {"cosine": pytest.approx(1), "relative_l2": 0}
    meter.add(found, -found)
    assert meter.values() == {"cosine": pytest.approx(0), "relative_l2": pytest.approx(1)}
    assert Features().meter().values() == {}


def test_the_map_is_read_as_it_is_and_labels_say_nothing_of_it() -> None:
    output = torch.randn(1, 8, 4, 4, dtype=torch.bfloat16)
    assert torch.equal(Features.read(output, (32, 32)), output[0].float())
    image = np.zeros((4, 4, 3), np.uint8)
    assert Features().truth(Sample("a", image, np.zeros((4, 4), np.int64))) is None


def test_a_bare_tensor_may_be_scores() -> None:
    assert not Features.tells(torch.zeros(1, 8, 4, 4))
    assert Features.tells(SimpleNamespace(last_hidden_state=torch.zeros(1, 8, 4, 4)))
    assert not Features.tells(SimpleNamespace(last_hidden_state=torch.zeros(1, 8, 4)))
