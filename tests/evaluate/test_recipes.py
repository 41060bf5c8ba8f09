"""Counts of published rows, on recipes small enough to be counted here."""

from typing import Any

import pytest

from expedite.evaluate.recipes import AGREEMENT, EXPLAINED, Check, check_recipe
from expedite.loading import load_model
from expedite.measure.flops import count_flops
from expedite.patching import patch
from expedite.plan import make_plan
from expedite.recipes import Recipe, Row
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
