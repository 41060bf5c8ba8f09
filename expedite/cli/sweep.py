"""`expedite sweep`: every combination of settings, measured on a folder of images."""

from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from expedite.cli.options import (
    Beta,
    Checkpoint,
    Classes,
    Device,
    Dtype,
    ImageSize,
    Method,
    Model,
    ReconstructAt,
    Seconds,
    Settings,
    command_line,
    find_device,
    find_dtype,
    parse,
    parse_list,
    parse_size,
    parse_sizes,
    plan_from,
)
from expedite.errors import ExpediteError
from expedite.evaluate.datasets import open_folder
from expedite.evaluate.report import Section, write_report
from expedite.evaluate.run import Request, run_sweep
from expedite.evaluate.tasks import task_of
from expedite.evaluate.tasks.base import Task
from expedite.evaluate.tasks.classes import Segmentation
from expedite.evaluate.tasks.depth import Depth
from expedite.evaluate.truths import LABEL_RULES, DepthRule, LabelRule, TruthRule
from expedite.loading import LoadedModel, load_model
from expedite.version import __version__


def sweep_command(
    model: Model,
    data: Annotated[
        Path, typer.Option(help="Folder with images/SPLIT and annotations/SPLIT or depth/SPLIT.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for results, plots and the report.")],
    alpha: Annotated[str, typer.Option(help="One or more, as in 4,6.")],
    clusters: Annotated[str | None, typer.Option(help="One or more, as in 16,20,15x52.")] = None,
    keep: Annotated[str | None, typer.Option(help="Instead of clusters, as in 0.25,0.5.")] = None,
    beta: Beta = None,
    method: Method = "expedite",
    reconstruct_at: ReconstructAt = "backbone",
    settings: Settings = None,
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
) -> None:
    """Measure every combination of alpha and clusters, and write a table, plots and a report."""
    loaded = load_model(model, parse_size(image_size), classes, checkpoint)
    task = _task(loaded, max_depth)
    rule = _truth_rule(loaded, task, ignore_index, reduce_zero_label, depth_scale)
    samples = open_folder(data, split, rule, limit)
    plans = [
        plan_from(parse(int, a), size, share, beta, method, reconstruct_at, settings)
        for a, (size, share) in product(parse_list(alpha), parse_sizes(clusters, keep))
    ]
    request = Request(
        loaded=loaded,
        task=task,
        samples=samples,
        plans=plans,
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
            "protocol": task.protocol(),
            "device": device,
            "dtype": dtype,
        },
        command=command_line(),
        device=find_device(device),
        dtype=find_dtype(dtype),
        seconds=seconds,
    )
    console = Console()
    results = run_sweep(request, console)
    page = write_report(out, [Section(results, out)])
    console.print(f"written: {page}, results.csv and results.json beside it")


def _task(loaded: LoadedModel, max_depth: float | None) -> Task[Any]:
    task = task_of(loaded)
    if max_depth is None:
        return task
    if not isinstance(task, Depth) or not task.metric:
        raise ExpediteError(f"--max-depth was given; '{loaded.name}' gives no depth in metres")
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
    if isinstance(task, Depth) and task.metric:
        return DepthRule() if depth_scale is None else DepthRule(depth_scale)
    if not isinstance(task, Segmentation):
        return None
    known = LABEL_RULES.get(loaded.dataset, LabelRule())
    return LabelRule(
        known.ignore_index if ignore_index is None else ignore_index,
        reduce_zero or known.reduce_zero_label,
    )
