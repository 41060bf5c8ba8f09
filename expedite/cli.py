"""The command line: sweep, demo, describe, flops, bench and recipes."""

import json
import os
import shlex
import sys
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import typer
import yaml
from rich.console import Console

from expedite.errors import ExpediteError
from expedite.evaluate.demo import run_demo
from expedite.evaluate.flops import FlopCount, count_flops
from expedite.evaluate.layouts import open_data
from expedite.evaluate.memory import peak_memory
from expedite.evaluate.recipes import (
    Check,
    check_recipe,
    check_table,
    recipes_table,
    rows_view,
)
from expedite.evaluate.report import Section, write_report
from expedite.evaluate.run import Request, run_sweep
from expedite.evaluate.speed import setting, time_pairs, twin
from expedite.evaluate.tasks import TASKS, task_of
from expedite.evaluate.tasks.base import Task
from expedite.evaluate.tasks.classes import Segmentation
from expedite.evaluate.tasks.depth import Depth
from expedite.evaluate.truths import LABEL_RULES, DepthRule, LabelRule, TruthRule
from expedite.loading import LoadedModel, load_model
from expedite.models.files import first_line
from expedite.patching import describe, grid_of, patch
from expedite.plan import Plan, make_plan
from expedite.recipes import RECIPES, Recipe, find_recipe
from expedite.version import __version__

# Settings of a plan with an option of their own, which --set must not contradict.
_PLAN_OPTIONS = ("alpha", "beta", "clusters", "keep", "method", "reconstruct_at")

Number = TypeVar("Number", int, float)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = Annotated[
    str,
    typer.Argument(
        help="segmenter:FILE, dpt:FILE, sam:FILE, hf:FOLDER or FILE.py:FACTORY; with random "
        "weights, or those of --checkpoint: a recipe, segmenter:BACKBONE, dpt:VARIANT, "
        "sam:VARIANT, timm:NAME or torchvision:NAME"
    ),
]
Checkpoint = Annotated[
    Path | None, typer.Option(help="A file of weights, for a MODEL that has random ones.")
]
ImageSize = Annotated[str | None, typer.Option(help="Pixels: 640, or 352x1216 (height x width).")]
Classes = Annotated[int | None, typer.Option(help="How many classes, where weights are random.")]
Alpha = Annotated[int | None, typer.Option(help="Blocks that run at full resolution first.")]
Beta = Annotated[int | None, typer.Option(help="Blocks that run on clusters; default: the rest.")]
Clusters = Annotated[str | None, typer.Option(help="The cluster grid: 28, or 15x52.")]
Keep = Annotated[float | None, typer.Option(help="Instead of clusters: share of tokens to keep.")]
Method = Annotated[str, typer.Option(help="expedite, or paper for the published operators.")]
ReconstructAt = Annotated[str, typer.Option(help="backbone, or head where it works by token.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Another setting of the plan, NAME=VALUE; may be repeated."),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps; auto takes a GPU where there is one.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Seconds = Annotated[float, typer.Option(help="How long to time each plan.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@app.callback(invoke_without_command=True)
def version_option(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Make trained vision transformers faster, with no training and no new weights."""
    if version:
        typer.echo(f"expedite {__version__}")
        raise typer.Exit


@app.command("sweep")
def sweep_command(
    model: Model,
    data: Annotated[
        Path,
        typer.Option(help="Folder with images/SPLIT and annotations/SPLIT, or a published layout."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for results, plots and the report.")],
    alpha: Annotated[str, typer.Option(help="One or more, as in 4,6.")],
    clusters: Annotated[str | None, typer.Option(help="One or more, as in 16,20,15x52.")] = None,
    keep: Annotated[str | None, typer.Option(help="Instead of clusters, as in 0.25,0.5.")] = None,
    beta: Beta = None,
    method: Method = "expedite",
    reconstruct_at: ReconstructAt = "backbone",
    settings: Settings = None,
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
) -> None:
    """Measure every combination of alpha and clusters, and write a table, plots and a report."""
    loaded = _for_task(load_model(model, _size(image_size), classes, checkpoint), task)
    measured = _task(loaded, max_depth)
    rule = _truth_rule(loaded, measured, ignore_index, reduce_zero_label, depth_scale)
    samples = open_data(data, split, measured.name, rule, limit)
    measured = measured.on(samples.rule)
    plans = [
        _plan(_parse(int, a), size, share, beta, method, reconstruct_at, settings)
        for a, (size, share) in product(_list(alpha), _sizes(clusters, keep))
    ]
    request = Request(
        loaded=loaded,
        task=measured,
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
            "protocol": measured.protocol(),
            "device": device,
            "dtype": dtype,
        },
        command=_command(),
        device=_device(device),
        dtype=_dtype(dtype),
        seconds=seconds,
    )
    console = Console()
    results = run_sweep(request, console)
    page = write_report(out, [Section(results, out)])
    console.print(f"written: {page}, results.csv and results.json beside it")


@app.command("describe")
def describe_command(
    model: Model,
    checkpoint: Checkpoint = None,
    image_size: ImageSize = None,
    classes: Classes = None,
    alpha: Alpha = None,
    clusters: Clusters = None,
    keep: Keep = None,
    beta: Beta = None,
    method: Method = "expedite",
    reconstruct_at: ReconstructAt = "backbone",
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Say what a model is to expedite, and what a plan would leave of its tokens."""
    loaded = load_model(model, _size(image_size), classes, checkpoint)
    if plan := _optional_plan(alpha, clusters, keep, beta, method, reconstruct_at, settings):
        patch(loaded.model, plan)
    found = describe(loaded.model, grid_of(loaded.model, _images(loaded)))
    _print({"model": model, **asdict(found)}, str(found), as_json)


@app.command("flops")
def flops_command(
    model: Model,
    checkpoint: Checkpoint = None,
    image_size: ImageSize = None,
    classes: Classes = None,
    alpha: Alpha = None,
    clusters: Clusters = None,
    keep: Keep = None,
    beta: Beta = None,
    method: Method = "expedite",
    reconstruct_at: ReconstructAt = "backbone",
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Count the GFLOPs (multiply-adds) of one image, unpatched and patched."""
    loaded = load_model(model, _size(image_size), classes, checkpoint)
    plan = _optional_plan(alpha, clusters, keep, beta, method, reconstruct_at, settings)
    images = _images(loaded)
    base = count_flops(loaded.model, images)
    patched = count_flops(patch(loaded.model, plan), images) if plan else None
    content = {
        "model": model,
        "image_size": list(loaded.image_size),
        "plan": asdict(plan) if plan else None,
        "gflops": _gflops(base, patched),
        "unsupported_ops": {**base.unsupported, **(patched.unsupported if patched else {})},
    }
    _print(content, _flops_text(content), as_json)


@app.command("bench")
def bench_command(
    model: Model,
    checkpoint: Checkpoint = None,
    image_size: ImageSize = None,
    classes: Classes = None,
    alpha: Alpha = None,
    clusters: Clusters = None,
    keep: Keep = None,
    beta: Beta = None,
    method: Method = "expedite",
    reconstruct_at: ReconstructAt = "backbone",
    settings: Settings = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images at once, beside one at a time.")
    ] = 8,
    device: Device = "auto",
    dtype: Dtype = "float32",
    seconds: Seconds = 5.0,
    as_json: AsJson = False,
) -> None:
    """Time one plan against the unpatched model, in turn, with its peak memory."""
    loaded = load_model(model, _size(image_size), classes, checkpoint)
    plan = _optional_plan(alpha, clusters, keep, beta, method, reconstruct_at, settings)
    if plan is None:
        raise ExpediteError("no alpha was given; a bench times a plan against the unpatched model")
    base = loaded.model.to(_device(device), _dtype(dtype))
    fast = patch(twin(base), plan)
    one = _images(loaded).to(_device(device), _dtype(dtype))
    many = one.expand(batch_size, -1, -1, -1)
    content = {
        "model": model,
        "plan": asdict(plan),
        "setting": asdict(setting(fast, one)),
        "latency": _bench(base, fast, one, seconds),
        "throughput": {"batch_size": batch_size, **_bench(base, fast, many, seconds)},
    }
    _print(content, _bench_text(content, str(setting(fast, one))), as_json)


@app.command("recipes")
def recipes_command(
    names: Annotated[list[str] | None, typer.Argument(help="Which; default: all.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Count the GFLOPs of every row with random weights.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the published settings, the rows of some, or check our GFLOPs against theirs."""
    recipes = [find_recipe(name) for name in names] if names else list(RECIPES.values())
    if check:
        _check_recipes(recipes, as_json)
    elif as_json:
        typer.echo(json.dumps({"recipes": [asdict(recipe) for recipe in recipes]}, indent=2))
    elif names:
        Console(soft_wrap=True).print(*map(rows_view, recipes), sep="\n")
    else:
        Console().print(recipes_table(recipes))


@app.command("demo")
def demo_command(
    out: Annotated[Path, typer.Option(help="Folder for the report and the picture.")] = Path(
        "demo"
    ),
    images: Annotated[int, typer.Option(help="How many scenes to measure on.")] = 24,
    seconds: Seconds = 1.0,
) -> None:
    """Sweep the shipped models on generated scenes: no download, two minutes on two cores."""
    run_demo(out, images, seconds, Console(), _command())


def main() -> None:
    """Run the command line; what cannot be done ends in one sentence and exit code 2."""
    # The profiler of a CUDA build complains on machines without a GPU.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    try:
        app()
    except (ExpediteError, OSError) as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", markup=False, highlight=False)
        sys.exit(2)


def _check_recipes(recipes: list[Recipe], as_json: bool) -> None:
    checks: list[Check] = []
    for recipe in recipes:
        found = list(check_recipe(recipe))
        checks += found
        if not as_json:
            Console().print(check_table(recipe, found))
    if as_json:
        content = [{**asdict(check), "fails": check.fails} for check in checks]
        typer.echo(json.dumps({"checks": content}, indent=2))
    if any(check.fails for check in checks):
        raise typer.Exit(1)


def _bench(
    base: torch.nn.Module, fast: torch.nn.Module, images: torch.Tensor, seconds: float
) -> dict[str, Any]:
    with torch.inference_mode():
        timing = time_pairs(
            lambda: base(images), lambda: fast(images), images.device, seconds=seconds
        )
        before = peak_memory(lambda: base(images), images.device)
        after = peak_memory(lambda: fast(images), images.device)
    return {
        "base_fps": len(images) / timing.first.median,
        "patched_fps": len(images) / timing.second.median,
        "speedup": timing.speedup.median,
        "speedup_quartiles": [timing.speedup.lower, timing.speedup.upper],
        "pairs": timing.speedup.runs,
        "base_memory_mb": before / 1e6,
        "patched_memory_mb": after / 1e6,
    }


def _bench_text(content: dict[str, Any], under: str) -> str:
    lines = [under]
    for title in ("latency", "throughput"):
        figures = content[title]
        batch = figures.get("batch_size", 1)
        lower, upper = figures["speedup_quartiles"]
        lines.append(
            f"batch {batch}: {figures['base_fps']:.2f} → {figures['patched_fps']:.2f} images/s, "
            f"speed-up {figures['speedup']:.2f} ({lower:.2f} to {upper:.2f} over "
            f"{figures['pairs']} pairs), peak memory {figures['base_memory_mb']:.1f} → "
            f"{figures['patched_memory_mb']:.1f} MB"
        )
    return "\n".join(lines)


def _gflops(base: FlopCount, patched: FlopCount | None) -> dict[str, float | None]:
    return {
        "base": base.total,
        "patched": patched.total if patched else None,
        "operators": patched.operators if patched else None,
        "ratio": patched.total / base.total if patched else None,
    }


def _flops_text(content: dict[str, Any]) -> str:
    gflops = content["gflops"]
    lines = [f"unpatched {gflops['base']:.1f} GFLOPs (multiply-adds)"]
    if gflops["patched"] is not None:
        lines.append(
            f"patched   {gflops['patched']:.1f} GFLOPs ({gflops['ratio']:.1%}), of which "
            f"{gflops['operators']:.1f} are clustering and reconstruction"
        )
    if content["unsupported_ops"]:
        lines.append(f"not counted: {', '.join(content['unsupported_ops'])}")
    return "\n".join(lines)


def _print(content: dict[str, Any], text: str, as_json: bool) -> None:
    typer.echo(json.dumps(content, indent=2) if as_json else text)


def _images(loaded: LoadedModel) -> torch.Tensor:
    return torch.zeros(1, 3, *loaded.image_size)


def _optional_plan(
    alpha: int | None,
    clusters: str | None,
    keep: float | None,
    beta: int | None,
    method: str,
    reconstruct_at: str,
    settings: list[str] | None,
) -> Plan | None:
    if alpha is None:
        if clusters is not None or keep is not None:
            raise ExpediteError("clusters were asked without --alpha; a plan needs both")
        return None
    size = None if clusters is None else _sizes(clusters, None)[0][0]
    return _plan(alpha, size, keep, beta, method, reconstruct_at, settings)


def _plan(
    alpha: int,
    clusters: int | tuple[int, int] | None,
    keep: float | None,
    beta: int | None,
    method: str,
    reconstruct_at: str,
    settings: list[str] | None,
) -> Plan:
    values: dict[str, Any] = {"reconstruct_at": reconstruct_at, "method": method}
    for assignment in settings or []:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ExpediteError(f"--set {assignment} was asked; the form is NAME=VALUE")
        if name in _PLAN_OPTIONS:
            option = name.replace("_", "-")
            raise ExpediteError(f"--set {assignment} was asked; {name} is given by --{option}")
        values[name] = _yaml(assignment, value)
    return make_plan(alpha, clusters, keep=keep, beta=beta, **values)


def _yaml(assignment: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except (yaml.YAMLError, ValueError) as error:  # the second of dates that there are not
        raise ExpediteError(
            f"--set {assignment} was asked; its value is not readable as YAML: {first_line(error)}"
        ) from error


def _sizes(
    clusters: str | None, keep: str | None
) -> list[tuple[tuple[int, int] | None, float | None]]:
    """Cluster grids or shares to keep, as pairs of which one is None."""
    if clusters is not None:
        return [(_size(text), None) for text in _list(clusters)]
    if keep is None:
        raise ExpediteError("neither --clusters nor --keep was given; one of them is due")
    return [(None, _parse(float, text)) for text in _list(keep)]


def _size(text: str | None) -> tuple[int, int] | None:
    """Turn 640 into (640, 640), and 352x1216 into (352, 1216)."""
    if text is None:
        return None
    sides = [_parse(int, side) for side in text.lower().split("x")]
    if len(sides) > 2 or min(sides) < 1:
        raise ExpediteError(f"the size '{text}' was given; 28 or 15x52 (rows x columns) are sizes")
    return sides[0], sides[-1]


def _list(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ExpediteError(f"the list '{text}' was given; values between single commas are due")
    return parts


def _parse(kind: type[Number], text: str) -> Number:
    try:
        return kind(text)
    except ValueError as error:
        raise ExpediteError(f"'{text}' was given where a number is due") from error


def _for_task(loaded: LoadedModel, task: str | None) -> LoadedModel:
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


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ExpediteError(
            f"the device '{name}' was asked and cannot be used: {reason}"
        ) from error
    return device


def _dtype(name: str) -> torch.dtype:
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in dtypes:
        raise ExpediteError(f"the dtype '{name}' was asked; {', '.join(dtypes)} are known")
    return dtypes[name]


def _command() -> str:
    return shlex.join(["expedite", *sys.argv[1:]])
