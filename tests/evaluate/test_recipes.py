"""Counts of published rows, on recipes small enough to be counted here."""

from io import StringIO
from typing import Any

import pytest
from rich.console import Console, RenderableType

from expedite.evaluate.recipes import (
    AGREEMENT,
    EXPLAINED,
    Check,
    check_recipe,
    check_table,
    recipes_table,
    rows_view,
)
from expedite.loading import load_model
from expedite.measure.flops import count_flops
from expedite.patching import patch
from expedite.plan import make_plan
from expedite.recipes import RECIPES, Recipe, Row
from tests.hosts import images

MODEL = "timm:vit_tiny_patch16_224"
PLAN = make_plan(4, 7, method="paper")


@pytest.fixture(scope="module")
def counts() -> tuple[float, float]:
    """Our GFLOPs, plain and patched."""
    model, x = load_model(MODEL, (224, 224), 10).model, images(1, 224, 224)
    return count_flops(model, x).total, count_flops(patch(model, PLAN), x).total


def recipe(*rows: Row, **changes: Any) -> Recipe:
    arguments = {"name": "tiny", "model": MODEL, "image_size": (224, 224), "classes": 10}
    more = {"metric": "top-1 %", "checkpoint": "tiny.pth", "origin": "https://nowhere"}
    return Recipe(**{**arguments, **more, "rows": rows, **changes})


def check(plan: Any, gflops: float | None, reason: str = "", **changes: Any) -> Check:
    (found,) = check_recipe(recipe(Row(plan, gflops, None, None, reason=reason), **changes))
    return found


def text(renderable: RenderableType) -> str:
    stream = StringIO()
    Console(file=stream, width=200).print(renderable)
    return stream.getvalue()


def test_a_row_is_counted_with_its_plan(counts: tuple[float, float]) -> None:
    plain, patched = counts
    assert patched < plain
    assert check(None, plain).ours == plain
    found = check(PLAN, patched)
    assert (found.ours, found.difference, found.agrees, found.fails) == (patched, 0, True, False)


def test_the_published_convention_is_converted(counts: tuple[float, float]) -> None:
    found = check(None, 2 * counts[0], flops_per_multiply_add=2)
    assert (found.published, found.difference) == (counts[0], 0)


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_difference_needs_a_reason(counts: tuple[float, float], sign: int) -> None:
    ours = counts[0]
    near, far, too_far = (ours / (1 + sign * s) for s in (0.02, 0.03, 0.11))
    assert AGREEMENT < 0.03 < EXPLAINED < 0.11
    assert not check(None, near).fails
    assert check(None, near, "unneeded").reason == ""
    assert check(None, far).fails
    explained = check(None, far, "half a norm")
    assert (explained.fails, explained.reason) == (False, "half a norm")
    assert check(None, too_far, "half a norm").fails


def test_a_row_without_a_published_count_is_counted(counts: tuple[float, float]) -> None:
    found = check(None, None)
    assert (found.ours, found.difference, found.fails) == (counts[0], None, False)


def test_what_cannot_be_counted_fails_and_says_why() -> None:
    found = check(make_plan(4, 20, method="paper"), 1.0)
    assert found.fails
    assert "20×20 clusters were asked" in found.reason
    found = check(None, 1.0, model="timm:vit_tinny")
    assert found.fails
    assert "which timm does not know" in found.reason


def test_tables(counts: tuple[float, float]) -> None:
    rows = (Row(None, counts[0], 3.5, 70.1), Row(PLAN, 99.0, None, None, note="as it was"))
    tiny = recipe(*rows, flops_per_multiply_add=1)
    printed = text(check_table(tiny, check_recipe(tiny)))
    assert "+0.0%" in printed
    assert printed.count("FAILS: no reason is known") == 1
    missing = Check("tiny", rows[0], None, None, None, False, "pip install 'expedite-vit[sam]'", {})
    assert "expedite-vit[sam]" in text(check_table(tiny, [missing]))
    printed = text(rows_view(tiny))
    for part in ("7×7", "99", "3.5", "70.1", "as it was", "temperature=50.0", "nowhere/tiny.pth"):
        assert part in printed
    printed = text(recipes_table(RECIPES.values()))
    assert all(f" {name} " in printed for name in RECIPES)
