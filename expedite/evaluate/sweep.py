"""Measuring plans on one model: what each buys, and what it costs.

A row comes for each plan as it is measured; keeping rows is `results`, showing them is `report`.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, nan, prod
from typing import Any, NamedTuple

import torch
from torch import nn

from expedite.data.datasets import Samples
from expedite.data.truths import Sample
from expedite.errors import ExpediteError
from expedite.evaluate.predict import predict
from expedite.evaluate.ranks import ALONE, Ranks
from expedite.evaluate.tasks.base import Meter, NoNumberError, Task
from expedite.loading import LoadedModel
from expedite.measure.flops import count_flops
from expedite.measure.memory import peak_memory
from expedite.measure.mode import Mode
from expedite.measure.speed import Setting, setting, time_pairs, twin
from expedite.patching import describe, grid_of, patch, unpatch
from expedite.plan import Plan

_MEGA = 1e6
_MODE = Mode()


@dataclass(frozen=True)
class Row:
    """What was measured of one plan, or of the unpatched model where `plan` is None.

    Args:
        plan: What was done.
        tokens: How many tokens the last clustered blocks ran on.
        of_tokens: How many tokens there are at full resolution.
        gflops: Multiply-adds of one forward pass of one image in billions, operators included.
        operators_gflops: The share of clustering and reconstruction.
        fps: Images a second at batch 1, by the median time.
        speedup: Unpatched over patched time, the median over pairs, with its quartiles.
        speedup_lower: See `speedup`.
        speedup_upper: See `speedup`.
        memory_mb: Peak of a forward pass beyond the weights, in megabytes.
        metrics: The task's metrics against labels, by name; empty where there are none, and where
            weights are not trained.
        fidelity: The same against the unpatched model's own answers; no labels are needed.
        retention: How much of the task's first metric is left; 1 is nothing lost.
        unsupported_ops: Operations that `gflops` leaves out, with how often they ran.
        dtype: See `mode.Mode`; every figure is of a model in it.
        compile: See `mode.Mode`; speed and memory are of a model that is compiled so.
        notes: Sentences on what `metrics` are not of, of the unpatched model.
    """

    plan: Plan | None
    tokens: int
    of_tokens: int
    gflops: float = 0.0
    operators_gflops: float = 0.0
    fps: float = 0.0
    speedup: float = 1.0
    speedup_lower: float = 1.0
    speedup_upper: float = 1.0
    memory_mb: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    fidelity: dict[str, float] = field(default_factory=dict)
    retention: float | None = None
    unsupported_ops: dict[str, int] = field(default_factory=dict)
    dtype: str = Mode.dtype
    compile: str = Mode.compile
    notes: tuple[str, ...] = ()

    @property
    def is_broken(self) -> bool:
        """Whether a figure of accuracy or fidelity is no number, as answers of the model are."""
        return not all(map(isfinite, [*self.metrics.values(), *self.fidelity.values()]))

    @property
    def mode(self) -> Mode:
        """What this row can be compared within."""
        return Mode(self.dtype, self.compile)


class _Meters(NamedTuple):
    """Of what some images said: against labels, and against the unpatched model."""

    accuracy: Meter[Any]
    fidelity: Meter[Any]
    are_numbers: bool = True  # all that was said


class Sweep:
    """One model, one set of images, any number of plans.

    The unpatched model and a twin that shares its weights run side by side, so that times come in
    pairs and predictions are compared without loading anything twice.

    Args:
        loaded: The model; it is moved to `device` and the mode's dtype.
        task: How its answers are compared.
        samples: Images, with labels or without; none measures costs alone.
        device: Where to run.
        mode: The dtype of weights and images, and how the model is compiled while it is timed.
        seconds: How long to time each plan.
        ranks: Processes that share the images; the first counts, times and returns whole rows, and
            the others return the same.
        on_image: Called after every image with how many of this rank's are done and how many there
            are.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        task: Task[Any],
        samples: Samples,
        *,
        device: torch.device,
        mode: Mode = _MODE,
        seconds: float = 2.0,
        ranks: Ranks = ALONE,
        on_image: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.loaded = loaded.for_task(task.name)
        self.task = task
        self.samples = samples
        self.mode = mode
        self.seconds = seconds
        self.ranks = ranks
        self.on_image = on_image
        self.model = unpatch(loaded.model).to(device, mode.torch_dtype)
        self.twin = twin(self.model)
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(1, 3, *loaded.image_size, generator=generator)
        self.images = images.to(device, mode.torch_dtype)
        self.grid = grid_of(self.model, self.images)
        self._shard = ranks.shard(len(samples))
        self._own: list[Any] = []  # answers of the unpatched model, of this rank's images

    def check(self, plans: Sequence[Plan]) -> None:
        """Refuse plans that cannot be carried out, before any time goes into the others."""
        with torch.inference_mode():
            for plan in plans:
                patch(self.twin, plan)(self.images)
                if self.loaded.multi_scale:  # a smaller image has fewer tokens
                    predict(self.loaded, self.twin, self.samples[0].image)

    def setting(self) -> Setting:
        """Under what speed is measured, on the first rank."""
        return self.ranks.first(lambda: setting(self.model, self.images, self.mode.compile))

    def measure_base(self) -> Row:
        """Measure the unpatched model.

        It is timed against itself, so its speed-up shows how far figures stray by chance.
        """
        unpatch(self.twin)
        row = self._with_costs(None, self.grid)
        return self._with_accuracy(row, self._own_pairs())

    def measure(self, plan: Plan, base: Row) -> Row:
        """Measure one plan; `base` is the row of the unpatched model."""
        patch(self.twin, plan)
        row = self._with_costs(plan, describe(self.twin, self.grid).kept[-1])
        return self._with_accuracy(row, self._answers(self.twin), base)

    def _with_costs(self, plan: Plan | None, kept: tuple[int, int]) -> Row:
        tokens, of_tokens = prod(kept), prod(self.grid)
        row = Row(plan, tokens, of_tokens, dtype=self.mode.dtype, compile=self.mode.compile)
        return self.ranks.first(lambda: self._costs(row))

    def _costs(self, row: Row) -> Row:
        flops = count_flops(self.twin, self.images)
        model, fast = self.mode.compiled(self.model), self.mode.compiled(self.twin)
        with torch.inference_mode():
            timing = time_pairs(
                lambda: model(self.images),
                lambda: fast(self.images),
                self.images.device,
                seconds=self.seconds,
            )
            memory = peak_memory(lambda: fast(self.images), self.images.device)
        return replace(
            row,
            gflops=flops.total,
            operators_gflops=flops.operators,
            unsupported_ops=flops.unsupported,
            fps=1 / timing.second.median,
            speedup=timing.speedup.median,
            speedup_lower=timing.speedup.lower,
            speedup_upper=timing.speedup.upper,
            memory_mb=memory / _MEGA,
        )

    def _with_accuracy(
        self, row: Row, answers: Iterable[tuple[Sample, Any]], base: Row | None = None
    ) -> Row:
        if not self.loaded.trained:
            return row
        parts = self.ranks.gather(lambda: self._compared(answers))
        return self.ranks.first(lambda: self._judged(row, parts, base))

    def _compared(self, answers: Iterable[tuple[Sample, Any]]) -> _Meters:
        meters = _Meters(self.task.meter(), self.task.fidelity_meter())
        try:
            for (sample, answer), own in zip(answers, self._own_answers(), strict=True):
                meters.fidelity.add(self.task.as_truth(own), answer)
                truth = self.task.truth(sample)
                if truth is not None:
                    with _naming(sample):
                        meters.accuracy.add(truth, answer)
        except NoNumberError:  # which ends this plan, and no other
            return meters._replace(are_numbers=False)
        return meters

    def _judged(self, row: Row, parts: Sequence[_Meters], base: Row | None) -> Row:
        if not all(part.are_numbers for part in parts):
            return replace(row, fidelity={self.task.metrics[0].name: nan})
        whole, *others = parts
        for part in others:
            whole.accuracy.merge(part.accuracy)
            whole.fidelity.merge(part.fidelity)
        metrics = whole.accuracy.values()
        return replace(
            row,
            metrics=metrics,
            fidelity=whole.fidelity.values(),
            retention=self.task.retention(metrics, base.metrics if base else metrics),
            notes=() if base else tuple(whole.accuracy.notes()),
        )

    def _own_pairs(self) -> Iterator[tuple[Sample, Any]]:
        yield from zip(map(self.samples.__getitem__, self._shard), self._own_answers(), strict=True)

    def _own_answers(self) -> list[Any]:
        if not self._own:
            self._own = [answer for _, answer in self._answers(self.model)]
        return self._own

    def _answers(self, model: nn.Module) -> Iterator[tuple[Sample, Any]]:
        for done, index in enumerate(self._shard, start=1):
            sample = self.samples[index]
            yield sample, predict(self.loaded, model, sample.image)
            self.on_image(done, len(self._shard))


@contextlib.contextmanager
def _naming(sample: Sample) -> Iterator[None]:
    """Say in errors which image they are of."""
    try:
        yield
    except ExpediteError as error:
        raise ExpediteError(f"{sample.source or sample.name}: {error}") from error
