"""The panoptic training script on a handful of tiny scenes: it learns, and its folder loads."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lessons import Settings, Views, pictures, train
from torch import Tensor
from train_mask2former import (
    LESSON,
    Learner,
    hf,
    measure,
    panoptic_loss,
    read_scene,
    store,
    to_batch,
)
from training import start, step_down

import expedite
from expedite.scenes.scenes import CLASSES, render_scene, scene_seed, write_scenes

SIZE = (64, 96)


def small() -> Any:
    return hf.Mask2FormerConfig(
        backbone_config=hf.SwinConfig(
            image_size=SIZE, embed_dim=16, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2],
            window_size=4, out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        feature_size=32, mask_feature_size=32, hidden_dim=32, num_attention_heads=2,
        encoder_layers=1, encoder_feedforward_dim=16, decoder_layers=2, dim_feedforward=16,
        num_queries=12, train_num_points=64, id2label=dict(enumerate(CLASSES)),
    )  # fmt: skip


def fresh() -> Learner:
    torch.manual_seed(0)
    return Learner(small())


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root, "train", 3, SIZE)
    write_scenes(root, "val", 1, SIZE)
    return root


def test_a_batch_has_a_mask_for_each_segment(scenes: Path) -> None:
    views: list[tuple[Tensor, ...]] = [read_scene(path) for path in pictures(scenes, "train")]
    _, masks, classes, labels = to_batch(views)
    for index in range(3):
        scene = render_scene(scene_seed("train", index), SIZE)
        seen = scene.labels[1::2, 1::2]
        things = np.unique(scene.instances[1::2, 1::2])
        stuff = {*np.unique(seen)} & {0, 1, 2, 3}
        assert len(masks[index]) == (things > 0).sum() + len(stuff)
        assert torch.equal(masks[index].sum(0), torch.ones(32, 48))
        painted = (masks[index] * classes[index][:, None, None]).sum(0)
        np.testing.assert_array_equal(painted, seen)
        np.testing.assert_array_equal(labels[index], scene.labels[2::4, 2::4])


def test_loss_falls(scenes: Path) -> None:
    run = start(fresh(), 24, lr=3e-3, other_lr=3e-3)
    views = Views(pictures(scenes, "train"), SIZE, (0, 0), read_scene)
    batch = to_batch([views[0], views[1]])
    losses = [step_down(run, panoptic_loss(run.model, batch, False)) for _ in range(15)]
    assert losses[-1] < 0.85 * losses[0]


def test_the_folder_is_read_and_patched(scenes: Path, tmp_path: Path) -> None:
    settings = Settings((SIZE,), (2,), batch=2, bf16=False, workers=0)
    learner = train(LESSON, scenes, settings, fresh(), tmp_path / "work")
    store(learner, tmp_path / "model")
    loaded: Any = expedite.load(f"hf:{tmp_path / 'model'}").float()
    images = torch.rand(1, 3, *SIZE)
    with torch.inference_mode():
        due = learner.model.float()(images).masks_queries_logits
        torch.testing.assert_close(loaded(images).masks_queries_logits, due)
        expedite.patch(loaded, alpha=3, clusters=3)
        assert loaded(images).masks_queries_logits.shape == due.shape
    assert "blocks 4 to 4 run on 3×5 clusters" in str(expedite.describe(loaded, (16, 24)))


def test_what_is_measured(scenes: Path) -> None:
    found = measure(fresh(), pictures(scenes, "val"), SIZE)
    assert set(found) == {"mIoU", "PQ"}
    assert 0 <= found["mIoU"] < 0.5
