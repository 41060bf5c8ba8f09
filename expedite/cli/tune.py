"""`expedite tune`: the plan that meets a budget."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import nn

from expedite.cli.options import (
    AsJson,
    Checkpoint,
    Classes,
    Device,
    Dtype,
    ImageSize,
    Model,
    Seconds,
    find_device,
    find_dtype,
    image_size_of,
    images_for,
)
from expedite.data.datasets import open_folder
from expedite.errors import ExpediteError
from expedite.evaluate.json_text import json_text
from expedite.evaluate.predict import predict
from expedite.evaluate.recommend import code
from expedite.evaluate.tasks import task_of
from expedite.evaluate.tune import Bench, Budget, Search, Trial, Tuning
from expedite.loading import load_model
from expedite.measure.speed import setting


def tune_command(
    model: Model,
    images: Annotated[Path, typer.Option(help="A folder of images; no labels are needed.")],
    speedup: Annotated[
        float | None, typer.Option(help="At least so many times as fast, as alike as can be; or")
    ] = None,
    fidelity: Annotated[
        float | None, typer.Option(help="at least so alike, from 0 to 1, as fast as can be; or")
    ] = None,
    gflops: Annotated[float | None, typer.Option(help="at most so many GFLOPs.")] = None,
    split: Annotated[str, typer.Option(help="Which split, in a folder with images/SPLIT.")] = "val",
    limit: Annotated[int, typer.Option(help="How many images at most, spread over all.")] = 16,
    checkpoint: Checkpoint = None,
    image_size: ImageSize = None,
    classes: Classes = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    seconds: Seconds = 2.0,
    as_json: AsJson = False,
) -> None:
    """Find α and clusters that meet a budget with the highest fidelity, without labels."""
    budget = Budget(speedup, fidelity, gflops)
    loaded = load_model(model, image_size_of(image_size), classes, checkpoint)
    if not loaded.trained:
        raise ExpediteError(
            f"tuning of '{model}' was asked, whose weights are random: every plan looks free on "
            "them; --checkpoint FILE gives it trained ones"
        )
    task = task_of(loaded)
    loaded = loaded.for_task(task.name)
    samples = open_folder(images, split, None, limit)
    loaded.model.to(find_device(device), find_dtype(dtype))

    def answers(network: nn.Module) -> Iterable[Any]:
        return (predict(loaded, network, sample.image) for sample in samples)

    one = images_for(loaded).to(find_device(device), find_dtype(dtype))
    bench = Bench(loaded.model, task, one, answers, seconds)
    console = Console(stderr=as_json, soft_wrap=True)
    with console.status("counting GFLOPs") as status:
        search = Search(bench, lambda plan: status.update(f"measuring {Trial(plan, 0)}"))
        found = search.run(budget)
    if as_json:
        typer.echo(json_text(_content(found, str(setting(bench.model, one)))))
    else:
        _print(found, f"{len(samples)} images; {setting(bench.model, one)}", console)
    if found.best is None:
        raise typer.Exit(1)


def _content(found: Tuning, under: str) -> dict[str, Any]:
    return {
        "setting": under,
        "trials": [asdict(trial) for trial in found.trials],
        "plan": asdict(found.best.plan) if found.best else None,
        "code": code(found.best.plan) if found.best else None,
        "verdict": found.verdict,
    }


def _print(found: Tuning, under: str, console: Console) -> None:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for name in ("plan", "GFLOPs", "fidelity %", "speed-up"):
        table.add_column(name, justify="left" if name == "plan" else "right")
    for trial in found.trials:
        fidelity = "" if trial.fidelity is None else f"{100 * trial.fidelity:.2f}"
        speedup = "" if trial.speedup is None else f"{trial.speedup:.2f}"
        style = "bold" if trial == found.best else None
        table.add_row(str(trial), f"{trial.gflops:.2f}", fidelity, speedup, style=style)
    console.print(table)
    console.print(under, highlight=False)
    console.print(found.verdict, highlight=False)
    if found.best:
        console.print(code(found.best.plan), markup=False)
