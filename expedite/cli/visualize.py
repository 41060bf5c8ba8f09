"""`expedite visualize`: pictures of what a plan does to one image."""

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
    Dtype,
    ImageSize,
    Method,
    Model,
    ReconstructAt,
    Settings,
    find_device,
    image_size_of,
    show,
    working_on,
)
from expedite.errors import ExpediteError
from expedite.measure.mode import PLAIN

if TYPE_CHECKING:
    from expedite.data.images import Image
    from expedite.evaluate.visualize import Views


def visualize_command(
    model: Model,
    image: Annotated[
        Path | None, typer.Argument(help="An image; without one, a generated scene.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="A .png file, or a folder for each picture by itself too.")
    ] = Path("visualize.png"),
    alpha: Annotated[
        str | None, typer.Option(help="Blocks at full resolution first; 4+8 for two spans.")
    ] = None,
    clusters: Annotated[
        str | None, typer.Option(help="The cluster grid: 28, or 15x52; 20+14 for two spans.")
    ] = None,
    keep: Annotated[str | None, typer.Option(help="Instead of clusters: share to keep.")] = None,
    beta: Beta = None,
    method: Method = "expedite",
    reconstruct_at: ReconstructAt = "backbone",
    settings: Settings = None,
    task: Annotated[
        str | None, typer.Option(help="What to draw of a model that answers several tasks.")
    ] = None,
    checkpoint: Checkpoint = None,
    image_size: ImageSize = None,
    classes: Classes = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    as_json: AsJson = False,
) -> None:
    """Draw clusters, where reconstruction errs, and predictions before and after."""
    typed = (alpha, clusters, keep, beta, method, reconstruct_at, settings, dtype, PLAIN)
    jobs = AskedPlans(None, *typed).jobs(model)
    if len(jobs) != 1:
        raise ExpediteError(f"{len(jobs)} plans were asked; pictures are of one")
    plan, mode = jobs[0]
    size = image_size_of(image_size)
    with working_on(f"loading {model}") as status:
        import torch

        from expedite.cli.asked_task import for_task
        from expedite.evaluate.run import RANDOM_WEIGHTS
        from expedite.evaluate.visualize import is_file, visualize
        from expedite.loading import load_model

        is_file(out)  # or nothing could be written in the end
        pixels, name = _read(image)
        torch.manual_seed(0)  # of random weights
        loaded = load_model(model, size, classes, checkpoint)
        loaded = for_task(loaded, task, multi_scale=False)
        loaded.model.to(find_device(device), mode.torch_dtype)
        status.step("running both models and drawing")
        views = visualize(loaded, plan, pixels, name)
        written = views.write(out)
    spans, notes = _spans(views), [] if loaded.trained else [RANDOM_WEIGHTS]
    content = {
        "model": model,
        "image": name,
        "plan": asdict(plan),
        "spans": spans,
        "notes": notes,
        "written": [str(path) for path in written],
    }
    text = [*map(_line, spans), *notes, f"look at {written[0]}"]
    show(content, text, as_json)


def _read(path: Path | None) -> "tuple[Image, str]":
    from expedite.data.image_files import read_rgb
    from expedite.evaluate.demo import PICTURED, unseen_scene

    if path is None:
        return unseen_scene(PICTURED).image, "a generated scene"
    return read_rgb(path), path.name


def _spans(views: "Views") -> list[dict[str, Any]]:
    return [
        {
            "blocks": [span.first, span.last],
            "grid": span.grid,
            "clusters": span.clusters,
            "mean_error": None if span.error is None else float(span.error.mean()),
        }
        for span in views.spans
    ]


def _line(span: dict[str, Any]) -> str:
    first, last = span["blocks"]
    where = f"blocks {first} to {last}"
    if span["clusters"] is not None:
        where += " run on {}×{} clusters of {}×{} tokens".format(*span["clusters"], *span["grid"])
    if span["mean_error"] is None:
        return where
    return f"{where}; tokens behind them are {span['mean_error']:.1%} off on average"
