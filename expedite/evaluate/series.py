"""Rows of a sweep as the lines of a plot: one series a method, or one an α where there is one."""

from dataclasses import dataclass
from typing import Any

from expedite.evaluate.comparators import method_of
from expedite.evaluate.results import Results
from expedite.evaluate.sweep import Row
from expedite.plan import Plan


@dataclass(frozen=True)
class Series:
    """Rows that a plot shows in one colour.

    Args:
        name: The method with its settings, or α where all rows are of one method.
        strands: Rows whose spans begin and end at the same blocks, by rising GFLOPs: a line each.
    """

    name: str
    strands: tuple[tuple[Row, ...], ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """All of its rows."""
        return tuple(row for strand in self.strands for row in strand)


def series_of(results: Results) -> list[Series]:
    """The rows of plans in series, methods in the order of the sweep, αs in their own.

    Each mode has its own, see `mode.Mode`.

    Example:
        >>> from expedite.evaluate.comparators import plan_of
        >>> plans = [plan_of("pool", 2, 20), plan_of("pool", 4, 14), plan_of("expedite", 2, 14)]
        >>> rows = [Row(plan, tokens=1, of_tokens=1) for plan in plans]
        >>> [(one.name, len(one.strands)) for one in series_of(Results({}, "depth", rows=rows))]
        [('pool', 2), ('expedite', 1)]
    """
    rows = [row for row in results.rows if row.plan]
    one_method = len({method_of(_plan(row)) for row in rows}) == 1
    if one_method:
        rows.sort(key=_alphas)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        alphas = "+".join(map(str, _alphas(row)))
        name = f"α = {alphas}" if one_method else method_of(_plan(row))
        groups.setdefault(f"{name} {row.mode}".strip(), []).append(row)
    return [Series(name, _strands(members)) for name, members in groups.items()]


def _strands(rows: list[Row]) -> tuple[tuple[Row, ...], ...]:
    strands: dict[Any, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.gflops):
        blocks = tuple((span.alpha, span.beta) for span in _plan(row).spans)
        strands.setdefault(blocks, []).append(row)
    return tuple(map(tuple, strands.values()))


def _alphas(row: Row) -> tuple[int, ...]:
    return tuple(span.alpha for span in _plan(row).spans)


def _plan(row: Row) -> Plan:
    assert row.plan is not None  # rows of the unpatched model are in no series
    return row.plan
