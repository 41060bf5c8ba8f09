from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from expedite.evaluate.datasets import VOID, Sample
from expedite.evaluate.flops import count_flops
from expedite.evaluate.metrics import Agreement
from expedite.evaluate.predict import predict
from expedite.evaluate.sweep import Row, Sweep
from expedite.loading import LoadedModel
from expedite.patching import describe, patch
from expedite.plan import make_plan
from tests.hosts import images, segmenter, timm_vit

CPU = torch.device("cpu")
PLAN = make_plan(1, 4)
NEUTRAL = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def loaded(model: torch.nn.Module | None = None, **changes: Any) -> LoadedModel:
    base = LoadedModel("test", model or segmenter(), (32, 32), *NEUTRAL, trained=True)
    return replace(base, **changes)


def samples(count: int = 3, labelled: bool = True) -> list[Sample]:
    generator = np.random.default_rng(0)
    return [
        Sample(
            f"{index}",
            generator.integers(0, 255, (32, 32, 3), dtype=np.uint8),
            generator.integers(0, 5, (32, 32)) if labelled else None,
        )
        for index in range(count)
    ]


def sweep(model: LoadedModel, data: list[Sample]) -> tuple[Row, Row]:
    running = Sweep(model, data, device=CPU, seconds=0.0)
    base = running.measure_base()
    return base, running.measure(PLAN, base)


def test_a_row_holds_what_was_measured() -> None:
    model, data = loaded(), samples()
    base, row = sweep(model, data)
    assert (base.tokens, row.tokens, row.of_tokens) == (64, 16, 64)
    fresh = patch(segmenter(), PLAN)
    assert row.gflops == count_flops(fresh, images(1)).total
    assert row.gflops < base.gflops
    assert 0 < row.operators_gflops < row.gflops
    assert base.operators_gflops == 0
    assert row.fps > 0
    assert row.speedup_lower <= row.speedup <= row.speedup_upper
    assert row.memory_mb > 0


def test_accuracies_are_those_of_the_predictions() -> None:
    model, data = loaded(), samples()
    base, row = sweep(model, data)
    plain, fast = segmenter(), patch(segmenter(), PLAN)
    labels, fidelity = Agreement(5), Agreement(5)
    for sample in data:
        before = predict(model, plain, sample.image).indices
        after = predict(model, fast, sample.image).indices
        assert sample.labels is not None
        labels.add(torch.from_numpy(sample.labels), after)
        fidelity.add(before, after)
    assert row.miou == labels.mean_iou()
    assert row.fidelity == fidelity.mean_iou()
    assert row.agreement == fidelity.accuracy()
    assert base.miou
    assert row.retention == row.miou / base.miou
    assert (base.retention, base.fidelity, base.agreement) == (1, 1, 1)


def test_the_model_itself_is_never_patched() -> None:
    model = loaded()
    sweep(model, samples())
    assert describe(model.model).plan is None


def test_random_weights_get_no_accuracy() -> None:
    base, row = sweep(loaded(trained=False), samples())
    for found in (base, row):
        assert (found.miou, found.retention, found.fidelity, found.agreement) == (None,) * 4
        assert found.gflops > 0


def test_images_without_labels_get_fidelity_alone() -> None:
    base, row = sweep(loaded(), samples(labelled=False))
    assert base.miou is row.miou is row.retention is None
    assert row.fidelity is not None
    assert 0 < row.fidelity < 1


def test_classifiers_are_compared_by_their_answers() -> None:
    _, row = sweep(loaded(timm_vit()), samples(8))
    assert row.miou is None
    assert row.fidelity == row.agreement
    assert row.fidelity in [n / 8 for n in range(9)]


def test_void_labels_do_not_count() -> None:
    data = [
        Sample("a", samples(1)[0].image, np.full((32, 32), VOID, np.int64)),
        *samples(2),
    ]
    assert sweep(loaded(), data)[1].miou == pytest.approx(sweep(loaded(), samples(2))[1].miou)


def test_progress_is_told_image_by_image() -> None:
    told: list[tuple[int, int]] = []
    running = Sweep(
        loaded(), samples(), device=CPU, seconds=0, on_image=lambda i, n: told.append((i, n))
    )
    base = running.measure_base()
    running.measure(PLAN, base)
    assert told == [(1, 3), (2, 3), (3, 3)] * 2


def test_other_dtypes() -> None:
    running = Sweep(loaded(), samples(1), device=CPU, dtype=torch.bfloat16, seconds=0)
    assert running.measure(PLAN, running.measure_base()).fidelity is not None
