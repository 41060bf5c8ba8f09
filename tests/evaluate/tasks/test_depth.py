import json
from math import isnan

import numpy as np
import pytest
import torch
from torch import nn

from expedite import ExpediteError
from expedite.data.truths import NO_DEPTH, Sample
from expedite.evaluate.tasks.depth import Depth
from expedite.loading import LoadedModel

HALF = (0.5, 0.5, 0.5)
LOADED = LoadedModel("test", nn.Identity(), (4, 4), HALF, HALF, trained=True, task="depth")


def sample(depth: list[list[float]] | None) -> Sample:
    metres = None if depth is None else np.array(depth, np.float32)
    return Sample("a", np.zeros((1, 4, 3), np.uint8), depth=metres)


def test_the_range_is_the_data_sets() -> None:
    def of(dataset: str) -> float:
        loaded = LoadedModel("", nn.Identity(), (4, 4), HALF, HALF, trained=True, dataset=dataset)
        return Depth.of(loaded).maximum

    assert [of(name) for name in ("kitti", "nyu", "")] == [80, 10, 80]


def test_truth_outside_the_range_does_not_count() -> None:
    truth = Depth(maximum=10).truth(sample([[0.0005, 5, 10, NO_DEPTH]]))
    assert truth is not None
    assert truth.tolist() == [[NO_DEPTH, 5, NO_DEPTH, NO_DEPTH]]
    assert Depth().truth(sample(None)) is None


def test_predictions_are_clamped_to_the_range() -> None:
    meter = Depth(minimum=1, maximum=10).meter()
    meter.add(torch.tensor([9.0, 2.0]), torch.tensor([1e9, -5.0]))
    assert meter.values()["rmse"] == pytest.approx(1)  # 9 against 10, 2 against 1


def test_images_count_alike_however_many_pixels_they_have() -> None:
    meter = Depth().meter()
    meter.add(torch.tensor([1.0, NO_DEPTH, NO_DEPTH]), torch.tensor([2.0, 7.0, 7.0]))
    meter.add(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([4.0, 4.0, 4.0]))
    meter.add(torch.tensor([NO_DEPTH]), torch.tensor([3.0]))  # says nothing
    assert meter.values()["rmse"] == 2
    assert meter.values()["abs_rel"] == 2


def test_nothing_counted_is_no_figure() -> None:
    meter = Depth().meter()
    meter.add(torch.tensor([NO_DEPTH]), torch.tensor([3.0]))
    assert meter.values() == {}


def test_the_unpatched_models_depth_counts_everywhere_below_its_end() -> None:
    task = Depth(maximum=10)
    truth = task.as_truth(torch.tensor([5.0, 12.0, 0.0]))
    assert truth.tolist() == [5, 10, NO_DEPTH]
    meter = task.meter()
    meter.add(truth, torch.tensor([5.0, 99.0, 3.0]))
    assert meter.values()["rmse"] == 0


def test_a_prediction_that_is_not_a_number_shows() -> None:
    meter = Depth().meter()
    meter.add(Depth().as_truth(torch.tensor([1.0, 2.0])), torch.tensor([1.0, torch.nan]))
    assert isnan(meter.values()["rmse"])
    aligned = Depth(metric=False).meter()
    aligned.add(torch.tensor([1.0, 2.0]), torch.tensor([1.0, torch.nan]))
    assert isnan(aligned.values()["rmse"])


def test_depth_comes_at_the_size_of_the_image_bilinearly() -> None:
    read = Depth.read(torch.tensor([[[1.0, 3.0]]], dtype=torch.bfloat16), (1, 4))
    assert read.tolist() == [[1.0, 1.5, 2.5, 3.0]]
    assert read.dtype == torch.float32


def test_retention_of_an_error_is_its_inverse() -> None:
    assert Depth().retention({"rmse": 4.0}, {"rmse": 2.0}) == 0.5
    assert Depth().retention({"rmse": 0.0}, {"rmse": 0.0}) == 1
    assert Depth().retention({"rmse": 0.0}, {"rmse": 1.0}) is None
    assert Depth().retention({}, {}) is None


def test_inverse_depth_is_aligned_by_scale_and_shift() -> None:
    task = Depth.of(LoadedModel("", nn.Identity(), (4, 4), HALF, HALF, True, metric_depth=False))
    truth = torch.rand(50, dtype=torch.float64) * 20 + 1
    meter = task.meter()
    meter.add(truth, 300 / truth + 7)
    assert meter.values()["rmse"] == pytest.approx(0, abs=1e-9)


def test_the_alignment_is_that_of_least_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(50, generator=generator, dtype=torch.float64) * 20 + 1
    answer = 3 / truth + torch.rand(50, generator=generator, dtype=torch.float64)
    columns = np.stack([answer.numpy(), np.ones(50)], 1)
    fit, *_ = np.linalg.lstsq(columns, 1 / truth.numpy())
    expected = 1 / np.maximum(columns @ fit, 1 / 80)
    meter = Depth(metric=False).meter()
    meter.add(truth, answer)
    error = np.sqrt(np.mean((expected - truth.numpy()) ** 2))
    assert meter.values()["rmse"] == pytest.approx(error)


def test_inverse_depth_that_is_aligned_to_nothing_is_the_farthest() -> None:
    meter = Depth(metric=False, maximum=10).meter()
    truth, answer = torch.tensor([2.0, 2.0, 8.0, 8.0]), torch.tensor([1.0, 1.0, 0.0, -1.0])
    meter.add(truth, answer)
    columns = np.array([[1, 1], [1, 1], [0, 1], [-1, 1]], float)
    fit, *_ = np.linalg.lstsq(columns, 1 / truth.numpy())
    depth = 1 / np.maximum(columns @ fit, 0.1)
    assert depth[3] == 10
    error = np.sqrt(np.mean((depth - truth.numpy()) ** 2))
    assert meter.values()["rmse"] == pytest.approx(error)


def test_a_constant_map_can_be_aligned() -> None:
    meter = Depth(metric=False).meter()
    meter.add(torch.tensor([2.0, 2.0]), torch.tensor([5.0, 5.0]))
    assert meter.values()["rmse"] == pytest.approx(0, abs=1e-9)


def test_depth_is_aligned_by_its_median() -> None:
    meter = Depth(metric=False, alignment="median").meter()
    meter.add(torch.tensor([1.0, 2.0, 4.0, NO_DEPTH]), torch.tensor([10.0, 20.0, 30.0, 99.0]))
    assert meter.values()["rmse"] == pytest.approx((1 / 3) ** 0.5)


def test_fidelity_of_relative_depth_is_in_its_own_units() -> None:
    task = Depth(metric=False)
    truth = task.as_truth(torch.tensor([3000.0, 0.0, 1.0]))
    assert truth.tolist() == [3000, NO_DEPTH, 1]
    meter = task.fidelity_meter()
    meter.add(truth, torch.tensor([2000.0, 5.0, 1.0]))
    assert meter.values()["rmse"] == pytest.approx(1000 / 2**0.5)
    assert "own units" in task.notes()[-1]
    assert "own units" not in " ".join(Depth().notes())
    json.dumps(task.protocol(), allow_nan=False)


def test_the_protocol_is_said() -> None:
    assert Depth(maximum=10).protocol() != Depth().protocol()
    assert "from 0.001 to 80 m" in Depth.of(LOADED).notes()[0]
    assert "Garg's crop counts for KITTI" in Depth.of(LOADED).notes()[1]


@pytest.mark.parametrize("maximum", [0.0, -1.0, 0.0001])
def test_a_range_without_depth_is_refused(maximum: float) -> None:
    with pytest.raises(ExpediteError, match=f"to {maximum} m was asked"):
        Depth(maximum=maximum)
