from dataclasses import replace
from math import nan
from typing import Any

import pytest

import expedite
from expedite import Plan, Span
from expedite.evaluate.comparators import plan_of
from expedite.evaluate.comparators.rival import Rival
from expedite.evaluate.recommend import code, recommend, verdict
from expedite.evaluate.results import Results
from expedite.evaluate.sweep import Row
from expedite.evaluate.table import pareto_front
from expedite.plan import make_plan


def row(side: int, speedup: float, kept: float, labelled: bool = True) -> Row:
    plain = Row(make_plan(2, side), tokens=1, of_tokens=4, speedup=speedup)
    if labelled:
        return replace(plain, retention=kept, fidelity={"miou": 0.1})
    return replace(plain, fidelity={"miou": kept})


def results(*rows: Row) -> Results:
    base = Row(None, 4, 4, speedup=9.0, retention=1.0, fidelity={"miou": 1.0})
    return Results({}, "segmentation", rows=[base, *rows])


def test_the_fastest_that_keeps_enough() -> None:
    found = results(row(8, 1.2, 0.999), row(7, 1.5, 0.981), row(6, 2.0, 0.97))
    assert recommend(found) == found.rows[2]
    assert verdict(found) == "α2 7x7 is 1.50 times as fast at a retention of 98.1% in mIoU."


def test_else_the_one_that_keeps_most() -> None:
    found = results(row(8, 1.2, 0.9), row(7, 1.5, 0.8))
    assert recommend(found) == found.rows[1]
    assert verdict(found).endswith("of 90.0% in mIoU, the most that any plan that pays keeps.")


def test_without_labels_fidelity_decides() -> None:
    found = results(row(8, 1.2, 0.96, labelled=False), row(7, 1.5, 0.94, labelled=False))
    assert recommend(found) == found.rows[1]
    assert "a fidelity of 96.0%" in verdict(found)


def test_what_is_hardly_faster_does_not_pay() -> None:
    found = results(row(8, 1.01, 1.0), row(7, 0.9, 0.5))
    assert recommend(found) is None
    assert verdict(found).startswith("No plan pays: the fastest, α2 8x8, is 1.01 times as fast")


def test_what_is_no_number_is_never_recommended() -> None:
    broken = replace(row(6, 3.0, 1.0), fidelity={"miou": nan})
    other = replace(row(5, 4.0, 1.0), metrics={"miou": nan}, retention=None)
    found = results(row(8, 1.2, 0.9), broken, other)
    assert recommend(found) == found.rows[1]
    assert recommend(found, least_speedup=0) == found.rows[1]
    assert verdict(results(broken, other)).startswith("Nothing to recommend: figures of every plan")
    assert pareto_front(results(broken)) == [results().rows[0]]


def test_a_fidelity_counts_for_nothing_beside_retentions() -> None:
    lost = replace(row(6, 3.0, 1.0), retention=None, fidelity={"miou": 0.99})
    found = results(row(8, 1.2, 0.97), lost)
    assert recommend(found) == found.rows[1]


def test_random_weights_say_nothing_of_accuracy() -> None:
    found = results(Row(make_plan(2, 7), 1, 4, speedup=1.4))
    assert "what it costs in accuracy was not measured" in verdict(found)


@pytest.mark.parametrize(
    "plan",
    [
        make_plan(4, (14, 20)),
        make_plan(4, keep=0.25, beta=3, weights="linear", k=9, delta=False),
        make_plan(4, 14, method="paper", temperature=1.0),
        make_plan(4, 14, reconstruct_at="head"),
        Plan((Span(2, 20, beta=2), Span(4, 14)), iterations=3),
        plan_of("tome", 4, 14),
    ],
)
def test_the_line_of_code_makes_the_plan(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def patch(model: object, plan: Plan | None = None, **arguments: Any) -> None:
        given.append(plan or make_plan(**arguments))

    monkeypatch.setattr(expedite, "patch", patch)
    eval(code(plan), {"expedite": expedite, "model": None, "Rival": Rival, "Span": Span})
    assert given == [plan]
