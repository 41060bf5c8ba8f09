"""Measuring plans on one model: what each buys, and what it costs.

A row comes for each plan as it is measured; keeping rows is `results`, showing them is `report`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import torch
from torch import nn

from expedite.evaluate.datasets import Samples
from expedite.evaluate.flops import count_flops
from expedite.evaluate.memory import peak_memory
from expedite.evaluate.metrics import Agreement
from expedite.evaluate.predict import Prediction, predict
from expedite.evaluate.speed import time_pairs, twin
from expedite.loading import LoadedModel
from expedite.patching import describe, grid_of, patch, unpatch
from expedite.plan import Plan

_MEGA = 1e6


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
        miou: 0 to 1; None without labels, and where weights are not trained.
        retention: miou over that of the unpatched model.
        fidelity: Agreement with the unpatched model's own predictions, 0 to 1: the mean IoU of
            maps, the share of equal answers where a model classifies whole images.
        agreement: Share of pixels (or images) classified as the unpatched model does.
        unsupported_ops: Operations that `gflops` leaves out, with how often they ran.
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
    miou: float | None = None
    retention: float | None = None
    fidelity: float | None = None
    agreement: float | None = None
    unsupported_ops: dict[str, int] = field(default_factory=dict)


class Sweep:
    """One model, one set of images, any number of plans.

    The unpatched model and a twin that shares its weights run side by side, so that times come in
    pairs and predictions are compared without loading anything twice.

    Args:
        loaded: The model; it is moved to `device` and `dtype`.
        samples: Images, with labels or without; none measures costs alone.
        device: Where to run.
        dtype: The dtype of weights and images.
        seconds: How long to time each plan.
        on_image: Called after every image with how many are done and how many there are.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        samples: Samples,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        seconds: float = 2.0,
        on_image: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.loaded = loaded
        self.samples = samples
        self.seconds = seconds
        self.on_image = on_image
        self.model = unpatch(loaded.model).to(device, dtype)
        self.twin = twin(self.model)
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(1, 3, *loaded.image_size, generator=generator)
        self.images = images.to(device, dtype)
        self.grid = grid_of(self.model, self.images)
        self._truth: list[Prediction] = []

    def check(self, plans: Sequence[Plan]) -> None:
        """Refuse plans that cannot be carried out, before any time goes into the others."""
        with torch.inference_mode():
            for plan in plans:
                patch(self.twin, plan)(self.images)

    def measure_base(self) -> Row:
        """Measure the unpatched model.

        It is timed against itself, so its speed-up shows how far figures stray by chance.
        """
        unpatch(self.twin)
        row = self._costs(Row(None, tokens=prod(self.grid), of_tokens=prod(self.grid)))
        if not self._measures_accuracy:
            return row
        row = self._with_miou(replace(row, fidelity=1.0, agreement=1.0), self._base_predictions())
        return row if row.miou is None else replace(row, retention=1.0)

    def measure(self, plan: Plan, base: Row) -> Row:
        """Measure one plan; `base` is the row of the unpatched model."""
        patch(self.twin, plan)
        kept = describe(self.twin, self.grid).kept[-1]
        row = self._costs(Row(plan, tokens=prod(kept), of_tokens=prod(self.grid)))
        if not self._measures_accuracy:
            return row
        predictions = self._predictions(self.twin)
        row = self._with_miou(self._with_fidelity(row, predictions), predictions)
        if row.miou is None or not base.miou:
            return row
        return replace(row, retention=row.miou / base.miou)

    @property
    def _measures_accuracy(self) -> bool:
        return self.loaded.trained and bool(self.samples)

    def _base_predictions(self) -> list[Prediction]:
        if not self._truth:
            self._truth = self._predictions(self.model)
        return self._truth

    def _costs(self, row: Row) -> Row:
        flops = count_flops(self.twin, self.images)
        with torch.inference_mode():
            timing = time_pairs(
                lambda: self.model(self.images),
                lambda: self.twin(self.images),
                self.images.device,
                seconds=self.seconds,
            )
            memory = peak_memory(lambda: self.twin(self.images), self.images.device)
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

    def _predictions(self, model: nn.Module) -> list[Prediction]:
        predictions = []
        for done, sample in enumerate(self.samples, start=1):
            predictions.append(predict(self.loaded, model, sample.image))
            self.on_image(done, len(self.samples))
        return predictions

    def _with_fidelity(self, row: Row, predictions: list[Prediction]) -> Row:
        agreement = Agreement(predictions[0].classes)
        for truth, prediction in zip(self._base_predictions(), predictions, strict=True):
            agreement.add(truth.indices, prediction.indices)
        of_maps = predictions[0].indices.dim() == 2
        fidelity = agreement.mean_iou() if of_maps else agreement.accuracy()
        return replace(row, fidelity=fidelity, agreement=agreement.accuracy())

    def _with_miou(self, row: Row, predictions: list[Prediction]) -> Row:
        labelled = [
            (sample.labels, prediction)
            for sample, prediction in zip(self.samples, predictions, strict=True)
            if sample.labels is not None and prediction.indices.dim() == 2
        ]
        if not labelled:
            return row
        agreement = Agreement(labelled[0][1].classes)
        for labels, prediction in labelled:
            agreement.add(torch.from_numpy(labels), prediction.indices)
        return replace(row, miou=agreement.mean_iou())
