"""What commands have in common: their options, values read from text, and how they answer.

Options are read without PyTorch: help and refusals are not to wait for it. What needs it is
imported in the function that does.
"""

import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expedite.errors import ExpediteError
from expedite.evaluate.comparators import METHODS, plan_of
from expedite.evaluate.json_text import json_text
from expedite.evaluate.plans import parse_size
from expedite.models import descriptions
from expedite.plan import Plan
from expedite.terminal.console import make_console, write
from expedite.terminal.status import Status
from expedite.terminal.table import Listing

if TYPE_CHECKING:
    import torch

    from expedite.loading import LoadedModel

# Settings of a plan with an option of their own, which --set must not contradict.
_PLAN_OPTIONS = ("alpha", "beta", "clusters", "keep", "method", "reconstruct_at")


Model = Annotated[
    str,
    typer.Argument(
        help="segmenter:FILE, dpt:FILE, sam:FILE, mask2former:FILE, swin:FILE, vit_adapter:FILE, "
        "hf:FOLDER, FILE.py:FACTORY, demo:segmenter or demo:dpt; with random weights, or those of "
        "--checkpoint: a recipe, segmenter:BACKBONE, dpt:VARIANT, sam:VARIANT, "
        "mask2former:VARIANT, swin:VARIANT, vit_adapter:VARIANT, timm:NAME or torchvision:NAME"
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
Method = Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")]
ReconstructAt = Annotated[str, typer.Option(help="backbone, or head where it works by token.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Another setting of the plan, NAME=VALUE; may be repeated."),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps; auto takes a GPU where there is one.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Seconds = Annotated[float, typer.Option(help="How long to time each plan.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def show(content: dict[str, Any], parts: Sequence[str | Listing], as_json: bool) -> None:
    """Print one JSON object, or paragraphs and tables."""
    if as_json:
        print_json(content)
    else:
        write(make_console(), *parts)


def print_json(content: dict[str, Any]) -> None:
    """Print one JSON object, in characters that every encoding has."""
    typer.echo(json_text(content))


def working_on(step: str, quiet: bool = False) -> Status:
    """Says on standard error what a command is doing, from its first step on."""
    return Status(make_console(stderr=True, quiet=quiet), step)


def images_for(loaded: "LoadedModel") -> "torch.Tensor":
    """An image of the model's size, (1, 3, H, W)."""
    import torch

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
    """One plan from the options that say one; None where none do."""
    if alpha is None and method != "downsample":  # which has no blocks before it
        others = [clusters, keep, beta, settings or None, exit_at(reconstruct_at) or None]
        if method != "expedite" or any(other is not None for other in others):
            raise ExpediteError("a plan was asked without --alpha, the block after which it begins")
        return None
    size = None if clusters is None else parse_size(clusters)
    values = {name: parse_yaml(name, text) for name, text in assignments(settings)}
    values |= exit_at(reconstruct_at)
    return plan_of(method, alpha or 0, size, keep=keep, beta=beta, **values)


def exit_at(reconstruct_at: str) -> dict[str, Any]:
    """The setting, where it is not what plans have by themselves: not every method has an exit."""
    return {} if reconstruct_at == "backbone" else {"reconstruct_at": reconstruct_at}


def assignments(settings: Sequence[str] | None) -> Iterator[tuple[str, str]]:
    """Names and values of --set, read no further."""
    seen: set[str] = set()
    for assignment in settings or []:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ExpediteError(f"--set {assignment} was asked; the form is NAME=VALUE")
        if name in _PLAN_OPTIONS:
            option = name.replace("_", "-")
            raise ExpediteError(f"--set {assignment} was asked; {name} is given by --{option}")
        if name in seen:
            raise ExpediteError(f"--set {name} was given twice; {name}=A,B sweeps over two values")
        seen.add(name)
        yield name, value


def parse_yaml(name: str, value: str) -> Any:
    """The value of a setting."""
    return descriptions.parse_yaml(value, f"--set {name}={value} was asked; its value")


def image_size_of(text: str | None) -> tuple[int, int] | None:
    """Pixels as `plans.parse_size` reads them; None where none were given."""
    return None if text is None else parse_size(text)


def parse_list(text: str) -> list[str]:
    """Values between commas."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ExpediteError(f"the list '{text}' was given; values between single commas are due")
    return parts


def find_device(name: str, local: int = 0) -> "torch.device":
    """The device by its name; auto takes a GPU where there is one.

    Args:
        name: As PyTorch calls it, or auto.
        local: Which GPU to take where the name does not say it.
    """
    import torch

    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        name = found.type if found else "cpu"
    try:
        device = torch.device(name)
        if device.index is None and device.type not in ("cpu", "mps", "meta"):
            device = torch.device(device.type, local)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        which = f" number {local}" if local else ""
        raise ExpediteError(
            f"the device '{name}'{which} was asked and cannot be used: {reason}"
        ) from error
    return device


def command_line() -> str:
    """What was typed."""
    return shlex.join(["expedite", *sys.argv[1:]])
