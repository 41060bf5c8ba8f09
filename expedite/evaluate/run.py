"""A sweep from start to end: measure, show live, save after every row, go on where one stopped."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from expedite.evaluate.datasets import Samples
from expedite.evaluate.mode import PLAIN, Job, Mode
from expedite.evaluate.plans import unique
from expedite.evaluate.ranks import ALONE, Ranks
from expedite.evaluate.results import Results, check_writable, load_results
from expedite.evaluate.sweep import Row, Sweep
from expedite.evaluate.table import terminal_table
from expedite.evaluate.tasks.base import Task
from expedite.loading import LoadedModel

RANDOM_WEIGHTS = (
    "The weights are random, so no accuracy or fidelity is given: an untrained model makes every "
    "method look free."
)
COMPILED = (
    "Where a row says compile, its speed and memory are those of the compiled model, and the "
    "unpatched one that it is timed against is compiled too; answers come from the same model not "
    "compiled."
)


_COLUMNS = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())


@dataclass(frozen=True)
class Request:
    """What a sweep measures and where; `identity` tells two sweeps apart."""

    loaded: LoadedModel
    task: Task[Any]
    samples: Samples
    jobs: Sequence[Job]
    out: Path
    identity: dict[str, Any]
    command: str
    device: torch.device
    seconds: float = 2.0
    ranks: Ranks = ALONE


def run_sweep(request: Request, console: Console) -> Results:
    """Measure every plan that the folder does not hold yet, saving each row once it is there.

    Every rank runs this and returns the same; the first alone reads and writes the folder.

    Args:
        request: What to measure.
        console: Where a table and progress bars are shown while it runs.
    """
    ranks = request.ranks
    results = ranks.first(lambda: load_results(request.out, request.identity, request.task.name))
    results.command = request.command
    missing = [job for job in unique(request.jobs) if not results.has(job)]
    modes = unique(job.mode for job in request.jobs)
    progress = Progress(*_COLUMNS, console=console)
    bases = sum(results.base_of(mode) is None for mode in modes)
    plans = progress.add_task("plans", total=len(missing) + bases)
    images = progress.add_task("images", total=len(ranks.shard(len(request.samples))))
    sweeps = _sweeps(request, modes, lambda done, total: progress.update(images, completed=done))
    first = next(sweeps)
    ranks.each(lambda: first.check(unique(job.plan for job in missing)))
    ranks.first(lambda: check_writable(request.out))
    with Live(console=console, get_renderable=lambda: Group(terminal_table(results), progress)):
        for row in _measure_missing(chain([first], sweeps), results, missing):
            results.rows.append(row)
            results.notes = _notes(request, results.rows)
            ranks.first(lambda: results.save(request.out))
            progress.advance(plans)
    # Also where nothing was missing but the table for spreadsheets.
    ranks.first(lambda: results.save(request.out))
    return results


def _sweeps(
    request: Request, modes: Sequence[Mode], on_image: Callable[[int, int], None]
) -> Iterator[Sweep]:
    for mode in modes:
        loaded = request.loaded
        if len(modes) > 1:  # going to another dtype and back would round the weights
            loaded = replace(loaded, model=deepcopy(loaded.model))
        yield _sweep(request, loaded, mode, on_image)


def _sweep(
    request: Request, loaded: LoadedModel, mode: Mode, on_image: Callable[[int, int], None]
) -> Sweep:
    return request.ranks.each(
        lambda: Sweep(
            loaded,
            request.task,
            request.samples,
            device=request.device,
            mode=mode,
            seconds=request.seconds,
            ranks=request.ranks,
            on_image=on_image,
        )
    )


def _measure_missing(
    sweeps: Iterable[Sweep], results: Results, missing: Sequence[Job]
) -> Iterator[Row]:
    for sweep in sweeps:
        results.add_setting(sweep.setting())
        base = results.base_of(sweep.mode)
        if base is None:
            base = sweep.measure_base()
            yield base
        for plan, mode in missing:
            if mode == sweep.mode:
                yield sweep.measure(plan, base)


def _notes(request: Request, rows: Sequence[Row]) -> list[str]:
    notes = request.task.notes() if request.loaded.trained else [RANDOM_WEIGHTS]
    compiled = [COMPILED] if any(row.compile != PLAIN for row in rows) else []
    left_out = sorted({name for row in rows for name in row.unsupported_ops})
    uncounted = [f"Not counted in GFLOPs: {', '.join(left_out)}."] if left_out else []
    return notes + compiled + uncounted
