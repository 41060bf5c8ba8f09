"""The shipped models are as good as they are said to be."""

from pathlib import Path

import numpy as np
import pytest
import torch

from expedite.evaluate import demo
from expedite.evaluate.predict import predict
from expedite.evaluate.tasks import task_of
from expedite.loading.demo import SHIPPED
from expedite.measure.metrics import Agreement
from expedite.scenes.scenes import CLASSES


@pytest.mark.parametrize("checkpoint", SHIPPED.values())
def test_checkpoints_are_small_and_in_the_published_layout(checkpoint: Path) -> None:
    folder = checkpoint.parent
    assert {path.name for path in folder.iterdir()} == {"checkpoint.pth", "variant.yml"}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 5_000_000
    assert list(torch.load(checkpoint, weights_only=True)) == ["model"]


@pytest.mark.slow
def test_the_depth_model_knows_scenes_it_never_saw() -> None:
    loaded = demo.demo_depth_model()
    task = task_of(loaded)
    meter = task.meter()
    for sample in demo.unseen_scenes(8):
        meter.add(task.truth(sample), predict(loaded, loaded.model, sample.image))
    assert meter.values()["delta1"] >= 0.7
    assert meter.values()["abs_rel"] <= 0.2


@pytest.mark.slow
def test_the_checkpoint_knows_scenes_it_never_saw() -> None:
    loaded = demo.demo_model()
    agreement = Agreement(len(CLASSES))
    for sample in demo.unseen_scenes(12):
        assert sample.labels is not None
        predicted = predict(loaded, loaded.model, sample.image)
        agreement.add(torch.from_numpy(sample.labels), predicted.indices)
    assert agreement.mean_iou() >= 0.8


def test_scenes_know_depth_where_16_bits_do() -> None:
    (sample,) = demo.unseen_scenes(1)
    assert sample.depth is not None
    assert sample.depth.dtype == np.float32
    known = np.isfinite(sample.depth)
    assert 0.2 < known.mean() < 1
    assert sample.depth[known].max() < 65.535
