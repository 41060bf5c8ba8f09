"""Rows as tables: which columns a task has, their texts, and the table in the terminal."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from expedite.evaluate.results import Results, flat
from expedite.evaluate.sweep import Row
from expedite.evaluate.tasks import TASKS
from expedite.evaluate.tasks.base import Metric
from expedite.terminal.table import Column, Listing

_NARROW = ("tokens", "quartiles")  # left out where there are 80 characters
_MOST_MEASURES = 4  # and so are measures beyond these


@dataclass(frozen=True)
class Measure:
    """A metric against labels ("metrics") or against the unpatched model ("fidelity").

    Example:
        >>> row = Row(None, tokens=1, of_tokens=1, metrics={"miou": 0.5})
        >>> measure = Measure("mIoU", Metric("miou", "mIoU", percent=True), "metrics")
        >>> measure.of(row), measure.shown(row), measure.header, measure.text(row)
        (0.5, 50.0, 'mIoU %', '50.00')
    """

    title: str
    metric: Metric
    source: Literal["metrics", "fidelity"]

    def of(self, row: Row) -> float | None:
        """What was measured; None where nothing was."""
        values: dict[str, float] = getattr(row, self.source)
        return values.get(self.metric.name)

    def shown(self, row: Row) -> float | None:
        """The same in the unit of the header."""
        value = self.of(row)
        return None if value is None else self.metric.shown(value)

    @property
    def header(self) -> str:
        """The title with its unit."""
        return f"{self.title} %" if self.metric.percent else self.title

    def text(self, row: Row) -> str:
        """The value as tables show it, empty where there is none."""
        value = self.of(row)
        return "" if value is None else self.metric.text(value)


def measures(results: Results) -> list[Measure]:
    """What tables show of accuracy and then of fidelity, as far as it was measured."""
    task = TASKS[results.task]
    shown = task.metrics[: task.shown]
    named = [metric for metric in shown if not metric.detail]
    alone = named[0] if len(named) == 1 else None
    accuracy = [Measure(metric.title, metric, "metrics") for metric in shown]
    fidelity = [
        # Alone it needs no name: it is what the task means by fidelity.
        Measure("fidelity" if metric == alone else f"fidelity {metric.title}", metric, "fidelity")
        for metric in shown
    ]
    return [m for m in accuracy + fidelity if any(m.of(row) is not None for row in results.rows)]


def main_measures(results: Results) -> list[Measure]:
    """The task's first metric, against labels and against the unpatched model, where measured."""
    first = TASKS[results.task].metrics[0]
    return [measure for measure in measures(results) if measure.metric == first]


def columns(results: Results, narrow: bool = False) -> dict[str, Callable[[Row], str]]:
    """The headers of a table, with what makes each cell; columns without any value are left out.

    Args:
        results: What the table is of.
        narrow: Whether it is to fit into 80 characters.
    """

    def share(row: Row) -> str:
        base = results.base_of(row.mode)
        return f"{row.gflops / base.gflops:.0%}" if base and base.gflops else ""

    costs: dict[str, Callable[[Row], str]] = {
        "plan": label,
        "tokens": lambda row: f"{row.tokens / row.of_tokens:.0%}",
        "GFLOPs": lambda row: f"{row.gflops:.2f}",
        "of base": share,
        "FPS": lambda row: f"{row.fps:.2f}",
        "speed-up": lambda row: f"{row.speedup:.2f}",
        "quartiles": lambda row: f"{row.speedup_lower:.2f} to {row.speedup_upper:.2f}",
        "memory MB": lambda row: f"{row.memory_mb:.1f}",
    }
    if not narrow:
        return costs | _accuracies(results)
    kept = list(_accuracies(results, narrow=True).items())[:_MOST_MEASURES]
    return {name: text for name, text in costs.items() if name not in _NARROW} | dict(kept)


def terminal_table(results: Results) -> Listing:
    """The rows as a table for the terminal."""
    shown = columns(results, narrow=True)
    # One word a line, or the columns of depth would not fit into 80 characters.
    titles = [Column(name.replace(" ", "\n"), right=name != "plan") for name in shown]
    table = Listing(titles, title=str(results.request.get("model", "")))
    front = pareto_front(results)
    for row in results.rows:
        table.add(*(text(row) for text in shown.values()), bold=row in front)
    return table


def pareto_front(results: Results) -> list[Row]:
    """Rows that no other beats in both GFLOPs and accuracy, by rising GFLOPs.

    Accuracy is the task's first metric against labels, or else against the unpatched model.
    """
    mains = main_measures(results)
    return front_of(results.rows, "gflops", mains[0]) if mains else []


def front_of(rows: list[Row], cost: str, measure: Measure) -> list[Row]:
    """Rows that none beats in both: fewer "gflops" (or more "fps") and a better measure."""
    sign = -1 if cost == "fps" else 1
    better = -1 if measure.metric.lower_is_better else 1
    ranked = [
        (sign * getattr(row, cost), -better * value, row)
        for row in rows
        if (value := measure.of(row)) is not None and isfinite(value)
    ]
    front: list[tuple[float, float, Row]] = []
    for point in sorted(ranked, key=lambda point: point[:2]):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return [row for _, _, row in front]


def label(row: Row) -> str:
    """A plan in a few characters: its method unless that is expedite's own, α, size and settings.

    Behind these stands its mode, unless that is float32 and not compiled.

    Example:
        >>> from expedite.evaluate.comparators import plan_of
        >>> label(Row(plan_of("expedite", 4, 20), tokens=400, of_tokens=1600))
        'α4 20x20'
        >>> label(Row(plan_of("tome", 4, keep=0.25, log_mass=False), tokens=400, of_tokens=1600))
        'tome α4 keep 0.25 log_mass=False'
    """
    if row.plan is None:
        return f"unpatched {row.mode}".strip()
    plan = flat(row)
    method, *settings = plan["method"].split(" ")
    shown = [] if method == "expedite" else [method]
    return " ".join([*shown, place(row), *settings, str(row.mode)]).strip()


def place(row: Row) -> str:
    """Where a plan's spans begin and how many clusters they have, in a few characters."""
    plan = flat(row)
    beta = f"β{plan['beta']} " if plan["beta"].strip("+") else ""
    return f"α{plan['alpha']} {beta}{plan['clusters'] or 'keep ' + plan['keep']}"


def _accuracies(results: Results, narrow: bool = False) -> dict[str, Callable[[Row], str]]:
    found = [measure for measure in measures(results) if not (narrow and measure.metric.detail)]
    retention = {
        "retention %": lambda row: "" if row.retention is None else f"{100 * row.retention:.2f}"
    }
    accuracy, fidelity = (
        {measure.header: measure.text for measure in found if measure.source == source}
        for source in ("metrics", "fidelity")
    )
    return {**accuracy, **(retention if accuracy else {}), **fidelity}
