from dataclasses import replace

import pytest

from expedite import Plan, Span
from expedite.evaluate.comparators import plan_of
from expedite.evaluate.results import Results
from expedite.evaluate.series import series_of
from expedite.report.charts import FRAME, Chart, charts_of
from tests.evaluate.rows import ROWS, SEGMENTATION, depth_results, row_of


def test_a_plot_for_each_measure_and_cost() -> None:
    titles = [chart.title for chart in charts_of(depth_results())]
    assert titles == [
        "RMSE against GFLOPs",
        "RMSE against FPS",
        "fidelity RMSE against GFLOPs",
        "fidelity RMSE against FPS",
    ]
    assert charts_of(Results({}, "depth")) == []


def test_points_lie_where_ticks_say() -> None:
    chart, _ = charts_of(SEGMENTATION)
    ticks = {float(tick.text): tick.at for tick in chart.x_ticks}
    heights = {float(tick.text): tick.at for tick in chart.y_ticks}
    places = {point.row: point for line in chart.lines for point in line.points}
    assert places[1].x == ticks[8.0]  # GFLOPs of the second row
    assert places[2].x == ticks[6.0]
    assert places[1].y == pytest.approx(heights[50.0])
    assert places[4].y == pytest.approx(heights[30.0])
    assert [base.x for base in chart.bases] == [ticks[10.0]]


@pytest.mark.parametrize("results", [SEGMENTATION, depth_results()])
def test_everything_lies_between_the_axes(results: Results) -> None:
    for chart in charts_of(results):
        points = [point for line in chart.lines for point in line.points]
        for point in [*points, *chart.bases]:
            assert FRAME.left < point.x < FRAME.right
            assert FRAME.top < point.y < FRAME.bottom
        assert all(FRAME.left <= tick.at <= FRAME.right for tick in chart.x_ticks)
        assert len(chart.x_ticks) >= 2
        assert len(chart.y_ticks) >= 2


def test_one_point_and_equal_points_have_a_place() -> None:
    same = [row_of(5, 5, 0.5, alpha=None), row_of(5, 5, 0.5)]
    for chart in charts_of(Results({}, "segmentation", rows=same)):
        (base,) = chart.bases
        assert base.x == pytest.approx((FRAME.left + FRAME.right) / 2, abs=0.2)
    zero = [row_of(0, 0, 0.0, alpha=None)]
    assert len(charts_of(Results({}, "segmentation", rows=zero))) == 2


def methods(count: int) -> Chart:
    rows = [
        replace(row_of(side + k, side, 0.1 * side), plan=plan_of("paper", 1, 4, k=k))
        for k in range(1, count + 1)
        for side in (5, 3)
    ]
    chart, _ = charts_of(Results({}, "segmentation", rows=[ROWS[0], *rows]))
    return chart


def test_methods_look_different_and_their_rows_are_joined_in_order() -> None:
    chart = methods(12)
    assert len({(line.colour, line.mark) for line in chart.lines}) == len(chart.lines) == 12
    for line in chart.lines:
        (path,) = line.paths
        across = [float(point.split(",")[0]) for point in path.split()]
        assert across == sorted(across)
        assert len(across) == 2


def test_the_front_goes_over_what_nothing_beats() -> None:
    chart, _ = charts_of(SEGMENTATION)
    places = {point.row: point for line in chart.lines for point in line.points}
    expected = " ".join(f"{places[row].x:.1f},{places[row].y:.1f}" for row in (4, 3, 1))
    assert chart.front == expected


def test_series_are_methods_or_alphas_and_strands_have_the_same_blocks() -> None:
    plans = [
        Plan((Span(2, 20),)),
        Plan((Span(10, 20),)),
        Plan((Span(2, 14),)),
        Plan((Span(2, 14, beta=3),)),
        Plan((Span(2, 20), Span(6, 14))),
    ]
    rows = [replace(ROWS[1], plan=plan, gflops=10.0 - n) for n, plan in enumerate(plans)]
    found = series_of(Results({}, "segmentation", rows=[ROWS[0], *rows]))
    assert [one.name for one in found] == ["α = 2", "α = 2+6", "α = 10"]
    assert [[row.plan for row in strand] for strand in found[0].strands] == [
        [plans[3]],
        [plans[2], plans[0]],
    ]
    modes = [rows[0], replace(rows[0], dtype="bfloat16")]
    apart = series_of(Results({}, "segmentation", rows=modes))
    assert [one.name for one in apart] == ["α = 2", "α = 2 bfloat16"]
    other = replace(rows[0], plan=plan_of("pool", 2, 20))
    named = series_of(Results({}, "segmentation", rows=[other, *rows]))
    assert [one.name for one in named] == ["pool", "expedite"]
    assert series_of(Results({}, "depth")) == []
