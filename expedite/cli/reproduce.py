"""`expedite reproduce`: a published table measured anew, from its own weights and data."""

from pathlib import Path
from typing import Annotated

import typer

from expedite.cli.options import Device, Seconds, show
from expedite.cli.sweep import sweep_command
from expedite.errors import ExpediteError
from expedite.recipes import Recipe, find_recipe

# What models that answer several tasks are asked for, by the metric of their recipe.
_TASKS = {"PQ": "panoptic", "mask AP": "instance", "box AP": "detection"}


def reproduce_command(
    recipe: Annotated[str, typer.Argument(help="A published setting; see expedite recipes.")],
    weights: Annotated[
        Path, typer.Option(help="The published file of weights, or the folder that holds it.")
    ],
    data: Annotated[Path, typer.Option(help="The data set, in a layout that sweep reads.")],
    out: Annotated[Path, typer.Option(help="Folder for the record, results and the report.")],
    split: Annotated[str, typer.Option(help="Which split of the data.")] = "val",
    limit: Annotated[int | None, typer.Option(help="How many images, spread over all.")] = None,
    device: Device = "auto",
    seconds: Seconds = 2.0,
) -> None:
    """Measure every row of a published table, and set the published figures beside yours.

    It can be stopped and goes on where it was. The folder's reproduced.json can be sent to others.
    """
    known = find_recipe(recipe)
    sweep_command(
        recipe,
        data,
        out,
        split=split,
        limit=limit,
        task=_TASKS.get(known.metric),
        checkpoint=_file(known, weights),
        device=device,
        seconds=seconds,
    )
    from expedite.evaluate.json_text import json_text
    from expedite.evaluate.results import read_results, replacing
    from expedite.report.reproduced import reproduced_record, reproduced_table

    results, record = read_results(out), out / "reproduced.json"
    with replacing(record) as file:
        file.write(json_text(reproduced_record(known, results)).encode())
    show({}, [reproduced_table(known, results), f"written: {record}"], as_json=False)


def _file(recipe: Recipe, weights: Path) -> Path:
    if weights.is_file():
        return weights
    from expedite.report.reproduced import weights_name

    name = weights_name(recipe)
    if not (weights / name).is_file():
        raise ExpediteError(
            f"{weights} was to hold the weights of '{recipe.name}' and has no {name}; they are at "
            f"{recipe.origin}/{name}"
        )
    return weights / name
