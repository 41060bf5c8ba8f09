import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from expedite import ExpediteError
from expedite.data.truths import VOID
from expedite.measure.metrics import Agreement


@given(classes=st.integers(2, 6), seed=st.integers(0, 99), void=st.booleans())
def test_equals_torchmetrics_over_several_images(classes: int, seed: int, void: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    ours = Agreement(classes)
    theirs = MulticlassJaccardIndex(classes, average="none", ignore_index=VOID)
    accuracy = MulticlassAccuracy(classes, average="micro", ignore_index=VOID)
    recalls = MulticlassAccuracy(classes, average="none", ignore_index=VOID)
    for size in ((7, 9), (4, 4), (1, 30)):
        truth = torch.randint(classes, size, generator=generator)
        prediction = torch.randint(classes, size, generator=generator)
        if void:
            truth[torch.rand(size, generator=generator) < 0.3] = VOID
        ours.add(truth, prediction)
        for metric in (theirs, accuracy, recalls):
            metric.update(prediction[None], truth[None])
    present = ours.counts.sum(1) > 0
    torch.testing.assert_close(ours.iou()[present].float(), theirs.compute()[present])
    assert ours.accuracy() == pytest.approx(float(accuracy.compute()), abs=1e-6)
    mean = float(recalls.compute()[present].mean())
    assert ours.mean_accuracy() == pytest.approx(mean, abs=1e-6)


def test_classes_that_are_nowhere_true_are_left_out_of_the_mean() -> None:
    agreement = Agreement(3)
    agreement.add(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 2, 1, 1]))
    assert agreement.iou()[:2].tolist() == [0.5, 1.0]
    assert agreement.mean_iou() == 0.75


def test_it_is_counted_over_the_data_set_and_not_by_image() -> None:
    agreement = Agreement(2)
    agreement.add(torch.zeros(90, dtype=torch.int64), torch.zeros(90, dtype=torch.int64))
    agreement.add(torch.zeros(10, dtype=torch.int64), torch.ones(10, dtype=torch.int64))
    assert agreement.mean_iou() == pytest.approx(0.9)


def test_labels_beyond_the_classes_are_refused_with_a_hint() -> None:
    with pytest.raises(ExpediteError, match=r"a label 11 was found.*--ignore-index 11"):
        Agreement(11).add(torch.tensor([3, 11]), torch.tensor([3, 3]))


def test_labels_up_to_the_number_of_classes_may_have_a_void_0() -> None:
    """ADE20K's, with a model of its 150 classes."""
    with pytest.raises(
        ExpediteError, match=r"a label 150 .*--reduce-zero-label says so.*only where 0"
    ):
        Agreement(150).add(torch.arange(1, 151), torch.arange(150))
    with pytest.raises(ExpediteError, match="a label 200 was found") as error:
        Agreement(150).add(torch.tensor([200]), torch.tensor([0]))
    assert "reduce-zero-label" not in str(error.value)


def test_labels_below_0_are_refused() -> None:
    with pytest.raises(ExpediteError, match=r"a label -5 was found.*numbers from 0 on"):
        Agreement(3).add(torch.tensor([-5]), torch.tensor([0]))


def test_every_class_of_many_counts() -> None:
    agreement = Agreement(300)
    agreement.add(torch.tensor([254, 255, 256, VOID]), torch.tensor([254, 255, 0, 0]))
    assert agreement.counts.sum(1).nonzero().flatten().tolist() == [254, 255, 256]
    assert agreement.seen == 3
    assert agreement.mean_iou() == pytest.approx(2 / 3)


def test_nothing_counted_is_not_a_number() -> None:
    agreement = Agreement(2)
    agreement.add(torch.tensor([VOID]), torch.tensor([1]))
    assert agreement.mean_iou() != agreement.mean_iou()
