from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from expedite.evaluate.comparators import plan_of
from expedite.evaluate.results import Results
from expedite.report.plot import plot
from tests.evaluate.rows import ROWS, SEGMENTATION, depth_results


def front(figure: Figure, index: int = 0) -> list[tuple[float, float]]:
    """The points of the grey line."""
    (line,) = [line for line in figure.axes[index].lines if line.get_color() == "#8794a5"]
    return [(x, y) for x, y in np.asarray(line.get_xydata()).tolist()]


def test_shares_are_shown_in_percent() -> None:
    figure = plot(SEGMENTATION, "gflops")
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("GFLOPs", "mIoU (%)")
    assert front(figure) == [(3, 30), (5, 46), (8, 50)]


def test_the_front_over_fps_begins_with_the_fastest() -> None:
    assert front(plot(SEGMENTATION, "fps")) == [(30, 30), (20, 46), (12, 50)]


def test_an_error_is_better_where_it_is_lower() -> None:
    figure = plot(depth_results(), "gflops")
    assert [axes.get_ylabel() for axes in figure.axes] == ["RMSE", "fidelity RMSE"]
    assert [x for x, _ in front(figure)] == [3, 5, 8]
    assert [y for _, y in front(figure)] == pytest.approx([1 / 0.6, 1 / 0.92, 1])
    assert [y for _, y in front(figure, 1)] == pytest.approx([0.2, 0.04, 0])


def test_colours_tell_methods_apart_where_there_are_several() -> None:
    rivals = [
        replace(row, plan=plan_of(name, 1, 4))
        for row, name in zip(ROWS[1:], ("expedite", "pool", "tome", "tome"), strict=True)
    ]
    (axes,) = plot(Results({}, "segmentation", rows=[ROWS[0], *rivals]), "gflops").axes
    legend = axes.get_legend()
    assert legend is not None
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["expedite", "pool", "tome", "unpatched"]
    colours = {line.get_color() for line in axes.lines}
    assert len(colours) == 5  # three methods, the unpatched model, the front
    assert "α1 4x4" in [text.get_text() for text in axes.texts]
