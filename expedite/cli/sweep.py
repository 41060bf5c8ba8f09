"""`expedite sweep`: every combination of settings, measured on a folder of images."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from expedite.cli.options import (
    AsJson,
    Beta,
    Checkpoint,
    Classes,
    Device,
    Dtype,
    ImageSize,
    Model,
    ReconstructAt,
    Seconds,
    assignments,
    command_line,
    exit_at,
    find_device,
    find_dtype,
    image_size_of,
    parse_list,
    parse_yaml,
)
from expedite.errors import ExpediteError
from expedite.evaluate.comparators import METHODS
from expedite.evaluate.layouts import open_data
from expedite.evaluate.plans import Size, grid_of_plans, parse_number, parse_size, read_plans
from expedite.evaluate.recommend import best_by_method, code, recommend, verdict
from expedite.evaluate.report import Section, write_report
from expedite.evaluate.results import Results, flat
from expedite.evaluate.run import Request, run_sweep
from expedite.evaluate.tasks import TASKS, task_of
from expedite.evaluate.tasks.base import Task
from expedite.evaluate.tasks.classes import Segmentation
from expedite.evaluate.tasks.depth import Depth
from expedite.evaluate.truths import LABEL_RULES, DepthRule, LabelRule, TruthRule
from expedite.evaluate.visualize import visualize
from expedite.loading import LoadedModel, load_model
from expedite.plan import Plan
from expedite.version import __version__

Sizes = tuple[list[Size] | None, list[float] | None]


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
    checkpoint: Checkpoint = None,
    image_size: ImageSize = None,
    classes: Classes = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    seconds: Seconds = 2.0,
    as_json: AsJson = False,
) -> None:
    """Measure plans of one or several methods, and write a table, plots and a report.

    A sweep that was stopped goes on where it was: rows in --out are not measured again.
    """
    torch.manual_seed(0)  # of random weights
    loaded = for_task(load_model(model, image_size_of(image_size), classes, checkpoint), task)
    measured = _task(loaded, max_depth)
    rule = _truth_rule(loaded, measured, ignore_index, reduce_zero_label, depth_scale)
    samples = open_data(data, split, measured.name, rule, limit)
    measured = measured.on(samples.rule)
    listed = plans_from(plans, alpha, clusters, keep, beta, method, reconstruct_at, settings)
    request = Request(
        loaded=loaded,
        task=measured,
        samples=samples,
        plans=listed,
        out=out,
        identity={
            "expedite": __version__,
            "model": model,
            "checkpoint": checkpoint and str(checkpoint),
            "image_size": list(loaded.image_size),
            "data": str(data),
            "split": split,
            "images": len(samples),
            "rule": asdict(rule) if rule else None,
            "protocol": measured.protocol(),
            "device": device,
            "dtype": dtype,
        },
        command=command_line(),
        device=find_device(device),
        dtype=find_dtype(dtype),
        seconds=seconds,
    )
    console = Console(stderr=as_json)
    results = run_sweep(request, console)
    _draw(request, results, console)
    page = write_report(out, [Section(results, out)])
    if as_json:
        typer.echo(json.dumps(_summary(results, page), indent=2))
        return
    console.print(verdict(results))
    if (best := recommend(results)) and best.plan:
        console.print(code(best.plan), markup=False, soft_wrap=True)
    console.print(f"written: {page}, report.md, results.csv and results.json beside it")


def _draw(request: Request, results: Results, console: Console) -> None:
    """Draw what the best plan of each method does to the first image."""
    if not request.loaded.trained:
        return
    sample = next(iter(request.samples))
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


def plans_from(
    file: Path | None,
    alpha: str | None,
    clusters: str | None,
    keep: str | None,
    beta: int | None,
    method: str,
    reconstruct_at: str,
    settings: list[str] | None,
) -> list[Plan]:
    """The plans that options say, or that a file lists."""
    if file is not None:
        others = (alpha, clusters, keep, beta, settings, exit_at(reconstruct_at))
        if any(others) or method != "expedite":
            raise ExpediteError(f"--plans {file} was given with other plans; give one or the other")
        return read_plans(file)
    methods = parse_list(method)
    if alpha is None and methods != ["downsample"]:
        raise ExpediteError("neither --alpha nor --plans was given; one of them is due")
    alphas = [[parse_number(int, a) for a in text.split("+")] for text in parse_list(alpha or "0")]
    values = {name: [value] for name, value in exit_at(reconstruct_at).items()}
    for name, text in assignments(settings):
        values[name] = [parse_yaml(name, part) for part in text.split(",")]
    return grid_of_plans(methods, alphas, _sizes(clusters, keep), beta, values)


def _sizes(clusters: str | None, keep: str | None) -> list[Sizes]:
    """Cluster grids or shares to keep of the spans of each plan, as pairs of which one is None."""
    if clusters is not None:
        return [([*map(parse_size, text.split("+"))], None) for text in parse_list(clusters)]
    if keep is None:
        raise ExpediteError("neither --clusters nor --keep was given; one of them is due")
    return [
        (None, [parse_number(float, part) for part in text.split("+")]) for text in parse_list(keep)
    ]


def for_task(loaded: LoadedModel, task: str | None) -> LoadedModel:
    """The model with the task that was asked, if one was."""
    if task is None:
        return loaded
    if task not in TASKS:
        raise ExpediteError(f"the task '{task}' was asked; there are {', '.join(TASKS)}")
    return replace(loaded, task=TASKS[task].name)


def _task(loaded: LoadedModel, max_depth: float | None) -> Task[Any]:
    task = task_of(loaded)
    if max_depth is None:
        return task
    if not isinstance(task, Depth):
        raise ExpediteError(f"--max-depth was given; '{loaded.name}' gives no depth")
    return replace(task, maximum=max_depth)


def _truth_rule(
    loaded: LoadedModel,
    task: Task[Any],
    ignore_index: int | None,
    reduce_zero: bool,
    depth_scale: float | None,
) -> TruthRule | None:
    """How labels are stored that the task can be compared with; None where there are none."""
    of_task = {
        "--ignore-index": ("segmentation", ignore_index is not None),
        "--reduce-zero-label": ("segmentation", reduce_zero),
        "--depth-scale": ("depth", depth_scale is not None),
    }
    for option, (name, given) in of_task.items():
        if given and task.name != name:
            raise ExpediteError(f"{option} was given; '{loaded.name}' is for {task.name}")
    if isinstance(task, Depth):
        return DepthRule(depth_scale)
    if not isinstance(task, Segmentation):
        return None
    known = LABEL_RULES.get(loaded.dataset, LabelRule())
    return LabelRule(
        known.ignore_index if ignore_index is None else ignore_index,
        reduce_zero or known.reduce_zero_label,
    )
