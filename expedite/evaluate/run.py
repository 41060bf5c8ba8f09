"""A sweep from start to end: measure, show live, save after every row, go on where one stopped."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from expedite.data.datasets import Samples
from expedite.evaluate.exclusive import exclusive
from expedite.evaluate.plans import unique
from expedite.evaluate.progress import SweepProgress
from expedite.evaluate.ranks import ALONE, Ranks
from expedite.evaluate.results import Results, load_results
from expedite.evaluate.sweep import Row, Sweep
from expedite.evaluate.table import label, terminal_table
from expedite.evaluate.tasks.base import Task
from expedite.loading import LoadedModel
from expedite.measure.environment import environment, going_on
from expedite.measure.mode import PLAIN, Job, Mode
from expedite.terminal.console import write
from expedite.terminal.status import Status

RANDOM_WEIGHTS = (
    "The weights are random, so no accuracy or fidelity is given: an untrained model makes every "
    "method look free."
)
COMPILED = (
    "Where a row says compile, its speed and memory are those of the compiled model, and the "
    "unpatched one that it is timed against is compiled too; answers come from the same model not "
    "compiled."
)


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
    notes: Sequence[str] = ()  # on what was left out of the samples


def run_sweep(request: Request, status: Status) -> Results:
    """Measure every plan that the folder does not hold yet, saving each row once it is there.

    Every rank runs this and returns the same; the first alone reads and writes the folder.

    Args:
        request: What to measure.
        status: What says how far it is.
    """
    with _alone(request):
        return _run(request, status)


@contextmanager
def _alone(request: Request) -> Iterator[None]:
    """Other sweeps stay out of the folder, whose rows they would write over."""
    with ExitStack() as stack:
        request.ranks.first(lambda: stack.enter_context(exclusive(request.out)))
        yield


def _run(request: Request, status: Status) -> Results:
    ranks = request.ranks
    results = ranks.first(lambda: load_results(request.out, request.identity, request.task.name))
    results.command = request.command
    missing = [job for job in unique(request.jobs) if not results.has(job)]
    modes = unique(job.mode for job in request.jobs)
    bases = sum(results.base_of(mode) is None for mode in modes)
    progress = SweepProgress(status, len(missing) + bases, len(ranks.shard(len(request.samples))))
    sweeps = _sweeps(request, modes, progress.on_image)
    status.step("trying every plan on one image")
    first = next(sweeps)
    ranks.each(lambda: first.check(unique(job.plan for job in missing)))
    with (
        _said_where_it_stops(request.out, status),
        progress.shown(partial(terminal_table, results)),
    ):
        for row in _measure_missing(chain([first], sweeps), results, missing, progress.on_start):
            results.rows.append(row)
            results.notes = _notes(request, results.rows)
            ranks.first(lambda: results.save(request.out))
            progress.on_plan()
    # Also where nothing was missing but the table for spreadsheets.
    ranks.first(lambda: results.save(request.out))
    return results


@contextmanager
def _said_where_it_stops(out: Path, status: Status) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        text = f"stopped: what was measured is in {out}, and the same command goes on from there"
        write(status.console, text)
        raise


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
    sweeps: Iterable[Sweep],
    results: Results,
    missing: Sequence[Job],
    on_start: Callable[[str], None],
) -> Iterator[Row]:
    for sweep in sweeps:
        base = results.base_of(sweep.mode)
        plans = [plan for plan, mode in missing if mode == sweep.mode]
        if base is not None and not plans:
            continue
        under = sweep.setting()
        results.add_setting(str(under))
        results.environment = going_on(results.environment, environment(under))
        if base is None:
            on_start(f"unpatched {sweep.mode}".strip())
            base = sweep.measure_base()
            yield base
        for plan in plans:
            on_start(label(replace(base, plan=plan)))
            yield sweep.measure(plan, base)


def _notes(request: Request, rows: Sequence[Row]) -> list[str]:
    notes = request.task.notes() if request.loaded.trained else [RANDOM_WEIGHTS]
    compiled = [COMPILED] if any(row.compile != PLAIN for row in rows) else []
    left_out = sorted({name for row in rows for name in row.unsupported_ops})
    uncounted = [f"Not counted in GFLOPs: {', '.join(left_out)}."] if left_out else []
    of_rows = dict.fromkeys(note for row in rows for note in row.notes)
    return [*notes, *request.notes, *of_rows, *compiled, *uncounted, *_broken(rows)]


def _broken(rows: Sequence[Row]) -> list[str]:
    """Which rows have figures that are no numbers."""
    names = [label(row) for row in rows if row.is_broken]
    if not names:
        return []
    return [f"Some figures are no numbers (nan), so nothing is said for: {', '.join(names)}."]
