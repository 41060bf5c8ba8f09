"""The search on made-up costs, where every plan can be looked at, and once on a model."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

import expedite
from expedite import ExpediteError, Plan
from expedite.evaluate.budget import Budget
from expedite.evaluate.tasks.classes import Classes, Segmentation
from expedite.evaluate.tasks.depth import Depth
from expedite.evaluate.tune import (
    _SIDES,
    Bench,
    Search,
    Trial,
    _plan,
    first_true,
    peak,
    protected,
)
from expedite.patching import describe
from expedite.patching.families import find_hosts
from expedite.plan import make_plan
from tests.hosts import images, segmenter, timm_vit

ALPHAS = range(1, 12)
BASE = 12.0


class Made:
    """Costs of a model of 12 blocks: one GFLOP a block at full resolution, `side`² on clusters."""

    def __init__(self, efficiency: float = 1.0) -> None:
        self.efficiency = efficiency
        self.runs: list[Plan] = []
        self.timings: list[Plan] = []
        self.host = SimpleNamespace(depth=12)
        self.base_gflops = BASE

    def gflops(self, plan: Plan) -> float:
        alpha, share = plan.spans[0].alpha, plan.spans[0].keep or 1
        return alpha + (12 - alpha) * share + 0.1

    def true_fidelity(self, plan: Plan) -> float:
        alpha, share = plan.spans[0].alpha, plan.spans[0].keep or 1
        return 1 - 0.3 * (1 - share) ** 2 * (1 - alpha / 13) - 0.05 * (1 - share) ** 4

    def true_speedup(self, plan: Plan) -> float:
        return 1 + self.efficiency * (BASE / self.gflops(plan) - 1)

    def fidelity(self, plan: Plan) -> float:
        self.runs.append(plan)
        return self.true_fidelity(plan)

    def speedup(self, plan: Plan) -> float:
        self.timings.append(plan)
        return self.true_speedup(plan)

    def plans(self, meets: Callable[[Plan], bool]) -> list[Plan]:
        every = [_plan(alpha, side) for alpha in ALPHAS for side in _SIDES]
        return [plan for plan in every if meets(plan)]


def search(made: Made) -> Search:
    return Search(cast(Bench, made))


@pytest.mark.parametrize("gflops", [5.0, 8.0])
def test_the_best_within_gflops_is_found_in_few_runs(gflops: float) -> None:
    made = Made()
    found = search(made).run(Budget(gflops=gflops))
    fitting = made.plans(lambda plan: made.gflops(plan) <= gflops)
    assert found.plan == max(fitting, key=made.true_fidelity)
    assert len(set(made.runs)) <= 6 < len(fitting)
    assert set(made.timings) == {found.plan}


@pytest.mark.parametrize("efficiency", [1.0, 0.6])
def test_the_best_within_time_is_found_although_gflops_promise_more(efficiency: float) -> None:
    made = Made(efficiency)
    found = search(made).run(Budget(speedup=1.5))
    fitting = made.plans(lambda plan: made.true_speedup(plan) >= 1.5)
    assert found.plan == max(fitting, key=made.true_fidelity)
    assert found.best is not None
    assert (found.best.speedup or 0) >= 1.5
    assert len(set(made.runs)) <= 6
    assert len(set(made.timings)) <= 3 * len(_SIDES)


@pytest.mark.parametrize("fidelity", [0.8, 0.9, 0.97])
def test_the_fastest_with_a_fidelity_is_found_in_few_runs(fidelity: float) -> None:
    made = Made()
    found = search(made).run(Budget(fidelity=fidelity))
    fitting = made.plans(lambda plan: made.true_fidelity(plan) >= fidelity)
    assert found.plan == min(fitting, key=made.gflops)
    assert len(set(made.runs)) <= 20 < len(made.plans(lambda plan: True)) / 3


def test_trials_are_what_was_measured() -> None:
    made = Made()
    found = search(made).run(Budget(gflops=5.0))
    assert {trial.plan for trial in found.trials} == set(made.runs)
    assert [trial.gflops for trial in found.trials] == sorted(t.gflops for t in found.trials)
    assert found.best in found.trials


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [
        (Budget(gflops=0.5), "gflops=0.5 was asked and no plan meets it; the fewest GFLOPs"),
        (Budget(speedup=50.0), "no plan meets it; GFLOPs alone promise 5.74 at most"),
        (Budget(fidelity=1.0), "fidelity=1 was asked and no plan meets it; the highest .* is 0.9"),
    ],
)
def test_budgets_that_no_plan_meets(budget: Budget, sentence: str) -> None:
    found = search(Made()).run(budget)
    assert found.best is None
    with pytest.raises(ExpediteError, match=sentence):
        _ = found.plan


def test_what_is_hardly_faster_does_not_pay() -> None:
    found = search(Made(efficiency=0.01)).run(Budget(gflops=8.0))
    assert found.best is None
    assert len(found.trials) > 0
    with pytest.raises(ExpediteError, match=r"It does not pay: .* is 1\.01 times as fast"):
        _ = found.plan


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "no budget was asked"),
        ({"speedup": 1.5, "gflops": 3.0}, "speedup and gflops was asked; one of"),
        ({"fidelity": 1.5}, "at most 1"),
        ({"speedup": -1.0}, "above 0 is due"),
    ],
)
def test_impossible_budgets(values: dict[str, float], sentence: str) -> None:
    with pytest.raises(ExpediteError, match=sentence):
        Budget(**values)


def test_bisection() -> None:
    for top in range(6):
        assert peak(6, lambda index, top=top: -abs(index - top)) == top  # type: ignore[misc]
    items = range(7)
    for first in items:
        assert first_true(items, lambda item, first=first: item >= first) == first  # type: ignore[misc]
    assert first_true(items, lambda item: False) is None
    assert first_true([], lambda item: True) is None


@pytest.mark.slow
def test_predicted_gflops_are_those_counted() -> None:
    model = segmenter()
    bench = Bench(model, Segmentation(), images(1), lambda network: [], 0.0)
    found = Search(bench)
    assert list(found.alphas) == [1, 2, 3]
    for side in found.costs:
        counted = bench.gflops(_plan(2, side))
        assert found.predicted(side, 2) == pytest.approx(counted)


def test_relative_depth_is_compared_as_it_is() -> None:
    model, maps = segmenter(), [0.1 + torch.rand(8, 8)]
    bench = Bench(model, Depth(metric=False), images(1), lambda network: maps, 0.0)
    assert bench.fidelity(make_plan(1, 4)) == pytest.approx(1.0)


def test_the_lowest_of_what_is_protected_is_the_fidelity() -> None:
    model, own, plan = segmenter(), torch.zeros(40, 60, dtype=torch.int64), make_plan(1, 4)
    own[10:12, 10:13], own[20:35, 20:50] = 1, 2  # a small part, and a large one
    changed = own.clone()
    changed[10:12, 10:12] = 0

    def answers(network: torch.nn.Module) -> list[Classes]:
        return [Classes(changed if describe(network).plan else own, 4)]

    def fidelity(*protect: Any) -> float:
        return Bench(model, Segmentation(), images(1), answers, 0.0, protect).fidelity(plan)

    meter = Segmentation().fidelity_meter()
    meter.add(own, Classes(changed, 4))
    values = meter.values()
    assert fidelity() == values["miou"] > values["small_recall"] == pytest.approx(1 / 3)
    assert fidelity("small") == fidelity(2, "small") == values["small_recall"]
    assert fidelity("boundary", 2) == min(values["miou"], values["boundary_f"])
    with pytest.raises(ExpediteError, match="pixels of class 3 were to be protected, and the"):
        fidelity(3)


@pytest.mark.parametrize(
    ("task", "protect"),
    [(Segmentation(), "large"), (Segmentation(), -1), (Segmentation(), True), (Depth(), "small")],
)
def test_what_cannot_be_protected(task: Any, protect: Any) -> None:
    with pytest.raises(ExpediteError, match=f"{protect!r} of a model for {task.name} was to be"):
        protected(task, [protect])


@pytest.mark.slow
def test_tuning_a_model_in_python() -> None:
    model = segmenter()
    base = next(find_hosts(model))[1]
    with torch.inference_mode():
        whole = model(images(3))
    try:
        plan = expedite.tune(model, images(3), gflops=0.016, seconds=0.0)
    except ExpediteError as error:  # a model as small as this is not always faster
        assert "It does not pay" in str(error)
    else:
        assert plan.spans[0].alpha in (1, 2, 3)
    assert describe(model).plan is None
    assert next(find_hosts(model))[1].blocks == base.blocks
    with torch.inference_mode():
        assert torch.equal(model(images(3)), whole)


def test_images_and_tasks_that_do_not_fit() -> None:
    with pytest.raises(ExpediteError, match="no images of shape"):
        expedite.tune(segmenter(), images(0), gflops=1.0)
    with pytest.raises(ExpediteError, match="can be compared"):
        expedite.tune(timm_vit(num_classes=0, global_pool=""), images(2), gflops=1.0)


def test_a_trial_is_told_by_its_plan() -> None:
    plan = replace(_plan(4, 0.5), iterations=9)
    assert str(Trial(plan, 1.0)) == "α4 keep 0.25"
