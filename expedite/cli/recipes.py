"""`expedite recipes`: the published settings and figures."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from expedite.cli.options import AsJson, print_json, show, working_on
from expedite.recipes import COUNTED_WITH, RECIPES, Recipe, find_recipe
from expedite.report.recipes import check_table, recipes_table, rows_view
from expedite.terminal.console import make_console, write

if TYPE_CHECKING:
    from expedite.evaluate.recipes import Check


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
        return
    parts = [part for recipe in recipes for part in rows_view(recipe)] if names else None
    content = {"recipes": [asdict(recipe) for recipe in recipes]}
    show(content, parts or [recipes_table(recipes)], as_json)


def _check_recipes(recipes: list[Recipe], as_json: bool) -> None:
    checks: list[Check] = []
    for recipe in recipes:
        found = _counted(recipe)
        checks += found
        if not as_json:
            write(make_console(), check_table(recipe, found))
    from expedite.measure.environment import other_versions

    versions = other_versions(COUNTED_WITH)
    if as_json:
        content = [{**asdict(check), "fails": check.fails} for check in checks]
        print_json({"checks": content, "notes": versions})
    else:
        write(make_console(), *versions)
    if any(check.fails for check in checks):
        raise typer.Exit(1)


def _counted(recipe: Recipe) -> "list[Check]":
    with working_on(f"building {recipe.name}") as status:
        from expedite.evaluate.recipes import check_recipe

        return list(check_recipe(recipe, status.step))
