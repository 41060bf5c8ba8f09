"""docs/reproduce.md says what the recipes say, and its commands measure the rows below them."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

import expedite
from expedite.cli import app
from expedite.cli.asked_plans import AskedPlans
from expedite.loading import load_model
from expedite.plan import Plan
from expedite.recipes import RECIPES
from tests.reproduce_tables import ADE20K, DATA, DOCS, EXPERIMENTS, Experiment, document

NAMES = [experiment.title for experiment in EXPERIMENTS]


def test_the_document_is_in_step() -> None:
    text = DOCS.read_text()
    assert document(text) == text, "python -m benchmarks.reproduce writes it anew"


def test_every_recipe_and_every_table_and_figure_is_there() -> None:
    assert {experiment.model for experiment in EXPERIMENTS} == {*RECIPES}
    named = {title.partition(":")[0] for title in NAMES}
    tables, figures = ({f"{kind} {n}" for n in ns} for kind, ns in KINDS.items())
    assert tables | figures <= named


KINDS = {"Table": range(1, 7), "Figure": [1, *range(4, 10)]}


def plans(experiment: Experiment, folder: Path) -> list[Plan]:
    """What a command measures, as the command line reads it."""
    words = shlex.split(experiment.command)[2:]
    if experiment.file is not None:
        name, content = experiment.file
        (folder / name).write_text(content)
        words = [str(folder / word) if word == name else word for word in words]
    command: Any = typer.main.get_command(app)
    sweep = command.commands["sweep"]
    given = sweep.make_context("sweep", words).params
    names = {"file": "plans", "compiled": "compile_modes"}
    asked = {name: given[names.get(name, name)] for name in AskedPlans.__dataclass_fields__}
    return [job.plan for job in AskedPlans(**asked).jobs(given["model"])]


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=NAMES)
def test_a_command_measures_its_rows(experiment: Experiment, tmp_path: Path) -> None:
    found = plans(experiment, tmp_path)
    assert len(found) == experiment.plans
    assert DATA[experiment.data] in experiment.command
    recipe = RECIPES[experiment.model]
    if "--alpha" not in experiment.options and "downsample" not in experiment.options:
        assert experiment.file or found == [row.plan for row in recipe.rows[1:]]


def test_ablations_begin_with_the_recipes_plan(tmp_path: Path) -> None:
    """α 10 and 28×28 clusters with λ 5, κ 5, τ 50 and k 20 are in each of them."""
    rows = RECIPES[ADE20K].rows
    (usual,) = (row.plan for row in rows if row.plan and row.plan.spans[0].alpha == 10)
    shown = [e for e in EXPERIMENTS if e.title.startswith(("Table 1", "Table 2", "Figure 4"))]
    assert len(shown) == 6
    assert all(usual in plans(experiment, tmp_path) for experiment in shown)


@pytest.mark.parametrize("name", [ADE20K, "swag-vit-l16"])
def test_plans_fit_the_model(name: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        model = load_model(name).model
    for experiment in EXPERIMENTS:
        if experiment.model == name:
            for plan in plans(experiment, tmp_path):
                expedite.patch(model, plan)
