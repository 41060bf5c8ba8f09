"""`expedite sweep`: every combination of settings, measured on a folder of images."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from expedite.cli.asked_plans import AskedPlans
from expedite.cli.asked_task import for_task, task_from, truth_rule
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
)
from expedite.data.layouts import open_data
from expedite.errors import ExpediteError
from expedite.evaluate.comparators import METHODS
from expedite.evaluate.json_text import json_text
from expedite.evaluate.ranks import Ranks, joined
from expedite.evaluate.recommend import best_by_method, code, recommend, verdict
from expedite.evaluate.results import Results, flat
from expedite.evaluate.run import Request, run_sweep
from expedite.evaluate.visualize import visualize
from expedite.loading import load_model
from expedite.loading.fingerprint import fingerprint
from expedite.measure.mode import COMPILE_MODES, DTYPES, PLAIN
from expedite.report.report import Section, write_report
from expedite.version import __version__


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

    def request(ranks: Ranks) -> Request:
        torch.manual_seed(0)  # of random weights
        jobs = AskedPlans(plans, *typed).jobs(model)
        size = image_size_of(image_size)
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
        console = Console(stderr=as_json, quiet=not ranks.is_first)
        asked = ranks.each(lambda: request(ranks))
        for note in asked.notes:
            console.print(note, markup=False, soft_wrap=True)
        results = run_sweep(asked, console)
        ranks.first(lambda: _tell(asked, results, console, as_json))


def _tell(request: Request, results: Results, console: Console, as_json: bool) -> None:
    _draw(request, results, console)
    out = request.out
    page = write_report(out, [Section(results, out)])
    if as_json:
        typer.echo(json_text(_summary(results, page)))
        return
    console.print(verdict(results))
    if (best := recommend(results)) and best.plan:
        console.print(code(best.plan), markup=False, soft_wrap=True)
    console.print(f"written: {page}, report.md, results.csv and results.json beside it")


def _draw(request: Request, results: Results, console: Console) -> None:
    """Draw what the best plan of each method does to the first image."""
    if not request.loaded.trained:
        return
    sample = request.samples[0]
    for method, plan in best_by_method(results).items():
        try:
            views = visualize(request.loaded, plan, sample.image, sample.name)
        except ExpediteError as error:  # what was measured is not to be lost for a picture
            console.print(f"no picture of {method}: {error}", markup=False, soft_wrap=True)
            continue
        views.write(request.out / f"picture_{method}.png")


def _summary(results: Results, page: Path) -> dict[str, Any]:
    best = recommend(results)
    return {
        "report": str(page),
        "setting": results.setting,
        "rows": [flat(row) for row in results.rows],
        "recommended": flat(best) if best else None,
        "code": code(best.plan) if best and best.plan else None,
        "verdict": verdict(results),
    }
