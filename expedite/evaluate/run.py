"""A sweep from start to end: measure, show live, save after every row, go on where one stopped."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from expedite.evaluate.datasets import Samples
from expedite.evaluate.environment import environment, going_on
from expedite.evaluate.plans import unique
from expedite.evaluate.progress import SweepProgress
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
    missing = sum(not results.has(plan) for plan in unique(iter(request.plans)))
    progress = SweepProgress(console, missing + (results.base is None), len(request.samples))
    sweep = Sweep(
        request.loaded,
        request.task,
        request.samples,
        device=request.device,
        dtype=request.dtype,
        seconds=request.seconds,
        on_image=progress.on_image,
    )
    sweep.check([plan for plan in request.plans if not results.has(plan)])
    under = setting(sweep.model, sweep.images)
    results.setting = str(under)
    now = environment(under)
    with (
        _said_where_it_stops(request.out, console),
        progress.shown(partial(terminal_table, results)),
    ):
        for row in _measure_missing(sweep, results, request.plans):
            results.rows.append(row)
            results.notes = _notes(request, results.rows)
            results.environment = going_on(results.environment, now)
            results.save(request.out)
            progress.on_plan()
    results.save(request.out)  # also where nothing was missing but the table for spreadsheets
    return results


@contextmanager
def _said_where_it_stops(out: Path, console: Console) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        text = f"stopped: what was measured is in {out}, and the same command goes on from there"
        console.print(text, markup=False, soft_wrap=True)
        raise


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
