"""What commands have in common: their options, and values read from text."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import typer
import yaml

from expedite.errors import ExpediteError
from expedite.loading import LoadedModel
from expedite.models.files import first_line
from expedite.plan import Plan, make_plan

# Settings of a plan with an option of their own, which --set must not contradict.
_PLAN_OPTIONS = ("alpha", "beta", "clusters", "keep", "method", "reconstruct_at")

Number = TypeVar("Number", int, float)


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


def show(content: dict[str, Any], text: str, as_json: bool) -> None:
    typer.echo(json.dumps(content, indent=2) if as_json else text)


def images_for(loaded: LoadedModel) -> torch.Tensor:
    return torch.zeros(1, 3, *loaded.image_size)


def optional_plan(
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
    size = None if clusters is None else parse_sizes(clusters, None)[0][0]
    return plan_from(alpha, size, keep, beta, method, reconstruct_at, settings)


def plan_from(
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


def parse_sizes(
    clusters: str | None, keep: str | None
) -> list[tuple[tuple[int, int] | None, float | None]]:
    """Cluster grids or shares to keep, as pairs of which one is None."""
    if clusters is not None:
        return [(parse_size(text), None) for text in parse_list(clusters)]
    if keep is None:
        raise ExpediteError("neither --clusters nor --keep was given; one of them is due")
    return [(None, parse(float, text)) for text in parse_list(keep)]


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Turn 640 into (640, 640), and 352x1216 into (352, 1216)."""
    if text is None:
        return None
    sides = [parse(int, side) for side in text.lower().split("x")]
    if len(sides) > 2 or min(sides) < 1:
        raise ExpediteError(f"the size '{text}' was given; 28 or 15x52 (rows x columns) are sizes")
    return sides[0], sides[-1]


def parse_list(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ExpediteError(f"the list '{text}' was given; values between single commas are due")
    return parts


def parse(kind: type[Number], text: str) -> Number:
    try:
        return kind(text)
    except ValueError as error:
        raise ExpediteError(f"'{text}' was given where a number is due") from error


def find_device(name: str) -> torch.device:
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


def find_dtype(name: str) -> torch.dtype:
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in dtypes:
        raise ExpediteError(f"the dtype '{name}' was asked; {', '.join(dtypes)} are known")
    return dtypes[name]


def command_line() -> str:
    return shlex.join(["expedite", *sys.argv[1:]])
