"""`expedite sweep`: every combination of settings, measured on a folder of images."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expedite.cli.asked_plans import AskedPlans
from expedite.cli.options import (
    AsJson,
    Beta,
    Checkpoint,
    Classes,
    Device,
    ImageSize,
    Model,
    ReconstructAt,
    Seconds,
    command_line,
    find_device,
    image_size_of,
    show,
    working_on,
)
from expedite.errors import ExpediteError
from expedite.evaluate.comparators import METHODS
from expedite.evaluate.ranks import Ranks, joined
from expedite.measure.mode import COMPILE_MODES, DTYPES, PLAIN
from expedite.terminal.console import write
from expedite.terminal.table import Listing
from expedite.version import __version__

if TYPE_CHECKING:
    from rich.console import Console

    from expedite.evaluate.results import Results
    from expedite.evaluate.run import Request
    from expedite.terminal.status import Status


def sweep_command(
    model: Model,
    data: Annotated[
        Path,
        typer.Option(help="Folder with images/SPLIT and annotations/SPLIT, or a published layout."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for results, plots and the report.")],
    alpha: Annotated[
        str | None, typer.Option(help="One or more, as in 4,6; 4+8 is a plan of two spans.")
    ] = None,
    clusters: Annotated[
        str | None, typer.Option(help="One or more, as in 16,20,15x52; 20+14 for two spans.")
    ] = None,
    keep: Annotated[str | None, typer.Option(help="Instead of clusters, as in 0.25,0.5.")] = None,
    beta: Beta = None,
    method: Annotated[
        str, typer.Option(help=f"One or more of {', '.join(METHODS)}, between commas.")
    ] = "expedite",
    reconstruct_at: ReconstructAt = "backbone",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Another setting of the plans, NAME=VALUE or NAME=A,B; may be repeated."
        ),
    ] = None,
    plans: Annotated[
        Path | None, typer.Option(help="A YAML file that lists plans, in place of the above.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="What to measure of a model that answers several tasks.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which split of the data.")] = "val",
    limit: Annotated[int | None, typer.Option(help="How many images, spread over all.")] = None,
    ignore_index: Annotated[
        int | None, typer.Option(help="The label that does not count; default: the data set's.")
    ] = None,
    reduce_zero_label: Annotated[
        bool, typer.Option(help="Label 0 does not count and classes begin at 1, as in ADE20K.")
    ] = False,
    depth_scale: Annotated[
        float | None, typer.Option(help="What a metre is in depth PNGs; default 1000, KITTI's 256.")
    ] = None,
    max_depth: Annotated[
        float | None, typer.Option(help="Metres that depth counts up to; default: the data set's.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse what cannot be read of COCO's objects.")
    ] = False,
    multi_scale: Annotated[
        bool,
        typer.Option("--multi-scale", help="Average over six sizes and mirror images."),
    ] = False,
    checkpoint: Checkpoint = None,
    image_size: ImageSize = None,
    classes: Classes = None,
    device: Device = "auto",
    dtype: Annotated[
        str, typer.Option(help=f"One or more of {', '.join(DTYPES)}, between commas.")
    ] = "float32",
    compile_modes: Annotated[
        str,
        typer.Option("--compile", help=f"One or more of {', '.join(COMPILE_MODES)}."),
    ] = PLAIN,
    seconds: Seconds = 2.0,
    as_json: AsJson = False,
) -> None:
    """Measure plans of one or several methods, and write a table, plots and a report.

    A sweep that was stopped goes on where it was: rows in --out are not measured again. A recipe's
    own plans are measured where none are given. `torchrun --nproc-per-node N -m expedite sweep ...`
    shares the images out among N processes, each with a GPU of its own where there are any.
    """
    typed = (alpha, clusters, keep, beta, method, reconstruct_at, settings, dtype, compile_modes)

    def request(ranks: Ranks) -> "Request":
        import torch

        from expedite.cli.asked_task import for_task, task_from, truth_rule
        from expedite.data.layouts import open_data
        from expedite.evaluate.run import Request
        from expedite.loading import load_model
        from expedite.loading.fingerprint import digests_of_calibrations, fingerprint

        torch.manual_seed(0)  # of random weights
        loaded = for_task(load_model(model, size, classes, checkpoint), task, multi_scale)
        measured = task_from(loaded, max_depth)
        rule = truth_rule(loaded, measured, ignore_index, reduce_zero_label, depth_scale)
        samples = open_data(data, split, measured.name, rule, limit, strict)
        measured = measured.on(samples.rule)
        identity = {
            "expedite": __version__,
            "model": model,
            "checkpoint": checkpoint and str(checkpoint),
            **fingerprint(loaded, model),
            "image_size": list(loaded.image_size),
            "data": str(data),
            "split": split,
            "images": len(samples),
            "files": samples.fingerprint(),
            "rule": asdict(rule) if rule else None,
            "protocol": measured.protocol(),
            **digests_of_calibrations(job.plan for job in jobs),
            "device": device,
        }
        return Request(
            loaded=loaded,
            task=measured,
            samples=samples,
            jobs=jobs,
            out=out,
            identity=identity,
            command=command_line(),
            device=find_device(device, ranks.local),
            seconds=seconds,
            ranks=ranks,
            notes=samples.notes(),
        )

    with joined() as ranks:
        jobs = ranks.each(lambda: AskedPlans(plans, *typed).jobs(model))
        size = ranks.each(lambda: image_size_of(image_size))
        with working_on(f"loading {model}", quiet=not ranks.is_first) as status:
            asked = ranks.each(lambda: request(ranks))
            write(status.console, *asked.notes)
            results, page = _measured(asked, status)
        if ranks.is_first:
            show(_summary(results, page), _told(results, page), as_json)


def _measured(request: "Request", status: "Status") -> "tuple[Results, Path]":
    """What a sweep measures, written into its folder with pictures and the report."""
    from expedite.evaluate.run import run_sweep
    from expedite.report.report import Section, write_report

    results = run_sweep(request, status)

    def write_all() -> Path:
        status.step("drawing what plans do to the first image")
        _draw(request, results, status.console)
        status.step("writing the report")
        return write_report(request.out, [Section(results, request.out)])

    return results, request.ranks.first(write_all)


def _draw(request: "Request", results: "Results", console: "Console") -> None:
    """Draw what the best plan of each method does to the first image."""
    from expedite.evaluate.recommend import best_by_method
    from expedite.evaluate.visualize import visualize

    if not request.loaded.trained:
        return
    sample = request.samples[0]
    for method, plan in best_by_method(results).items():
        try:
            views = visualize(request.loaded, plan, sample.image, sample.name)
        except ExpediteError as error:  # what was measured is not to be lost for a picture
            write(console, f"no picture of {method}: {error}")
            continue
        views.write(request.out / f"picture_{method}.png")


def _told(results: "Results", page: Path) -> list[str | Listing]:
    from expedite.evaluate.recommend import code, recommend, verdict
    from expedite.evaluate.table import terminal_table

    best = recommend(results)
    return [
        terminal_table(results),
        verdict(results),
        *([code(best.plan)] if best and best.plan else []),
        f"written: {page}, report.md, results.csv and results.json beside it",
    ]


def _summary(results: "Results", page: Path) -> dict[str, Any]:
    from expedite.evaluate.recommend import code, recommend, verdict
    from expedite.evaluate.results import flat

    best = recommend(results)
    return {
        "report": str(page),
        "setting": results.setting,
        "rows": [flat(row) for row in results.rows],
        "recommended": flat(best) if best else None,
        "code": code(best.plan) if best and best.plan else None,
        "verdict": verdict(results),
    }
