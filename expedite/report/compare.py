"""Two sweeps against each other: what changed for the plans that both measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment

from expedite.errors import ExpediteError
from expedite.evaluate.results import Results
from expedite.evaluate.sweep import Row
from expedite.evaluate.table import label, measures
from expedite.report.notes import title
from expedite.terminal.table import Column, Listing


@dataclass(frozen=True)
class Comparison:
    """Rows of two sweeps by their plans.

    Args:
        first: One sweep.
        second: The other, of the same task.
        pairs: Rows of the same plan in both.
        differing: What was asked otherwise: the model, the device, ...
        environment: What it was measured with otherwise: the versions of libraries, ...
    """

    first: Results
    second: Results
    pairs: tuple[tuple[Row, Row], ...]
    differing: tuple[str, ...]
    environment: tuple[str, ...]

    @property
    def alone(self) -> tuple[list[Row], list[Row]]:
        """Rows that only one of the two has."""
        paired = {id(row) for pair in self.pairs for row in pair}
        one, two = (
            [row for row in found.rows if id(row) not in paired]
            for found in (self.first, self.second)
        )
        return one, two


def compare(first: Results, second: Results) -> Comparison:
    """Pair the rows of two sweeps.

    Raises:
        ExpediteError: They are of different tasks, or have no plan in common.
    """
    if first.task != second.task:
        raise ExpediteError(
            f"a sweep for {first.task} was given with one for {second.task}; two of one task can "
            "be compared"
        )
    others = {(row.plan, row.mode): row for row in second.rows}
    keyed = [((row.plan, row.mode), row) for row in first.rows]
    pairs = tuple((row, others[key]) for key, row in keyed if key in others)
    if not pairs:
        raise ExpediteError("the two sweeps have no plan in common, so nothing can be compared")
    differing = _differing(first.request, second.request)
    is_known = first.environment and second.environment  # older files say nothing of it
    environment = _differing(first.environment, second.environment) if is_known else ()
    return Comparison(first, second, pairs, differing, environment)


def _differing(one: Mapping[str, Any], two: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for name in dict.fromkeys([*one, *two]) if one.get(name) != two.get(name))


def comparison_table(comparison: Comparison) -> Listing:
    """The pairs as a table for the terminal: each figure before, after and how much it changed."""
    # FPS of two runs drift too far to stand side by side.
    figures = {name: of for name, of in _figures(comparison).items() if name != "FPS"}
    table = Listing([Column("plan"), *(Column(name, right=True) for name in figures)])
    for one, two in comparison.pairs:
        table.add(label(one), *(_change(of(one), of(two)) for of in figures.values()))
    return table


def comparison_notes(comparison: Comparison) -> list[str]:
    """Sentences that belong under the table."""
    notes = [
        f"{name}: {comparison.first.request.get(name)} → {comparison.second.request.get(name)}"
        for name in comparison.differing
    ]
    one, two = comparison.first.environment, comparison.second.environment
    notes += [
        f"{name}: {one.get(name)} → {two.get(name)}"
        for name in comparison.environment
        if name.replace(" ", "_") not in comparison.differing
    ]
    for which, rows in zip(("first", "second"), comparison.alone, strict=True):
        if rows:
            notes.append(f"only in the {which}: {', '.join(map(label, rows))}")
    return [*notes, "A speed-up is the median over pairs timed in turn within its own run."]


def comparison_page(comparison: Comparison) -> str:
    """The same table and notes as a page that stands alone, as HTML."""
    table = comparison_table(comparison)
    assets = files("expedite") / "assets"
    source = (assets / "compare.html").read_text(encoding="utf-8")
    return (
        Environment(autoescape=True, trim_blocks=True)
        .from_string(source)
        .render(
            first=title(comparison.first),
            second=title(comparison.second),
            columns=[column.title for column in table.columns],
            rows=[row.cells for row in table.rows],
            notes=comparison_notes(comparison),
            style=(assets / "report.css").read_text(encoding="utf-8"),
        )
    )


def comparison_content(comparison: Comparison) -> dict[str, Any]:
    """The same for machines."""
    figures = _figures(comparison)
    return {
        "task": comparison.first.task,
        "differing": {
            name: [comparison.first.request.get(name), comparison.second.request.get(name)]
            for name in comparison.differing
        },
        "environment": {
            name: [comparison.first.environment.get(name), comparison.second.environment.get(name)]
            for name in comparison.environment
        },
        "rows": [
            {"plan": label(one), **{name: [of(one), of(two)] for name, of in figures.items()}}
            for one, two in comparison.pairs
        ],
        "only_in_first": [label(row) for row in comparison.alone[0]],
        "only_in_second": [label(row) for row in comparison.alone[1]],
    }


def _figures(comparison: Comparison) -> dict[str, Callable[[Row], float | None]]:
    shown = {measure.header: measure for measure in measures(comparison.first)}
    shown |= {measure.header: measure for measure in measures(comparison.second)}
    costs: dict[str, Callable[[Row], float | None]] = {
        "GFLOPs": lambda row: row.gflops,
        "FPS": lambda row: row.fps,
        "speed-up": lambda row: row.speedup,
        "memory MB": lambda row: row.memory_mb,
    }
    return costs | {name: measure.shown for name, measure in shown.items()}


def _change(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return " → ".join("" if value is None else f"{value:.3g}" for value in (before, after))
    return f"{before:.2f} → {after:.2f}\n{after - before:+.2f}"
