"""`expedite tune`: the plan that meets a budget."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

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
    image_size_of,
    images_for,
    show,
    working_on,
)
from expedite.errors import ExpediteError
from expedite.evaluate.budget import Budget
from expedite.measure.mode import Mode
from expedite.terminal.table import Column, Listing

if TYPE_CHECKING:
    import torch
    from torch import nn

    from expedite.data.datasets import ImageFolder
    from expedite.evaluate.tune import Bench, Protected, Tuning
    from expedite.loading import LoadedModel


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
    protect: Annotated[
        str | None,
        typer.Option(
            help="What must be as alike as the whole: small, boundary, indices of classes."
        ),
    ] = None,
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
    """Find alpha and clusters that meet a budget with the highest fidelity, without labels."""
    budget, mode = Budget(speedup, fidelity, gflops), Mode(dtype)
    size = image_size_of(image_size)
    with working_on(f"loading {model}") as status:
        from expedite.data.datasets import open_folder
        from expedite.evaluate.tune import Search, Trial
        from expedite.loading import load_model
        from expedite.measure.speed import setting

        loaded = load_model(model, size, classes, checkpoint)
        samples = open_folder(images, split, None, limit)
        bench = _bench(loaded, samples, find_device(device), mode, seconds, _protected(protect))
        status.step("counting GFLOPs")
        search = Search(bench, lambda plan: status.step(f"measuring {Trial(plan, 0)}"))
        found = search.run(budget)
        under = str(setting(bench.model, bench.images))
    show(_content(found, under), _told(found, f"{len(samples)} images; {under}"), as_json)
    if found.best is None:
        raise typer.Exit(1)


def _bench(
    loaded: "LoadedModel",
    samples: "ImageFolder",
    device: "torch.device",
    mode: Mode,
    seconds: float,
    protect: "list[Protected]",
) -> "Bench":
    """What measures plans on a trained model and so many images."""
    from expedite.evaluate.predict import predict
    from expedite.evaluate.tasks import task_of
    from expedite.evaluate.tune import Bench

    if not loaded.trained:
        raise ExpediteError(
            f"tuning of '{loaded.name}' was asked, whose weights are random: every plan looks free "
            "on them; --checkpoint FILE gives it trained ones"
        )
    task = task_of(loaded)
    loaded = loaded.for_task(task.name)
    loaded.model.to(device, mode.torch_dtype)

    def answers(network: "nn.Module") -> Iterable[Any]:
        return (predict(loaded, network, sample.image) for sample in samples)

    one = images_for(loaded).to(device, mode.torch_dtype)
    return Bench(loaded.model, task, one, answers, seconds, protect)


def _protected(text: str | None) -> "list[Protected]":
    """What is to be protected, of names and numbers between commas."""
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    return [int(name) if name.isdecimal() else cast("Protected", name) for name in names]


def _content(found: "Tuning", under: str) -> dict[str, Any]:
    from expedite.evaluate.recommend import code

    return {
        "setting": under,
        "trials": [asdict(trial) for trial in found.trials],
        "plan": asdict(found.best.plan) if found.best else None,
        "code": code(found.best.plan) if found.best else None,
        "verdict": found.verdict,
    }


def _told(found: "Tuning", under: str) -> list[str | Listing]:
    from expedite.evaluate.recommend import code

    figures = ("GFLOPs", "fidelity %", "speed-up")
    table = Listing([Column("plan"), *(Column(name, right=True) for name in figures)])
    for trial in found.trials:
        fidelity = "" if trial.fidelity is None else f"{100 * trial.fidelity:.2f}"
        speedup = "" if trial.speedup is None else f"{trial.speedup:.2f}"
        is_best = trial == found.best
        table.add(str(trial), f"{trial.gflops:.2f}", fidelity, speedup, bold=is_best)
    return [table, under, found.verdict, *([code(found.best.plan)] if found.best else [])]
