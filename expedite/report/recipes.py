"""The published settings as tables for the terminal; our counts of them are `evaluate.recipes`."""

from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING

from expedite.plan import Plan
from expedite.recipes import Recipe
from expedite.terminal.table import Column, Listing

if TYPE_CHECKING:
    from expedite.evaluate.recipes import Check


def recipes_table(recipes: Iterable[Recipe]) -> Listing:
    """One line a recipe."""
    table = Listing(
        [
            Column("recipe"),
            Column("model"),
            Column("image", spare=True),
            Column("rows", right=True),
            Column("checkpoint", spare=True),
        ],
        title="Published settings",
    )
    for recipe in recipes:
        size, rows = _size(recipe.image_size), str(len(recipe.rows))
        table.add(recipe.name, recipe.model, size, rows, recipe.checkpoint)
    return table


def rows_view(recipe: Recipe) -> list[str | Listing]:
    """The published rows of a recipe, its GFLOPs as printed, with what they share."""
    figures = ("GFLOPs", "FPS", recipe.metric or "metric")
    table = Listing(
        [
            Column("plan"),
            *(Column(title, right=True) for title in figures),
            Column("", prose=True),
        ],
        title=f"{recipe.name}: {recipe.model} at {_size(recipe.image_size)}",
    )
    for row in recipe.rows:
        values = ("-" if x is None else f"{x:g}" for x in (row.gflops, row.fps, row.metric))
        table.add(_plan(row.plan), *values, row.note)
    shared = (
        f"settings: {_settings(recipe)}\n"
        f"GFLOPs count a multiply-add as {recipe.flops_per_multiply_add}\n"
        f"weights: {recipe.origin}/{recipe.checkpoint}\n"
    )
    return [table, shared]


def check_table(recipe: Recipe, checks: "Iterable[Check]") -> Listing:
    """Our counts beside the published ones; a row that fails is marked."""
    figures = ("published", "ours", "difference")
    table = Listing(
        [
            Column("plan"),
            *(Column(title, right=True) for title in figures),
            Column("", prose=True),
        ],
        title=f"{recipe.name}, GFLOPs in multiply-adds",
    )
    for check in checks:
        counts = (_count_cell(check.published), _count_cell(check.ours))
        table.add(_plan(check.row.plan), *counts, _percent(check.difference), _remark(check))
    return table


def _plan(plan: Plan | None) -> str:
    if plan is None:
        return "unpatched"
    (span,) = plan.spans
    beta = "" if span.beta is None else f"β{span.beta} "
    return f"α{span.alpha} {beta}{_size(span.grid_for((0, 0)))}"


def _settings(recipe: Recipe) -> str:
    """The settings that all rows share; their spans differ."""
    plan = next(row.plan for row in recipe.rows if row.plan is not None)
    shared = {field.name: getattr(plan, field.name) for field in fields(plan)}
    del shared["spans"]
    return ", ".join(f"{name}={value}" for name, value in shared.items())


def _size(sides: tuple[int, int]) -> str:
    return f"{sides[0]}×{sides[1]}"


def _count_cell(gflops: float | None) -> str:
    return "-" if gflops is None else f"{gflops:.1f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:+.1%}"


def _remark(check: "Check") -> str:
    if check.unsupported:
        return f"FAILS: not counted: {', '.join(check.unsupported)}"
    if check.fails:
        return f"FAILS: {check.reason or 'no reason is known'}"
    return check.reason
