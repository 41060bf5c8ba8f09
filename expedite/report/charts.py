"""Plots as a page draws them: where points, lines and ticks lie in an SVG, and which rows they are.

What they show is as in `plot`; colours and marks are the page's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite

from matplotlib.ticker import MaxNLocator

from expedite.evaluate.results import Results
from expedite.evaluate.series import series_of
from expedite.evaluate.sweep import Row
from expedite.evaluate.table import Measure, front_of, main_measures
from expedite.report.plot import COSTS

_PAD = 0.06  # of the range, around the points
_TICKS = 5
# How many colours and marks the page has.
_COLOURS, _MARKS = 8, 5


@dataclass(frozen=True)
class Frame:
    """The pixels of an SVG, and the area in it between the axes."""

    width: int = 460
    height: int = 320
    left: int = 74
    right: int = 446
    top: int = 14
    bottom: int = 274


FRAME = Frame()


@dataclass(frozen=True)
class Point:
    """A row at a place of the plot."""

    x: float
    y: float
    row: int  # its index among the results' rows


@dataclass(frozen=True)
class Line:
    """One series: its points, the lines through them, and how it is drawn."""

    name: str
    style: int
    points: tuple[Point, ...]
    paths: tuple[str, ...]  # "x,y x,y ..." of each strand

    @property
    def colour(self) -> int:
        """Which colour of the page's it has."""
        return self.style % _COLOURS

    @property
    def mark(self) -> int:
        """Which mark; a colour that comes back has another."""
        return self.style % _MARKS


@dataclass(frozen=True)
class Tick:
    """A labelled place along an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A plot of a measure against a cost, in the pixels of `FRAME`."""

    title: str
    x_title: str
    y_title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    bases: tuple[Point, ...]  # the unpatched model, in every mode
    front: str


def charts_of(results: Results) -> list[Chart]:
    """A plot of each main measure against each cost; none where nothing was measured."""
    found = (_chart(results, cost, measure) for measure in main_measures(results) for cost in COSTS)
    return [chart for chart in found if chart is not None]


def _chart(results: Results, cost: str, measure: Measure) -> Chart | None:
    places = {
        index: (getattr(row, cost), _value(row, measure)) for index, row in enumerate(results.rows)
    }
    places = {index: place for index, place in places.items() if all(map(isfinite, place))}
    if not places:
        return None
    x = _Axis.around([x for x, _ in places.values()], FRAME.left, FRAME.right)
    y = _Axis.around([y for _, y in places.values()], FRAME.bottom, FRAME.top)
    index = {id(row): number for number, row in enumerate(results.rows)}

    def points(rows: Iterable[Row]) -> tuple[Point, ...]:
        numbers = [index[id(row)] for row in rows if index[id(row)] in places]
        return tuple(Point(x.at(places[n][0]), y.at(places[n][1]), n) for n in numbers)

    lines = tuple(
        Line(one.name, style, points(one.rows), tuple(_path(points(s)) for s in one.strands))
        for style, one in enumerate(series_of(results))
    )
    shown = [results.rows[number] for number in places]
    return Chart(
        title=f"{measure.title} against {COSTS[cost]}",
        x_title=COSTS[cost],
        y_title=measure.header,
        x_ticks=x.ticks(),
        y_ticks=y.ticks(),
        lines=tuple(line for line in lines if line.points),
        bases=points(row for row in shown if row.plan is None),
        front=_path(points(front_of(shown, cost, measure))),
    )


def _value(row: Row, measure: Measure) -> float:
    value = measure.shown(row)
    return float("nan") if value is None else value


def _path(points: Sequence[Point]) -> str:
    return " ".join(f"{point.x:.1f},{point.y:.1f}" for point in points)


@dataclass(frozen=True)
class _Axis:
    """Values from `low` to `high`, laid out between two pixels."""

    low: float
    high: float
    first: float
    last: float

    @classmethod
    def around(cls, values: Sequence[float], first: float, last: float) -> "_Axis":
        low, high = min(values), max(values)
        pad = _PAD * (high - low) or _PAD * abs(high) or 1.0
        return cls(low - pad, high + pad, first, last)

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.first + share * (self.last - self.first), 1)

    def ticks(self) -> tuple[Tick, ...]:
        found = MaxNLocator(_TICKS, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        inside = [value for value in map(float, found) if self.low <= value <= self.high]
        return tuple(Tick(self.at(value), f"{value:.6g}") for value in inside)
