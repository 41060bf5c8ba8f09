"""Published settings as a terminal shows them."""

from io import StringIO

import pytest
from rich.console import Console

from expedite.evaluate.recipes import Check
from expedite.plan import make_plan
from expedite.recipes import RECIPES, Recipe, Row
from expedite.report.recipes import check_table, recipes_table, rows_view
from expedite.terminal.console import write
from expedite.terminal.table import Listing

PLAN = make_plan(4, 7, method="paper")
ROWS = (Row(None, 1.25, 3.5, 70.1), Row(PLAN, 99.0, None, None, note="as it was"))
TINY = Recipe(
    "tiny", "timm:tiny", (224, 224), 10, "top-1 %", "tiny.pth", "https://nowhere", rows=ROWS
)


def text(*parts: str | Listing, width: int = 200) -> str:
    stream = StringIO()
    write(Console(file=stream, width=width), *parts)
    return stream.getvalue()


@pytest.mark.parametrize("width", [40, 80, 100_000])
def test_names_of_recipes_and_models_are_whole_at_any_width(width: int) -> None:
    words = text(recipes_table(RECIPES.values()), width=width).split()
    for recipe in RECIPES.values():
        assert recipe.name in words
        assert recipe.model in words


def test_at_80_characters_a_recipe_is_a_line() -> None:
    lines = text(recipes_table(RECIPES.values()), width=80).splitlines()
    assert len(lines) == len(RECIPES) + 4
    assert max(map(len, lines)) <= 80


def test_rows_are_shown_with_what_they_share() -> None:
    printed = text(*rows_view(TINY))
    for part in ("7×7", "99", "3.5", "70.1", "as it was", "temperature=50.0", "nowhere/tiny.pth"):
        assert part in printed


def test_rows_that_fail_say_why() -> None:
    good = Check("tiny", ROWS[0], 1.25, 1.25, 0.0, True, "", {})
    bad = Check("tiny", ROWS[1], 99.0, 1.0, -0.99, False, "", {})
    missing = Check("tiny", ROWS[0], None, None, None, False, "pip install 'expedite-vit[sam]'", {})
    printed = text(check_table(TINY, [good, bad, missing]))
    assert "+0.0%" in printed
    assert printed.count("FAILS: no reason is known") == 1
    assert "FAILS: pip install 'expedite-vit[sam]'" in printed
