"""Our count of every published row beside the published one, both in multiply-adds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
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


def check_recipe(
    recipe: Recipe, on_step: Callable[[str], None] = lambda step: None
) -> Iterator[Check]:
    """Build a recipe's model with random weights, and count each of its rows.

    Args:
        recipe: What to check.
        on_step: Called with what is done next, in a few words.

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
    for number, row in enumerate(recipe.rows, start=1):
        on_step(f"counting row {number} of {len(recipe.rows)} of {recipe.name}")
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
