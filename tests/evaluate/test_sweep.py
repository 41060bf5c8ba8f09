from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from expedite import ExpediteError
from expedite.data.truths import VOID, Sample
from expedite.evaluate.predict import predict
from expedite.evaluate.sweep import Row, Sweep
from expedite.evaluate.tasks import task_of
from expedite.evaluate.tasks.classes import Segmentation
from expedite.loading import LoadedModel, TaskName
from expedite.measure.flops import count_flops
from expedite.measure.metrics import Agreement
from expedite.measure.mode import Mode
from expedite.patching import describe, patch
from expedite.plan import make_plan
from tests.hosts import depth_vit, images, segment_anything_sam, segmenter, timm_vit

CPU = torch.device("cpu")
PLAN = make_plan(1, 4)
MODE = Mode(compile="default")
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
            labels=generator.integers(0, 5, (32, 32)) if labelled else None,
            depth=generator.uniform(1, 20, (32, 32)).astype(np.float32) if labelled else None,
        )
        for index in range(count)
    ]


def sweep(model: LoadedModel, data: list[Sample]) -> tuple[Row, Row]:
    running = Sweep(model, task_of(model), data, device=CPU, seconds=0.0)
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
    for values, expected in ((row.metrics, labels), (row.fidelity, fidelity)):
        assert values["miou"] == expected.mean_iou()
        assert values["mean_accuracy"] == expected.mean_accuracy()
        assert values["pixel_accuracy"] == expected.accuracy()
    assert row.retention == row.metrics["miou"] / base.metrics["miou"]
    assert base.retention == 1
    assert {*base.fidelity.values()} == {1}


def test_the_model_itself_is_never_patched() -> None:
    model = loaded()
    sweep(model, samples())
    assert describe(model.model).plan is None


def test_random_weights_get_no_accuracy() -> None:
    base, row = sweep(loaded(trained=False), samples())
    for found in (base, row):
        assert (found.metrics, found.retention, found.fidelity) == ({}, None, {})
        assert found.gflops > 0


def test_images_without_labels_get_fidelity_alone() -> None:
    base, row = sweep(loaded(), samples(labelled=False))
    assert base.metrics == row.metrics == {}
    assert base.retention is row.retention is None
    assert 0 < row.fidelity["miou"] < 1


def test_classifiers_are_compared_by_their_answers() -> None:
    _, row = sweep(loaded(timm_vit()), samples(8))
    assert row.metrics == {}
    assert row.fidelity["top1"] in [n / 8 for n in range(9)]


def test_depth_is_compared_in_its_own_metrics() -> None:
    model, data = loaded(depth_vit(), task="depth"), samples()
    base, row = sweep(model, data)
    plain, fast = depth_vit(), patch(depth_vit(), PLAN)
    errors, changes = [], []
    for sample in data:
        before, after = (predict(model, network, sample.image) for network in (plain, fast))
        errors.append(np.sqrt(np.mean((after.numpy() - sample.depth) ** 2)))
        changes.append((after - before).square().mean().sqrt())
    assert row.metrics["rmse"] == pytest.approx(np.mean(errors))
    assert row.fidelity["rmse"] == pytest.approx(np.mean(changes))
    assert row.retention == base.metrics["rmse"] / row.metrics["rmse"]
    assert base.retention == 1
    assert (base.fidelity["rmse"], base.fidelity["delta1"]) == (0, 1)


def test_relative_depth_is_aligned_to_labels_alone() -> None:
    base, row = sweep(loaded(depth_vit(), task="depth", metric_depth=False), samples())
    assert base.metrics["rmse"] > 0
    assert row.retention == base.metrics["rmse"] / row.metrics["rmse"]
    assert base.fidelity["rmse"] == 0 < row.fidelity["rmse"]


def test_features_get_fidelity_alone() -> None:
    base, row = sweep(loaded(segment_anything_sam(), task="features"), samples())
    assert base.metrics == row.metrics == {}
    assert row.retention is None
    assert base.fidelity == {"cosine": pytest.approx(1), "relative_l2": 0}
    assert 0 < row.fidelity["cosine"] < 1
    assert row.fidelity["relative_l2"] > 0


@pytest.mark.slow
def test_void_labels_do_not_count() -> None:
    data = [
        Sample("a", samples(1)[0].image, np.full((32, 32), VOID, np.int64)),
        *samples(2),
    ]
    assert sweep(loaded(), data)[1].metrics == sweep(loaded(), samples(2))[1].metrics


def test_progress_is_told_image_by_image() -> None:
    told: list[tuple[int, int]] = []
    running = Sweep(
        loaded(),
        Segmentation(),
        samples(),
        device=CPU,
        seconds=0,
        on_image=lambda i, n: told.append((i, n)),
    )
    base = running.measure_base()
    running.measure(PLAN, base)
    assert told == [(1, 3), (2, 3), (3, 3)] * 2


def test_a_label_that_no_class_has_is_named_with_its_file() -> None:
    data = [replace(samples(1)[0], labels=np.full((32, 32), 7), source="labels/a.png")]
    with pytest.raises(ExpediteError, match=r"^labels/a\.png: a label 7 was found, and the model"):
        sweep(loaded(), data)


@pytest.mark.slow
def test_a_compiled_model_is_timed_and_gives_the_same_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    compiled = torch.compile

    def traced(model: torch.nn.Module, mode: str, dynamic: bool) -> Any:
        fast: Any = compiled(model, backend="eager")

        def call(images: torch.Tensor) -> Any:
            calls.append(mode)
            return fast(images)

        return call

    monkeypatch.setattr(torch, "compile", traced)
    model, data = loaded(), samples(1)
    running = Sweep(model, task_of(model), data, device=CPU, mode=MODE, seconds=0.0)
    row = running.measure(PLAN, running.measure_base())
    assert calls == ["default"] * 2 * (2 * (2 + 5) + 1)  # warm-up, pairs and memory of two rows
    assert "compile default" in str(running.setting())
    plain = sweep(loaded(), data)[1]
    assert (row.mode, plain.mode) == (MODE, Mode())
    assert (row.metrics, row.fidelity, row.gflops) == (plain.metrics, plain.fidelity, plain.gflops)


@pytest.mark.parametrize(
    ("network", "task"), [(segmenter(), "segmentation"), (depth_vit(), "depth")]
)
def test_other_dtypes(network: torch.nn.Module, task: TaskName) -> None:
    model = loaded(network, task=task)
    running = Sweep(model, task_of(model), samples(1), device=CPU, mode=Mode("bfloat16"), seconds=0)
    assert running.measure(PLAN, running.measure_base()).fidelity
