"""`expedite export`: a model, patched or not, as one file for other runtimes."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expedite.cli.options import (
    Alpha,
    AsJson,
    Beta,
    Checkpoint,
    Classes,
    Clusters,
    ImageSize,
    Keep,
    Method,
    Model,
    ReconstructAt,
    Settings,
    image_size_of,
    images_for,
    optional_plan,
    show,
    working_on,
)
from expedite.exporting.formats import FORMATS, check_format

if TYPE_CHECKING:
    from expedite.exporting.exporting import Export


def export_command(
    model: Model,
    out: Annotated[Path, typer.Option(help="The file; what is there is replaced.")],
    file_format: Annotated[
        str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")
    ] = "onnx",
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
    """Write a model as one file, patched where --alpha says so, and compare the two."""
    plan = optional_plan(alpha, clusters, keep, beta, method, reconstruct_at, settings)
    size, form = image_size_of(image_size), check_format(file_format)
    with working_on(f"loading {model}") as status:
        from expedite.exporting.exporting import export
        from expedite.loading import load_model
        from expedite.patching import patch

        loaded = load_model(model, size, classes, checkpoint)
        if plan is not None:
            patch(loaded.model, plan)
        found = export(loaded.model, images_for(loaded), out, form, on_step=status.step)
    files = {"path": str(found.path), "data": found.data and str(found.data)}
    content = {
        "model": model,
        "plan": asdict(plan) if plan else None,
        "image_size": list(loaded.image_size),
        **asdict(found),
        **files,
    }
    show(content, [_text(found)], as_json)


def _text(found: "Export") -> str:
    opset = f", opset {found.opset}" if found.opset else ""
    lines = [f"{found.path}: {_megabytes(found.path)}{opset}, any batch; {_outputs(found)}"]
    if found.data is not None:
        lines.append(
            f"{found.data}: {_megabytes(found.data)} of weights; keep the two side by side"
        )
    lines += [f"against PyTorch, {difference}" for difference in found.differences]
    if found.usual is not None:
        lines.append(f"where it is not told, the runtime takes {found.usual} on this machine")
    lines.append(f"(the tolerance is {found.tolerance:.1g} of the largest value)")
    return "\n".join(lines)


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"


def _outputs(found: "Export") -> str:
    return f"images → {', '.join(found.outputs)}"
