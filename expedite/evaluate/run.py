"""A sweep from start to end: measure, show live, save after every row, go on where one stopped."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from expedite.evaluate.datasets import Samples
from expedite.evaluate.plans import unique
from expedite.evaluate.results import Results, load_results
from expedite.evaluate.speed import setting
from expedite.evaluate.sweep import Row, Sweep
from expedite.evaluate.table import terminal_table
from expedite.evaluate.tasks.base import Task
from expedite.loading import LoadedModel
from expedite.plan import Plan

RANDOM_WEIGHTS = (
    "The weights are random, so no accuracy or fidelity is given: an untrained model makes every "
    "method look free."
)


@dataclass(frozen=True)
class Request:
    """What a sweep measures and where; `identity` tells two sweeps apart."""

    loaded: LoadedModel
    task: Task[Any]
    samples: Samples
    plans: Sequence[Plan]
    out: Path
    identity: dict[str, Any]
    command: str
    device: torch.device
    dtype: torch.dtype = torch.float32
    seconds: float = 2.0


def run_sweep(request: Request, console: Console) -> Results:
    """Measure every plan that the folder does not hold yet, saving each row once it is there.

    Args:
        request: What to measure.
        console: Where a table and progress bars are shown while it runs.
    """
    results = load_results(request.out, request.identity, request.task.name)
    results.command = request.command
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console)
    missing = sum(not results.has(plan) for plan in unique(iter(request.plans)))
    plans = progress.add_task("plans", total=missing + (results.base is None))
    images = progress.add_task("images", total=len(request.samples))
    sweep = Sweep(
        request.loaded,
        request.task,
        request.samples,
        device=request.device,
        dtype=request.dtype,
        seconds=request.seconds,
        on_image=lambda done, total: progress.update(images, completed=done, total=total),
    )
    sweep.check([plan for plan in request.plans if not results.has(plan)])
    results.setting = str(setting(sweep.model, sweep.images))
    with Live(console=console, get_renderable=lambda: Group(terminal_table(results), progress)):
        for row in _measure_missing(sweep, results, request.plans):
            results.rows.append(row)
            results.notes = _notes(request, results.rows)
            results.save(request.out)
            progress.advance(plans)
    results.save(request.out)  # also where nothing was missing but the table for spreadsheets
    return results


def _measure_missing(sweep: Sweep, results: Results, plans: Sequence[Plan]) -> Iterator[Row]:
    if results.base is None:
        yield sweep.measure_base()
    for plan in plans:
        if not results.has(plan):
            assert results.base is not None  # measured before any plan
            yield sweep.measure(plan, results.base)


def _notes(request: Request, rows: Sequence[Row]) -> list[str]:
    notes = request.task.notes() if request.loaded.trained else [RANDOM_WEIGHTS]
    left_out = sorted({name for row in rows for name in row.unsupported_ops})
    return notes + ([f"Not counted in GFLOPs: {', '.join(left_out)}."] if left_out else [])
