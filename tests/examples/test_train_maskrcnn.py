"""The detector's training script on a handful of tiny scenes: it learns, and its folder loads."""

from pathlib import Path

import numpy as np
import pytest
import swin_detector
import torch
from lessons import Settings, Views, pictures, train
from swin_detector import detector
from torchvision.models.detection import MaskRCNN  # type: ignore[import-untyped]
from train_mask2former import read_scene
from train_maskrcnn import LESSON, SMALLEST, detection_loss, store, to_batch
from training import start, step_down

import expedite
from expedite.loading import load_model
from expedite.scenes.scenes import render_scene, scene_seed, write_scenes

SIZE = (64, 96)


def fresh() -> MaskRCNN:
    torch.manual_seed(0)
    return detector(width=16, depths=(1, 1, 2), window=4, channels=16)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root, "train", 3, SIZE)
    write_scenes(root, "val", 2, SIZE)
    return root


def test_a_batch_has_the_objects_that_are_large_enough(scenes: Path) -> None:
    _, objects = to_batch([read_scene(path) for path in pictures(scenes, "train")])
    for index, found in enumerate(objects):
        scene = render_scene(scene_seed("train", index), SIZE)
        numbers, areas = np.unique(scene.instances, return_counts=True)
        due = numbers[(numbers > 0) & (areas >= SMALLEST)]
        assert len(due) > 0
        for number, mask, label, box in zip(
            due, found["masks"], found["labels"], found["boxes"], strict=True
        ):
            np.testing.assert_array_equal(mask, scene.instances == number)
            assert {int(label)} == {*scene.labels[scene.instances == number]}
            rows, columns = np.nonzero(scene.instances == number)
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == edges


@pytest.mark.slow
def test_loss_falls(scenes: Path) -> None:
    run = start(fresh(), 24, lr=3e-3, other_lr=3e-3)
    views = Views(pictures(scenes, "train"), SIZE, (0, 0), read_scene)
    batch = to_batch([views[0], views[1]])
    losses = [step_down(run, detection_loss(run.model, batch, False)) for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]


def test_the_folder_is_read(tmp_path: Path) -> None:
    model = detector()
    store(model, tmp_path)
    loaded = load_model(f"{tmp_path / 'swin_detector.py'}:load")
    assert loaded.image_size == swin_detector.SIZE
    due, found = model.float().state_dict(), loaded.model.state_dict()
    assert all(torch.equal(due[name], found[name]) for name in due)


def test_training_ends_with_a_detector_that_can_be_patched(scenes: Path, tmp_path: Path) -> None:
    settings = Settings((SIZE,), (2,), batch=2, bf16=False, workers=0)
    model = train(LESSON, scenes, settings, fresh(), tmp_path)
    images = torch.rand(1, 3, *SIZE)
    with torch.inference_mode():
        plain = model.backbone(images)
        expedite.patch(model, alpha=2, clusters=3)
        fast = model.backbone(images)
    assert [each.shape for each in fast.values()] == [each.shape for each in plain.values()]
    assert not torch.equal(fast["2"], plain["2"])
    assert "at 'backbone.body'" in str(expedite.describe(model, (16, 24)))
