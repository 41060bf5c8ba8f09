"""Accuracy and fidelity against what they cost, as plots."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from expedite.evaluate.results import Results, flat
from expedite.evaluate.sweep import Row
from expedite.evaluate.table import Measure, front_of, label, main_measures

COSTS = {"gflops": "GFLOPs", "fps": "FPS"}
# Okabe and Ito's colours, distinct to every kind of colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def plot(results: Results, cost: str) -> Figure:
    """Accuracy and fidelity, as measured, against "gflops" or "fps", with the Pareto front."""
    shown = main_measures(results)
    figure = Figure(figsize=(5.2 * max(1, len(shown)), 3.8), layout="constrained")
    for index, measure in enumerate(shown):
        _draw(figure.add_subplot(1, len(shown), index + 1), results.rows, cost, measure)
    return figure


def _draw(axes: Axes, rows: list[Row], cost: str, measure: Measure) -> None:
    rows = [row for row in rows if measure.of(row) is not None]
    alphas = sorted({flat(row)["alpha"] for row in rows if row.plan})
    for index, alpha in enumerate(alphas):
        members = [row for row in rows if row.plan and flat(row)["alpha"] == alpha]
        colour = _COLOURS[index % len(_COLOURS)]
        points = _points(members, cost, measure)
        axes.plot(*zip(*points, strict=True), "o", color=colour, label=f"α = {alpha}")
        for row, point in zip(members, points, strict=True):
            axes.annotate(
                label(row).split(" ", 1)[1],
                point,
                textcoords="offset points",
                xytext=(5, -9),
                fontsize=7,
                color=colour,
            )
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


def _points(rows: list[Row], cost: str, measure: Measure) -> list[tuple[float, float]]:
    scale = 100 if measure.metric.percent else 1
    values = [(row, measure.of(row)) for row in rows]
    return [(getattr(row, cost), scale * value) for row, value in values if value is not None]
