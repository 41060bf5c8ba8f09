"""Our count of every published row beside the published one, both in multiply-adds."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import torch
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.loading import load_model
from expedite.measure.flops import FlopCount, count_flops
from expedite.patching import patched
from expedite.plan import Plan
from expedite.recipes import Recipe, Row

# How far apart two counts of the same work may be, and how far a stated reason can put them.
AGREEMENT = 0.025
EXPLAINED = 0.1


@dataclass(frozen=True)
class Check:
    """A published row with our count; GFLOPs are in multiply-adds on both sides.

    Args:
        recipe: Its name.
        row: As published.
        published: None where no count was published.
        ours: None where the row cannot be counted, and `reason` says why.
        difference: Ours over the published one, less 1.
        agrees: Within `AGREEMENT`, or without a published count.
        reason: Why the two differ, where they do and it is known.
        unsupported: Operations that were not counted.
    """

    recipe: str
    row: Row
    published: float | None
    ours: float | None
    difference: float | None
    agrees: bool
    reason: str
    unsupported: dict[str, int]

    @property
    def fails(self) -> bool:
        """Whether the row neither agrees nor differs for a stated reason."""
        if self.ours is None or self.unsupported:
            return True
        explained = bool(self.reason) and abs(self.difference or 0) <= EXPLAINED
        return not (self.agrees or explained)


def check_recipe(recipe: Recipe) -> Iterator[Check]:
    """Build a recipe's model with random weights, and count each of its rows.

    Example:
        >>> from expedite.recipes import Recipe, Row
        >>> tiny = Recipe("tiny", "timm:vit_tiny_patch16_224", (224, 224), 1000, "", "", "",
        ...               rows=(Row(None, 2.52, None, None),), flops_per_multiply_add=2)
        >>> next(check_recipe(tiny)).agrees
        True
    """
    try:
        model = load_model(recipe.model, recipe.image_size, recipe.classes).model
        model = model.get_submodule(recipe.counted)
    except ExpediteError as error:
        yield from (_failed(recipe, row, error) for row in recipe.rows)
        return
    images = torch.zeros(1, 3, *recipe.image_size)
    for row in recipe.rows:
        try:
            yield _compared(recipe, row, _count(model, row.plan, images))
        except ExpediteError as error:
            yield _failed(recipe, row, error)


def _count(model: nn.Module, plan: Plan | None, images: Tensor) -> FlopCount:
    if plan is None:
        return count_flops(model, images)
    with patched(model, plan):
        return count_flops(model, images)


def _compared(recipe: Recipe, row: Row, ours: FlopCount) -> Check:
    published = _published(recipe, row)
    difference = None if published is None else ours.total / published - 1
    agrees = difference is None or abs(difference) <= AGREEMENT
    return Check(
        recipe=recipe.name,
        row=row,
        published=published,
        ours=ours.total,
        difference=difference,
        agrees=agrees,
        reason="" if agrees else row.reason,
        unsupported=ours.unsupported,
    )


def _failed(recipe: Recipe, row: Row, error: ExpediteError) -> Check:
    return Check(recipe.name, row, _published(recipe, row), None, None, False, str(error), {})


def _published(recipe: Recipe, row: Row) -> float | None:
    return None if row.gflops is None else row.gflops / recipe.flops_per_multiply_add


def recipes_table(recipes: Iterable[Recipe]) -> Table:
    """One line a recipe."""
    columns = ("recipe", "model", "image", "rows", "checkpoint")
    table = _table("Published settings", columns)
    for recipe in recipes:
        size, rows = _size(recipe.image_size), str(len(recipe.rows))
        table.add_row(recipe.name, recipe.model, size, rows, recipe.checkpoint)
    return table


def rows_view(recipe: Recipe) -> Group:
    """The published rows of a recipe, its GFLOPs as printed, with what they share."""
    columns = ("α", "β", "h×w", "GFLOPs", "FPS", recipe.metric or "metric", "")
    table = _table(f"{recipe.name}: {recipe.model} at {_size(recipe.image_size)}", columns)
    for row in recipe.rows:
        figures = ("-" if x is None else f"{x:g}" for x in (row.gflops, row.fps, row.metric))
        table.add_row(*_span_cells(row.plan), *figures, row.note)
    shared = (
        f"settings: {_settings(recipe)}\n"
        f"GFLOPs count a multiply-add as {recipe.flops_per_multiply_add}\n"
        f"weights: {recipe.origin}/{recipe.checkpoint}\n"
    )
    return Group(table, Text(shared))


def check_table(recipe: Recipe, checks: Iterable[Check]) -> Table:
    """Our counts beside the published ones; a row that fails is marked."""
    columns = ("α", "h×w", "published", "ours", "difference", "")
    table = _table(f"{recipe.name}, GFLOPs in multiply-adds", columns)
    for check in checks:
        alpha, _, clusters = _span_cells(check.row.plan)
        counts = (_count_cell(check.published), _count_cell(check.ours))
        table.add_row(alpha, clusters, *counts, _percent(check.difference), escape(_remark(check)))
    return table


def _table(title: str, columns: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _span_cells(plan: Plan | None) -> tuple[str, str, str]:
    if plan is None:
        return "-", "-", "-"
    (span,) = plan.spans
    beta = "rest" if span.beta is None else str(span.beta)
    return str(span.alpha), beta, _size(span.grid_for((0, 0)))


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


def _remark(check: Check) -> str:
    if check.unsupported:
        return f"FAILS: not counted: {', '.join(check.unsupported)}"
    if check.fails:
        return f"FAILS: {check.reason or 'no reason is known'}"
    return check.reason
