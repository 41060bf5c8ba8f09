"""The training script of the adapters on tiny scenes: both learn and are stored.

That training goes on where it stopped is tested with the Segmenter's, which it shares.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from train_adapter import Settings, begin, train
from train_segmenter import Crops, Task, open_task, segmentation_loss
from training import step_down

from expedite.errors import ExpediteError
from expedite.loading import load_model
from expedite.models.meta import META
from expedite.models.vit_adapter import ViTAdapter
from expedite.scenes.scenes import CLASSES, write_scenes

CPU = torch.device("cpu")
SETTINGS = Settings(
    window=64, small_epochs=1, full_epochs=1, batch=4, layers=4, hidden=32, bf16=False
)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root, "train", 6, (40, 56))
    write_scenes(root, "val", 2, (40, 56))
    return open_task(root, dataset="", n_cls=len(CLASSES), val_images=2)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "kind"), [("vit-adapter", ViTAdapter), ("meta", META)])
def test_writes_a_checkpoint_that_loads(task: Task, tmp_path: Path, model: Any, kind: Any) -> None:
    train(task, replace(SETTINGS, model=model), tmp_path, CPU)
    loaded = load_model(f"vit_adapter:{tmp_path / 'checkpoint.pth'}")
    assert type(loaded.model.get_submodule("backbone")) is kind
    assert (loaded.image_size, loaded.short_side, loaded.mean) == ((64, 64), 64, (0.5, 0.5, 0.5))
    with torch.inference_mode():
        assert loaded.model(torch.zeros(1, 3, 64, 64)).shape == (1, len(CLASSES), 64, 64)


@pytest.mark.slow
def test_loss_falls(task: Task) -> None:
    settings = replace(SETTINGS, small_epochs=12, full_epochs=0, batch=3)
    run = begin(settings, task, CPU)
    batch = [Crops(task.train, 32, (0, 0), 1.0, settings.zooms)[index] for index in range(3)]
    images, labels = (torch.stack(each) for each in zip(*batch, strict=True))
    losses = [step_down(run, segmentation_loss(run.model, images, labels, False)) for _ in range(9)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("changes", [{"window": 96}, {"small_epochs": 0, "full_epochs": 0}])
def test_impossible_settings(changes: dict[str, Any]) -> None:
    with pytest.raises(ExpediteError, match=r"a multiple of 64 would work|at least one is due"):
        replace(SETTINGS, **changes)
