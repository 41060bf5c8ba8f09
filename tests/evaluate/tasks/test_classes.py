import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy

from expedite import ExpediteError
from expedite.data.truths import VOID, ImageClass, Sample
from expedite.evaluate.tasks.classes import Classes, Classification, Segmentation
from expedite.loading.center_crop import CenterCrop

IMAGE = np.zeros((1, 4, 3), np.uint8)
LABELS = np.array([[0, 1, 1, VOID]])


def test_pixels_are_counted_over_the_data_set() -> None:
    task = Segmentation()
    meter = task.meter()
    truth = task.truth(Sample("a", IMAGE, LABELS))
    meter.add(truth, Classes(torch.tensor([[0, 1, 0, 1]]), 2))
    meter.add(torch.tensor([[1]]), Classes(torch.tensor([[1]]), 2))
    values = meter.values()
    assert values == {
        "miou": (1 / 2 + 2 / 3) / 2,
        "mean_accuracy": (1 + 2 / 3) / 2,
        "pixel_accuracy": 3 / 4,
        "iou_0": 1 / 2,
        "iou_1": pytest.approx(2 / 3),
        "boundary_f": 1.0,  # no part is small
    }


def test_classes_that_are_not_in_the_truth_have_no_figure() -> None:
    meter = Segmentation().meter()
    meter.add(torch.tensor([[1, 1]]), Classes(torch.tensor([[1, 2]]), 3))
    values = meter.values()
    assert (values["miou"], values["mean_accuracy"], values["iou_1"]) == (0.5, 0.5, 0.5)
    assert not {"iou_0", "iou_2"} & {*values}


def test_an_answer_is_its_own_truth() -> None:
    task = Segmentation()
    answer = task.read(torch.randn(1, 3, 4, 4), (8, 8))
    assert (answer.indices.shape, answer.classes) == ((8, 8), 3)
    meter = task.meter()
    meter.add(task.as_truth(answer), answer)
    assert {*meter.values().values()} == {1}


def test_images_are_right_by_their_first_or_first_five_classes() -> None:
    task = Classification()
    meter = task.meter()
    scores = torch.arange(7.0)[None]  # the last is the likeliest
    for index in (6, 5, 2, 1):
        answer = task.read(scores, (8, 8))
        meter.add(task.truth(Sample("a", IMAGE, image_class=ImageClass(index, 7))), answer)
    assert meter.values() == {"top1": 1 / 4, "top5": 3 / 4}
    assert task.truth(Sample("a", IMAGE, LABELS)) is None


def test_top_1_and_top_5_equal_those_of_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(60, 12, generator=generator)
    truth = torch.randint(12, (60,), generator=generator)
    task = Classification()
    meter = task.meter()
    for row, index in zip(scores, truth.tolist(), strict=True):
        meter.add(ImageClass(index, 12), task.read(row[None], (8, 8)))
    for name, count in (("top1", 1), ("top5", 5)):
        theirs = MulticlassAccuracy(12, top_k=count, average="micro")(scores, truth)
        assert meter.values()[name] == pytest.approx(float(theirs))


def test_notes_and_protocol_say_how_images_were_shown() -> None:
    crop = CenterCrop((248, 248), True, "bicubic")
    cut, whole = Classification(crop), Classification()
    assert cut.notes()[0].startswith("Images are resized to cover 248×248 px (bicubic), and their")
    assert whole.notes()[0].startswith("Images are resized whole")
    assert (cut.protocol(), whole.protocol()) == ({"crop": str(crop)}, {})
    assert "1.75 times the size" in Segmentation(multi_scale=True).notes()[0]
    assert Segmentation().notes() == []


def test_a_ranking_is_its_own_truth() -> None:
    task = Classification()
    answer = task.read(torch.tensor([[0.0, 2.0, 1.0]]), (8, 8))
    assert task.as_truth(answer) == ImageClass(1, 3)
    meter = task.meter()
    meter.add(task.as_truth(answer), answer)
    assert meter.values() == {"top1": 1, "top5": 1}


def test_another_number_of_folders_than_of_classes_is_refused() -> None:
    answer = Classification.read(torch.zeros(1, 1000), (8, 8))
    with pytest.raises(ExpediteError, match="has 10 folders of classes and the model 1000"):
        Classification().meter().add(ImageClass(3, 10), answer)


def test_retention_of_a_share() -> None:
    assert Segmentation().retention({"miou": 0.4}, {"miou": 0.5}) == 0.8
    assert Segmentation().retention({"miou": 0.4}, {"miou": 0.0}) is None
    assert Segmentation().retention({"miou": 0.0}, {"miou": 0.0}) == 1
