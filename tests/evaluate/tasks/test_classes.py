import numpy as np
import torch

from expedite.evaluate.tasks.classes import Classes, Classification, Segmentation
from expedite.evaluate.truths import VOID, Sample

IMAGE = np.zeros((1, 4, 3), np.uint8)
LABELS = np.array([[0, 1, 1, VOID]])


def test_pixels_are_counted_over_the_data_set() -> None:
    task = Segmentation()
    meter = task.meter()
    truth = task.truth(Sample("a", IMAGE, LABELS))
    meter.add(truth, Classes(torch.tensor([[0, 1, 0, 1]]), 2))
    meter.add(torch.tensor([[1]]), Classes(torch.tensor([[1]]), 2))
    values = meter.values()
    assert values == {"miou": (1 / 2 + 2 / 3) / 2, "pixel_accuracy": 3 / 4}
    assert list(values) == [metric.name for metric in task.metrics]


def test_an_answer_is_its_own_truth() -> None:
    task = Segmentation()
    answer = task.read(torch.randn(1, 3, 4, 4), (8, 8))
    assert (answer.indices.shape, answer.classes) == ((8, 8), 3)
    meter = task.meter()
    meter.add(task.as_truth(answer), answer)
    assert meter.values() == {"miou": 1, "pixel_accuracy": 1}


def test_images_are_right_or_wrong_as_a_whole() -> None:
    task = Classification()
    meter = task.meter()
    for scores in ([0.0, 1.0], [1.0, 0.0], [0.0, 2.0], [0.0, 3.0]):
        meter.add(torch.tensor(1), task.read(torch.tensor([scores]), (8, 8)))
    assert meter.values() == {"top1": 0.75}
    assert task.truth(Sample("a", IMAGE, LABELS)) is None


def test_retention_of_a_share() -> None:
    assert Segmentation().retention({"miou": 0.4}, {"miou": 0.5}) == 0.8
    assert Segmentation().retention({"miou": 0.4}, {"miou": 0.0}) is None
    assert Segmentation().retention({"miou": 0.0}, {"miou": 0.0}) == 1
