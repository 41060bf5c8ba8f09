"""Accuracy and fidelity against what they cost, as plots."""

from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from expedite.evaluate.results import Results
from expedite.evaluate.series import Series, series_of
from expedite.evaluate.sweep import Row
from expedite.evaluate.table import Measure, front_of, main_measures, place

COSTS = {"gflops": "GFLOPs", "fps": "FPS"}
# Okabe and Ito's colours, distinct to every kind of colour vision; then the same with other marks.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKS = "o" * len(_COLOURS) + "s" * len(_COLOURS) + "^" * len(_COLOURS)


def plot(results: Results, cost: str) -> Figure:
    """Accuracy and fidelity, as measured, against "gflops" or "fps", with the Pareto front.

    Colours tell methods apart where there are several, and else values of α; a line joins what
    differs in the number of clusters alone.
    """
    shown = main_measures(results)
    figure = Figure(figsize=(5.2 * max(1, len(shown)), 3.8), layout="constrained")
    for index, measure in enumerate(shown):
        _draw(figure.add_subplot(1, len(shown), index + 1), results, cost, measure)
    return figure


def _draw(axes: Axes, results: Results, cost: str, measure: Measure) -> None:
    rows = [row for row in results.rows if measure.of(row) is not None]
    styles = zip(cycle(_COLOURS), cycle(_MARKS), strict=False)
    for one, (colour, mark) in zip(series_of(results), styles, strict=False):
        _draw_series(axes, one, cost, measure, colour, mark)
    if base := [row for row in rows if row.plan is None]:
        points = _points(base, cost, measure)
        axes.plot(*zip(*points, strict=True), "k*", markersize=10, label="unpatched")
    front = _points(front_of(rows, cost, measure), cost, measure)
    axes.plot(*zip(*front, strict=True), "-", color="#8794a5", zorder=0)
    axes.set_xlabel(COSTS[cost])
    axes.set_ylabel(f"{measure.title} (%)" if measure.metric.percent else measure.title)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)


def _draw_series(
    axes: Axes, one: Series, cost: str, measure: Measure, colour: str, mark: str
) -> None:
    for index, strand in enumerate(one.strands):
        rows = [row for row in strand if measure.of(row) is not None]
        points = _points(rows, cost, measure)
        xs, ys = [x for x, _ in points], [y for _, y in points]
        name = one.name if index == 0 else "_more"  # which legends leave out
        axes.plot(xs, ys, f"{mark}-", color=colour, linewidth=1, label=name)
        for row, point in zip(rows, points, strict=True):
            _annotate(axes, place(row), point, colour)


def _annotate(axes: Axes, text: str, point: tuple[float, float], colour: str) -> None:
    axes.annotate(text, point, textcoords="offset points", xytext=(5, -9), fontsize=7, color=colour)


def _points(rows: list[Row], cost: str, measure: Measure) -> list[tuple[float, float]]:
    values = [(getattr(row, cost), measure.shown(row)) for row in rows]
    return [(at, value) for at, value in values if value is not None]
