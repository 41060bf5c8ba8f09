"""The search for a plan that meets a budget, in few measurements.

GFLOPs of a plan follow from few counts, since every block costs the same: they grow linearly with
α. Fidelity and speed are measured, and only where a plan could be the best: with every size of
cluster grid, that is the α at the edge of the budget; and over sizes fidelity rises and then falls.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.evaluate.budget import Budget
from expedite.evaluate.recommend import LEAST_SPEEDUP, share_metric
from expedite.evaluate.sweep import Row
from expedite.evaluate.table import place
from expedite.evaluate.tasks import read_answer, task_of
from expedite.evaluate.tasks.base import NoNumberError, Task
from expedite.loading import LoadedModel, TaskName
from expedite.measure.flops import count_flops
from expedite.measure.speed import time_pairs, twin
from expedite.patching import describe, patch, unpatch
from expedite.patching.families import find_hosts
from expedite.patching.host import Host
from expedite.plan import Plan, Span

# Shares of the tokens along a side that are tried; in between, plans differ by little.
_SIDES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_MOST_TIMINGS = 3  # of one cluster grid

Item = TypeVar("Item")
Protected = int | Literal["small", "boundary"]


@dataclass(frozen=True)
class Trial:
    """A plan with what was measured of it."""

    plan: Plan
    gflops: float
    fidelity: float | None = None
    speedup: float | None = None

    def __str__(self) -> str:
        return place(Row(self.plan, 0, 1))


@dataclass(frozen=True)
class Tuning:
    """What a search found.

    Args:
        trials: Every plan that was measured, by rising GFLOPs.
        best: The one to take; None where there is none.
        verdict: The outcome in one sentence.
    """

    trials: tuple[Trial, ...]
    best: Trial | None
    verdict: str

    @property
    def plan(self) -> Plan:
        """The plan to take.

        Raises:
            ExpediteError: There is none.
        """
        if self.best is None:
            raise ExpediteError(self.verdict)
        return self.best.plan


def protected(task: Task[Any], protect: Sequence[Protected]) -> dict[str, str]:
    """Figures that count beside a task's own, with what each is of: the lowest is the fidelity.

    Raises:
        ExpediteError: The task has no such figures.

    Example:
        >>> from expedite.evaluate.tasks.classes import Segmentation
        >>> protected(Segmentation(), ["small", 8])
        {'small_recall': 'small parts', 'iou_8': 'pixels of class 8'}
    """
    known = {"small": ("small_recall", "small parts"), "boundary": ("boundary_f", "boundaries")}
    found = {}
    for each in protect:
        is_index = isinstance(each, int) and not isinstance(each, bool) and each >= 0
        if task.name != "segmentation" or not (is_index or each in known):
            raise ExpediteError(
                f"{each!r} of a model for {task.name} was to be protected; of one for segmentation "
                "'small', 'boundary' and the index of a class can be"
            )
        name, what = (f"iou_{each}", f"pixels of class {each}") if is_index else known[str(each)]
        found[name] = what
    return found


class Bench:
    """Measures plans on one model, each figure once.

    Args:
        model: The model, unpatched.
        task: How answers are compared.
        images: One image as the model takes it, (1, 3, H, W), for GFLOPs and speed.
        answers: Maps a model to its answers to the images that fidelity is measured on.
        seconds: How long to time each plan.
        protect: What must be as alike as the whole, see `protected`.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task[Any],
        images: Tensor,
        answers: Callable[[nn.Module], Iterable[Any]],
        seconds: float,
        protect: Sequence[Protected] = (),
    ) -> None:
        self.counted = {share_metric(task.name).name: "answers", **protected(task, protect)}
        self.model = unpatch(twin(model))
        self.twin = twin(self.model)
        self.task = task
        self.images = images
        self.answers = answers
        self.seconds = seconds
        self.gflops = cache(self._gflops)
        self.fidelity = cache(self._fidelity)
        self.speedup = cache(self._speedup)

    @cached_property
    def host(self) -> Host:
        """The host in the model."""
        describe(self.model)  # refuses a model without one
        return next(find_hosts(self.model))[1]

    @cached_property
    def base_gflops(self) -> float:
        """GFLOPs of the unpatched model."""
        return count_flops(self.model, self.images).total

    @cached_property
    def _own(self) -> list[Any]:
        return list(self.answers(self.model))

    def _gflops(self, plan: Plan) -> float:
        return count_flops(patch(self.twin, plan), self.images).total

    def _fidelity(self, plan: Plan) -> float:
        meter = self.task.fidelity_meter()
        patch(self.twin, plan)
        own_answers = self._own
        try:
            for own, answer in zip(own_answers, self.answers(self.twin), strict=True):
                meter.add(self.task.as_truth(own), answer)
        except NoNumberError:  # of the plan, which is no use then
            return 0.0
        values = meter.values()
        for name, what in self.counted.items():
            if name not in values:
                raise ExpediteError(
                    f"{what} were to be protected, and the unpatched model sees none in these "
                    "images; images that show some work"
                )
        return min(values[name] for name in self.counted)

    def _speedup(self, plan: Plan) -> float:
        patch(self.twin, plan)
        with torch.inference_mode():
            timing = time_pairs(
                lambda: self.model(self.images),
                lambda: self.twin(self.images),
                self.images.device,
                seconds=self.seconds,
            )
        return timing.speedup.median


class Search:
    """Finds the plan that meets a budget best.

    Args:
        bench: What measures plans.
        on_trial: Called with every plan before it is measured.
    """

    def __init__(self, bench: Bench, on_trial: Callable[[Plan], None] = lambda plan: None) -> None:
        self.bench = bench
        self.on_trial = on_trial
        self.measured: dict[Plan, None] = {}
        self.timed: dict[Plan, None] = {}
        depth = bench.host.depth
        stages = (depth,) if isinstance(depth, int) else tuple(depth)
        longest = stages.index(max(stages))
        first = sum(stages[:longest])
        end = first + stages[longest]
        self.alphas = range(max(1, first), end) or range(end)
        self.costs = self._costs()

    def run(self, budget: Budget) -> Tuning:
        """Search, and judge whether what was found pays."""
        found = self._fastest(budget.fidelity) if budget.fidelity else self._most_like(budget)
        if found is None:
            return Tuning(self._trials(), None, self._refusal(budget))
        speedup = self._timed(found)
        trials = self._trials()
        best = next(trial for trial in trials if trial.plan == found)
        if speedup < LEAST_SPEEDUP:
            return Tuning(
                trials,
                None,
                f"It does not pay: {best}, the best plan with {budget}, is {speedup:.2f} times as "
                f"fast as the unpatched model, and {LEAST_SPEEDUP} is the least that counts.",
            )
        return Tuning(
            trials,
            best,
            f"{best} is {speedup:.2f} times as fast at a fidelity of {best.fidelity:.1%}.",
        )

    def predicted(self, side: float, alpha: int) -> float:
        """GFLOPs of a plan, from those at both ends of the range of α."""
        low, high = self.costs[side]
        first, last = self.alphas[0], self.alphas[-1]
        return low + (high - low) * (alpha - first) / max(1, last - first)

    def _costs(self) -> dict[float, tuple[float, float]]:
        costs, refusal = {}, None
        for side in _SIDES:
            first, last = (_plan(alpha, side) for alpha in (self.alphas[0], self.alphas[-1]))
            try:
                costs[side] = self.bench.gflops(first), self.bench.gflops(last)
            except ExpediteError as error:  # fewer clusters than a token is rebuilt from
                refusal = error
        if not costs and refusal:
            raise refusal
        return costs

    def _most_like(self, budget: Budget) -> Plan | None:
        """The plan within GFLOPs or time with the highest fidelity: one for every size is tried."""
        edges = [(side, self._edge(side, budget)) for side in self.costs]
        plans = [_plan(alpha, side) for side, alpha in edges if alpha is not None]
        if not plans:
            return None
        best = plans[peak(len(plans), lambda index: self._fidelity(plans[index]))]
        self._fidelity(best)  # of a single plan nothing was measured yet
        return best

    def _edge(self, side: float, budget: Budget) -> int | None:
        """The largest α with which a size meets a budget."""
        if budget.gflops is not None:
            return self._largest(side, budget.gflops)
        asked, efficiency = budget.speedup or 0, 1.0
        tried: dict[int, float] = {}
        for _ in range(_MOST_TIMINGS):
            # What is asked is 1 + efficiency · (base / GFLOPs - 1).
            most = self.bench.base_gflops / (1 + (asked - 1) / efficiency) if efficiency > 0 else 0
            alpha = self._largest(side, most)
            if alpha is None or alpha in tried:
                break
            tried[alpha] = self._timed(_plan(alpha, side))
            # How much of what GFLOPs promise is there: overheads do not shrink with tokens.
            promised = self.bench.base_gflops / self.predicted(side, alpha) - 1
            efficiency = (tried[alpha] - 1) / promised if promised > 0 else 0.0
        return max((alpha for alpha, speed in tried.items() if speed >= asked), default=None)

    def _largest(self, side: float, gflops: float) -> int | None:
        return max((a for a in self.alphas if self.predicted(side, a) <= gflops), default=None)

    def _fastest(self, fidelity: float) -> Plan | None:
        """The plan of fewest GFLOPs with a fidelity; of every size, only α that would be fewer."""
        best: Plan | None = None
        for side in reversed(self.costs):
            limit = self.bench.base_gflops if best is None else self.bench.gflops(best)
            fewer = [_plan(a, side) for a in self.alphas if self.predicted(side, a) < limit]
            best = first_true(fewer, lambda plan: self._fidelity(plan) >= fidelity) or best
        return best

    def _fidelity(self, plan: Plan) -> float:
        if plan not in self.measured:
            self.on_trial(plan)
            self.measured[plan] = None
        return self.bench.fidelity(plan)

    def _timed(self, plan: Plan) -> float:
        if plan not in self.timed:
            self.on_trial(plan)
            self.timed[plan] = None
        return self.bench.speedup(plan)

    def _trials(self) -> tuple[Trial, ...]:
        trials = [
            Trial(
                plan,
                self.bench.gflops(plan),
                self.bench.fidelity(plan) if plan in self.measured else None,
                self.bench.speedup(plan) if plan in self.timed else None,
            )
            for plan in {**self.measured, **self.timed}
        ]
        return tuple(sorted(trials, key=lambda trial: trial.gflops))

    def _refusal(self, budget: Budget) -> str:
        least = min(low for low, _ in self.costs.values())
        trials = self._trials()
        if budget.gflops:
            reached = f"the fewest GFLOPs that a plan has here are {least:.2f}"
        elif budget.fidelity:
            most = max((trial.fidelity or 0 for trial in trials), default=0)
            reached = f"the highest fidelity that a plan reached is {most:.4f}"
        elif trials:
            reached = f"the most that a plan reached is {max(t.speedup or 0 for t in trials):.2f}"
        else:
            reached = f"GFLOPs alone promise {self.bench.base_gflops / least:.2f} at most"
        return f"{budget} was asked and no plan meets it; {reached}"


def search_model(
    model: nn.Module,
    images: Tensor | Sequence[Tensor],
    *,
    speedup: float | None = None,
    fidelity: float | None = None,
    gflops: float | None = None,
    task: TaskName | None = None,
    seconds: float = 2.0,
    protect: Sequence[Protected] = (),
) -> Tuning:
    """Search on a model and images as it takes them; arguments are those of `expedite.tune`."""
    budget = Budget(speedup, fidelity, gflops)
    if len(images) == 0 or images[0].dim() != 3:
        raise ExpediteError("no images of shape (3, H, W) were given to tune on; a dozen is due")
    size = (int(images[0].shape[-2]), int(images[0].shape[-1]))
    plain = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    name = type(model).__name__
    loaded = LoadedModel(name, model, size, *plain, trained=True, task=task)

    def answers(network: nn.Module) -> Iterable[Any]:
        with torch.inference_mode():
            for image in images:
                shape = (int(image.shape[-2]), int(image.shape[-1]))
                yield read_answer(loaded, network(image[None]), shape)

    bench = Bench(model, task_of(loaded), images[0][None], answers, seconds, protect)
    return Search(bench).run(budget)


def peak(count: int, score: Callable[[int], float]) -> int:
    """Where a score that rises and then falls over 0 to `count` - 1 is highest, by bisection.

    Example:
        >>> peak(7, lambda index: -abs(index - 4))
        4
    """
    low, high = 0, count - 1
    while low < high:
        middle = (low + high) // 2
        if score(middle) < score(middle + 1):
            low = middle + 1
        else:
            high = middle
    return low


def first_true(items: Sequence[Item], holds: Callable[[Item], bool]) -> Item | None:
    """The first item of which something holds that holds of all after it, by bisection.

    The last is looked at first: if it does not hold there, it holds nowhere.

    Example:
        >>> first_true("abcdef", lambda letter: letter >= "d"), first_true("abc", str.isupper)
        ('d', None)
    """
    if not items or not holds(items[-1]):
        return None
    low, high = 0, len(items) - 1
    while low < high:
        middle = (low + high) // 2
        if holds(items[middle]):
            high = middle
        else:
            low = middle + 1
    return items[low]


def _plan(alpha: int, side: float) -> Plan:
    return Plan((Span(alpha, keep=round(side**2, 4)),))
