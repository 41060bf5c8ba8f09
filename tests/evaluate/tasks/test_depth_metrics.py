import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expedite.evaluate.tasks.depth import Depth
from expedite.evaluate.tasks.depth_metrics import depth_metrics


def by_the_book(truth: list[float], prediction: list[float]) -> dict[str, float]:
    """The formulas as the papers print them, pixel by pixel."""
    pairs = list(zip(truth, prediction, strict=True))
    count = len(pairs)
    factors = [max(t / p, p / t) for t, p in pairs]
    logs = [math.log(p) - math.log(t) for t, p in pairs]
    variance = sum(d * d for d in logs) / count - (sum(logs) / count) ** 2
    return {
        "rmse": math.sqrt(sum((p - t) ** 2 for t, p in pairs) / count),
        "abs_rel": sum(abs(p - t) / t for t, p in pairs) / count,
        "delta1": sum(factor < 1.25 for factor in factors) / count,
        "delta2": sum(factor < 1.5625 for factor in factors) / count,
        "delta3": sum(factor < 1.953125 for factor in factors) / count,
        "rmse_log": math.sqrt(sum(d * d for d in logs) / count),
        "silog": 100 * math.sqrt(max(variance, 0.0)),
        "log10": sum(abs(math.log10(p) - math.log10(t)) for t, p in pairs) / count,
        "sq_rel": sum((p - t) ** 2 / t for t, p in pairs) / count,
    }


METRES = st.floats(1 / 1024, 80, width=32)


@given(st.lists(st.tuples(METRES, METRES), min_size=1, max_size=20))
def test_equals_the_formulas(pairs: list[tuple[float, float]]) -> None:
    truth, prediction = ([pair[side] for pair in pairs] for side in (0, 1))
    found = depth_metrics(torch.tensor(truth), torch.tensor(prediction))
    # The variance of the formula loses half the digits where all logarithms are alike.
    assert found == pytest.approx(by_the_book(truth, prediction), rel=1e-6, abs=1e-5)


def test_by_hand() -> None:
    found = depth_metrics(torch.tensor([1.0, 10.0, 4.0, 5.0]), torch.tensor([1.0, 1.0, 8.0, 6.0]))
    assert found["rmse"] == pytest.approx(math.sqrt((0 + 81 + 16 + 1) / 4))
    assert found["abs_rel"] == pytest.approx((0 + 0.9 + 1 + 0.2) / 4)
    assert found["sq_rel"] == pytest.approx((0 + 8.1 + 4 + 0.2) / 4)
    assert found["log10"] == pytest.approx((0 + 1 + math.log10(2) + math.log10(1.2)) / 4)
    assert [found[f"delta{n}"] for n in (1, 2, 3)] == [0.5, 0.5, 0.5]


def test_another_scale_costs_nothing_but_where_scale_counts() -> None:
    truth = torch.rand(50) + 1
    found = depth_metrics(truth, 1.5 * truth)
    assert found["silog"] == pytest.approx(0, abs=1e-4)
    assert found["abs_rel"] == pytest.approx(0.5)
    assert [found[f"delta{n}"] for n in (1, 2, 3)] == [0, 1, 1]


def test_they_are_the_metrics_of_the_task() -> None:
    names = [metric.name for metric in Depth.metrics]
    assert names == [*depth_metrics(torch.ones(1), torch.ones(1))]
