"""`expedite recipes`: the published settings and figures."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from expedite.cli.options import AsJson
from expedite.evaluate.json_text import json_text
from expedite.evaluate.recipes import (
    Check,
    check_recipe,
    check_table,
    recipes_table,
    rows_view,
)
from expedite.measure.environment import other_versions
from expedite.recipes import COUNTED_WITH, RECIPES, Recipe, find_recipe


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
        typer.echo(json_text({"recipes": [asdict(recipe) for recipe in recipes]}))
    elif names:
        Console(soft_wrap=True).print(*map(rows_view, recipes), sep="\n")
    else:
        Console().print(recipes_table(recipes))


def _check_recipes(recipes: list[Recipe], as_json: bool) -> None:
    checks: list[Check] = []
    for recipe in recipes:
        found = list(check_recipe(recipe))
        checks += found
        if not as_json:
            Console().print(check_table(recipe, found))
    versions = other_versions(COUNTED_WITH)
    if as_json:
        content = [{**asdict(check), "fails": check.fails} for check in checks]
        typer.echo(json_text({"checks": content, "notes": versions}))
    for note in () if as_json else versions:
        Console(soft_wrap=True).print(note, markup=False)
    if any(check.fails for check in checks):
        raise typer.Exit(1)
