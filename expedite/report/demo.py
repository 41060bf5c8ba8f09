"""The demo: shipped models swept over generated scenes, with nothing to download."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from expedite.evaluate.demo import PICTURED, unseen_scenes
from expedite.evaluate.recommend import recommend
from expedite.evaluate.results import Results
from expedite.evaluate.run import Request, run_sweep
from expedite.evaluate.sweep import Row
from expedite.evaluate.table import label, terminal_table
from expedite.evaluate.tasks import TASKS, task_of
from expedite.evaluate.visualize import visualize
from expedite.loading import load_model
from expedite.loading.fingerprint import fingerprint
from expedite.measure.mode import jobs_of
from expedite.plan import Plan, make_plan
from expedite.report.report import Section, write_report
from expedite.terminal.status import Status
from expedite.terminal.table import Listing
from expedite.version import __version__


@dataclass(frozen=True)
class Instrument:
    """A shipped model and what is measured of it; both see images as 32×48 tokens.

    Args:
        folder: Below the demo's, for its results.
        spec: As `load_model` takes it.
        plans: α and the clusters of each.
    """

    folder: str
    spec: str
    plans: Sequence[tuple[int, tuple[int, int]]]


_INSTRUMENTS = [
    Instrument(
        "segmentation",
        "demo:segmenter",
        [(2, (16, 24)), (2, (18, 27)), (2, (20, 30)), (3, (16, 24)), (3, (20, 30))],
    ),
    Instrument("depth", "demo:dpt", [(2, (16, 24)), (2, (20, 30)), (3, (20, 30))]),
]


@dataclass(frozen=True)
class Demo:
    """What the demo comes to.

    Args:
        page: The report.
        told: A table and a sentence for each model.
    """

    page: Path
    told: Sequence[str | Listing]


def run_demo(out: Path, count: int, seconds: float, status: Status, command: str) -> Demo:
    """Sweep the shipped models on `count` unseen scenes and write report, plots and pictures.

    Args:
        out: Folder for everything that is written.
        count: How many scenes.
        seconds: How long to time each plan.
        status: What says how far it is.
        command: What repeats it.
    """
    status.step(f"drawing {count} scenes")
    samples = unseen_scenes(count)
    sections = []
    told: list[str | Listing] = []
    for instrument in _INSTRUMENTS:
        status.step(f"loading {instrument.spec}")
        loaded = load_model(instrument.spec)
        request = Request(
            loaded=loaded,
            task=task_of(loaded),
            samples=samples,
            jobs=jobs_of(make_plan(alpha, clusters) for alpha, clusters in instrument.plans),
            out=out / instrument.folder,
            identity={
                "expedite": __version__,
                "model": loaded.name,
                **fingerprint(loaded, instrument.spec),
                "scenes": count,
            },
            command=command,
            device=torch.device("cpu"),
            seconds=seconds,
        )
        results = run_sweep(request, status)
        told += [terminal_table(results), f"{_verdict(results)}\n"]
        status.step("drawing a picture")
        _draw(request, results)
        sections.append(Section(results, request.out))
    status.step("writing the report")
    return Demo(write_report(out, sections), told)


def _draw(request: Request, results: Results) -> None:
    sample = request.samples[PICTURED % len(request.samples)]
    views = visualize(request.loaded, _best(results)[1], sample.image, sample.name)
    views.write(request.out / "picture.png")


def _verdict(results: Results) -> str:
    best, metric = _best(results)[0], TASKS[results.task].metrics[0]
    return (
        f"{label(best)} is {best.speedup:.2f} times as fast at a retention of "
        f"{best.retention:.1%} in {metric.title}"
    )


def _best(results: Results) -> tuple[Row, Plan]:
    best = recommend(results, least_speedup=0.0)
    assert best is not None and best.plan is not None  # there are plans
    return best, best.plan
