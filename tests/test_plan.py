from dataclasses import replace
from typing import Any

import pytest

from expedite import ExpediteError, Plan, Span
from expedite.plan import make_plan


@pytest.mark.parametrize(
    ("keep", "grid", "expected"),
    [
        (0.25, (40, 40), (20, 20)),
        (0.5, (40, 40), (28, 28)),  # √½·40 = 28.28
        (0.25, (22, 76), (11, 38)),
        (0.01, (3, 3), (1, 1)),
        (0.999, (5, 7), (5, 7)),
    ],
)
def test_keep_rounds_each_side(
    keep: float, grid: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert Span(alpha=1, keep=keep).grid_for(grid) == expected


def test_an_int_is_a_square() -> None:
    assert Span(alpha=1, clusters=28) == Span(alpha=1, clusters=(28, 28))


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ((Span(3, 4),), [(3, 12)]),
        ((Span(3, 4, beta=2),), [(3, 5)]),
        ((Span(3, 6), Span(8, 4)), [(3, 8), (8, 12)]),  # up to the next span
        ((Span(8, 4), Span(3, 6, beta=5)), [(3, 8), (8, 12)]),  # in order of alpha
        ((Span(0, 6, beta=1), Span(11, 4)), [(0, 1), (11, 12)]),
    ],
)
def test_ranges(spans: tuple[Span, ...], expected: list[tuple[int, int]]) -> None:
    assert [(first, end) for _, first, end in Plan(spans).ranges(12)] == expected


def test_a_chained_span_keeps_a_share_of_the_clusters_before_it() -> None:
    chained = Plan((Span(2, keep=0.25), Span(6, keep=0.25)))
    assert chained.grids(12, (40, 40)) == [((40, 40), (20, 20)), ((20, 20), (10, 10))]
    apart = Plan((Span(2, keep=0.25, beta=1), Span(6, keep=0.25)))
    assert apart.grids(12, (40, 40)) == [((40, 40), (20, 20))] * 2


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ((Span(12, 4),), "alpha can be 0 to 11"),
        ((Span(3, 4, beta=10),), "beta can be at most 9"),
        ((Span(3, 4, beta=3), Span(5, 4)), "spans must not overlap"),
        ((Span(3, 4), Span(3, 5)), "spans must not overlap"),
    ],
)
def test_ranges_that_do_not_fit(spans: tuple[Span, ...], message: str) -> None:
    with pytest.raises(ExpediteError, match=message):
        Plan(spans).ranges(12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 1.5}, "alpha=1.5"),
        ({"alpha": True}, "alpha=True"),
        ({"beta": 0}, "beta=0"),
        ({"clusters": 0}, "clusters=0"),
        ({"clusters": (4, 5, 6)}, r"clusters=\(4, 5, 6\)"),
        ({"clusters": "4"}, "clusters='4'"),
        ({"clusters": None, "keep": 1.0}, "keep=1.0"),
        ({"clusters": None, "keep": "half"}, "keep='half'"),
        ({"clusters": None}, "exactly one of the two"),
    ],
)
def test_spans_that_are_impossible(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ExpediteError, match=message):
        Span(**{"alpha": 1, "clusters": 4, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spans": ()}, "one Span or more"),
        ({"spans": (3,)}, "one Span or more"),
        ({"iterations": 0}, "iterations=0"),
        ({"k": 2.5}, "k=2.5"),
        ({"neighborhood": 4}, "neighborhood=4"),
        ({"temperature": 0}, "temperature=0"),
        ({"temperature": "warm"}, "temperature='warm'"),
        ({"space": "keys"}, "'norm' and 'normalized' and 'tokens' are known"),
        ({"log_mass": "yes"}, "log_mass='yes'"),
        ({"reconstruction": "global"}, "'local' and 'knn' are known"),
        ({"weights": "cubic"}, "'kriging' and 'linear' and 'softmax' and 'l2' and 'hard' are"),
        ({"k": 9}, "k=9 nearest clusters were asked with weights='kriging'.*'linear' takes k"),
        ({"k": 0, "weights": "linear"}, "k=0"),
        ({"delta": 3}, "delta=3"),
        ({"reconstruct_at": "tail"}, "'backbone' and 'head' are known"),
    ],
)
def test_plans_that_are_impossible(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ExpediteError, match=message):
        Plan(**{"spans": (Span(1, 4),), **arguments})


def test_delta_is_on_at_the_backbone_and_off_at_the_head_unless_asked() -> None:
    assert make_plan(1, 4).delta is True
    assert make_plan(1, 4, reconstruct_at="head").delta is False
    assert make_plan(1, 4, reconstruct_at="head", delta=True).delta is True
    assert make_plan(1, 4, delta=False).delta is False


def test_the_papers_method_turns_every_improvement_off() -> None:
    plan = make_plan(10, 28, method="paper")
    assert plan == Plan(
        (Span(10, 28),),
        iterations=5,
        neighborhood=5,
        temperature=50.0,
        projection=None,
        basis="hashed",
        space="tokens",
        sharpness=0.0,
        length=0.0,
        log_mass=False,
        reconstruction="knn",
        weights="softmax",
        position_tables="resized",
        hard=False,
        relocated=0.0,
        k=20,
        delta=False,
    )
    assert make_plan(10, 28, method="paper", k=9) == replace(plan, k=9)


def test_weights_of_the_nearest_take_8_unless_asked_and_kriging_takes_all() -> None:
    assert make_plan(1, 4).k is None
    assert make_plan(1, 4, weights="linear").k == 8
    assert make_plan(1, 4, weights="linear", k=3).k == 3
    assert make_plan(1, 4, method="paper", weights="kriging").k is None


def test_unknown_methods_and_settings() -> None:
    with pytest.raises(ExpediteError, match="method='tome'"):
        make_plan(1, 4, method="tome")  # type: ignore[arg-type]
    with pytest.raises(ExpediteError, match="setting 'tau' was asked; known are iterations"):
        make_plan(1, 4, tau=3)
