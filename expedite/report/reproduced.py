"""A published table beside the same rows as they were measured here."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from expedite.errors import ExpediteError
from expedite.evaluate.results import Results
from expedite.evaluate.sweep import Row as Measured
from expedite.evaluate.table import place
from expedite.evaluate.tasks import TASKS
from expedite.measure.mode import Mode
from expedite.recipes import Recipe, Row
from expedite.terminal.table import Column, Listing

# What the metrics of recipes are called here.
_METRICS: Mapping[str, str] = MappingProxyType(
    {
        "mIoU %": "miou",
        "PQ": "pq",
        "mask AP": "mask_ap",
        "box AP": "box_ap",
        "RMSE m": "rmse",
        "top-1 %": "top1",
    }
)


@dataclass(frozen=True)
class Pair:
    """A published row with its measurement.

    Args:
        published: As printed.
        measured: Of the same plan; None where it was not measured.
        metric: The measured figure in the unit of the published one; None where there is none.
    """

    published: Row
    measured: Measured | None
    metric: float | None


def pairs(recipe: Recipe, results: Results) -> Iterator[Pair]:
    """Every published row of a recipe with what a sweep of it measured in float32, not compiled."""
    metrics = {metric.name: metric for metric in TASKS[results.task].metrics}
    metric = metrics.get(_METRICS.get(recipe.metric, ""))
    # The folder may have rows of other modes, from sweeps of the same model.
    by_plan = {row.plan: row for row in results.rows if row.mode == Mode()}
    for published in recipe.rows:
        found = by_plan.get(published.plan)
        value = found.metrics.get(metric.name) if found and metric else None
        shown = metric.shown(value) if metric and value is not None else None
        yield Pair(published, found, shown)


def reproduced_table(recipe: Recipe, results: Results) -> Listing:
    """Published and measured figures side by side, GFLOPs in multiply-adds."""
    columns = [f"{what}\n{whose}" for what in ("GFLOPs", "FPS") for whose in ("published", "here")]
    columns += [f"{recipe.metric or 'metric'}\n{whose}" for whose in ("published", "here")]
    table = Listing(
        [Column("plan"), *(Column(title, right=True) for title in columns)], title=recipe.name
    )
    for pair in pairs(recipe, results):
        row, found = pair.published, pair.measured
        counted = None if row.gflops is None else row.gflops / recipe.flops_per_multiply_add
        gflops, fps = (found.gflops, found.fps) if found else (None, None)
        values = (counted, gflops, row.fps, fps, row.metric, pair.metric)
        plan = "unpatched" if row.plan is None else place(Measured(row.plan, 0, 1))
        table.add(plan, *("-" if value is None else f"{value:.2f}" for value in values))
    return table


def reproduced_record(recipe: Recipe, results: Results) -> dict[str, Any]:
    """The same for a file that can be sent to others, with what it was measured on."""
    return {
        "recipe": recipe.name,
        "metric": recipe.metric,
        "flops_per_multiply_add": recipe.flops_per_multiply_add,
        "rows": [
            {
                "plan": asdict(pair.published.plan) if pair.published.plan else None,
                "published": {
                    name: getattr(pair.published, name) for name in ("gflops", "fps", "metric")
                },
                "measured": None if pair.measured is None else _measured(pair),
            }
            for pair in pairs(recipe, results)
        ],
        "request": results.request,
        "environment": results.environment,
        "setting": results.setting,
        "command": results.command,
    }


def _measured(pair: Pair) -> dict[str, Any]:
    found = pair.measured
    assert found is not None
    names = ("gflops", "fps", "speedup", "metrics", "fidelity", "retention")
    return {"metric": pair.metric, **{name: getattr(found, name) for name in names}}


def weights_name(recipe: Recipe) -> str:
    """What the recipe's published file of weights is called.

    Raises:
        ExpediteError: That is not known.
    """
    if not recipe.checkpoint:
        raise ExpediteError(
            f"'{recipe.name}' was to be reproduced, whose file of weights has no published name; "
            f"expedite sweep {recipe.name} --checkpoint FILE measures its rows"
        )
    return recipe.checkpoint
