"""The training script on a handful of tiny scenes: it learns, resumes and refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import train_segmenter
from PIL import Image
from torch import Tensor
from train_segmenter import (
    Crops,
    Settings,
    Task,
    begin,
    class_weights,
    open_task,
    random_crop,
    segmentation_loss,
    train,
)
from training import Run, step_down

from expedite.data.datasets import open_folder
from expedite.data.truths import VOID
from expedite.errors import ExpediteError
from expedite.models.segmenter import Segmenter
from expedite.models.segmenter_files import load_segmenter
from expedite.scenes.scenes import CLASSES, write_scenes

CPU = torch.device("cpu")
SETTINGS = Settings(
    width=64, layers=1, window=32, small_epochs=1, full_epochs=2, batch=4, workers=0
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root, "train", 6, (40, 56))
    write_scenes(root, "val", 2, (40, 56))
    return root


def weights(folder: Path) -> dict[str, Tensor]:
    return load_segmenter(folder / "checkpoint.pth")[0].state_dict()


def test_writes_a_checkpoint_that_loads(data: Path, tmp_path: Path) -> None:
    task = open_task(data, dataset="", n_cls=len(CLASSES), val_images=2)
    train(task, SETTINGS, tmp_path, CPU)
    model, preprocessing = load_segmenter(tmp_path / "checkpoint.pth")
    assert model.config.image_size == (32, 32)
    assert model.config.n_cls == len(CLASSES)
    assert (preprocessing.im_size, preprocessing.window_size) == (32, 32)


def test_resuming_ends_at_the_same_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = open_task(data, dataset="", n_cls=0, val_images=2)
    train(task, SETTINGS, tmp_path / "whole", CPU)
    pass_over = train_segmenter.pass_over

    def interrupted(run: Run[Segmenter], *arguments: Any) -> float:
        if run.epoch == 2:
            raise KeyboardInterrupt
        return pass_over(run, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(train_segmenter, "pass_over", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(task, SETTINGS, tmp_path / "parts", CPU)
    train(task, SETTINGS, tmp_path / "parts", CPU, resume=True)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_loss_falls(data: Path) -> None:
    settings = Settings(width=64, layers=1, window=32, full_epochs=0, small_epochs=12, batch=3)
    run = begin(settings, len(CLASSES), 24, CPU)
    batch = [Crops(open_folder(data, "train"), 32, (0, 0))[index] for index in range(3)]
    images, labels = (torch.stack(each) for each in zip(*batch, strict=True))
    losses = [
        step_down(run, segmentation_loss(run.model, images, labels, bf16=False)) for _ in range(12)
    ]
    assert losses[-1] < 0.8 * losses[0]


def test_crops_keep_image_and_labels_together(tmp_path: Path) -> None:
    # Grey levels that tell the class: after any crop, flip and zoom they must still do.
    for part in ("images", "annotations"):
        (tmp_path / part / "train").mkdir(parents=True)
    labels = np.zeros((48, 64), np.uint8)
    labels[:24, 20:] = 1
    Image.fromarray(labels).save(tmp_path / "annotations/train/0.png")
    Image.fromarray(labels * 200).convert("RGB").save(tmp_path / "images/train/0.png")
    for epoch in range(20):
        image, classes = Crops(open_folder(tmp_path, "train"), 24, (0, epoch))[0]
        assert image.shape == (3, 24, 24)
        bright = image.mean(0) > image.mean()
        counted = classes != VOID
        agree = (bright == (classes == 1))[counted].float().mean()
        assert agree > 0.9
        assert counted.any()


def test_counts_classes_and_refuses_too_few(data: Path) -> None:
    task: Task = open_task(data, dataset="", n_cls=0, val_images=2)
    largest = max(int(sample.labels.max()) for sample in task.train if sample.labels is not None)
    assert task.n_cls == largest + 1
    with pytest.raises(ExpediteError, match="2 classes were asked"):
        open_task(data, dataset="", n_cls=2, val_images=2)
    with pytest.raises(ExpediteError, match="ade20k"):
        open_task(data, dataset="nowhere", n_cls=0, val_images=2)


@pytest.mark.parametrize(("window", "epochs"), [(40, 1), (32, 0)])
def test_impossible_settings(window: int, epochs: int) -> None:
    with pytest.raises(ExpediteError):
        Settings(window=window, small_epochs=0, full_epochs=epochs)


def test_begins_with_the_weights_of_another(data: Path, tmp_path: Path) -> None:
    train(open_task(data, "", len(CLASSES), val_images=2), SETTINGS, tmp_path, CPU)
    checkpoint = tmp_path / "checkpoint.pth"
    wider = replace(SETTINGS, window=64)  # its positions are resized, and its 3 classes are new
    run = begin(wider, 3, 1, CPU, start_from=checkpoint)
    before, after = weights(tmp_path), run.model.state_dict()
    kept = "encoder.blocks.0.attn.qkv.weight"
    assert torch.equal(before[kept], after[kept])
    assert after["encoder.pos_embed"].shape == (1, 1 + 8 * 8, 64)
    assert torch.equal(before["encoder.pos_embed"][:, :1], after["encoder.pos_embed"][:, :1])
    with pytest.raises(ExpediteError, match="does not fit"):
        begin(replace(SETTINGS, width=128), 3, 1, CPU, start_from=checkpoint)


def test_crops_are_a_share_of_the_image_and_checkpoints_say_so(data: Path, tmp_path: Path) -> None:
    image, labels = np.zeros((40, 56, 3), np.uint8), np.zeros((40, 56), np.int64)
    sides = [
        len(random_crop(image, labels, np.random.default_rng(seed), share=0.5)[1])
        for seed in range(50)
    ]
    assert 0.5 * 40 / 1.5 - 1 <= min(sides) < max(sides) <= 0.5 * 40 / 0.85 + 1
    settings = replace(SETTINGS, short_side=64, small_epochs=0, full_epochs=1)
    train(open_task(data, "", len(CLASSES), val_images=2), settings, tmp_path, CPU)
    preprocessing = load_segmenter(tmp_path / "checkpoint.pth")[1]
    assert (preprocessing.im_size, preprocessing.window_size) == (64, 32)


def test_rare_classes_weigh_more(tmp_path: Path) -> None:
    for part in ("images", "annotations"):
        (tmp_path / part / "train").mkdir(parents=True)
    labels = np.zeros((10, 10), np.uint8)
    labels[0, :4], labels[1] = 1, 255  # 86, 4 and 10 pixels
    Image.fromarray(labels).save(tmp_path / "annotations/train/0.png")
    Image.fromarray(labels).convert("RGB").save(tmp_path / "images/train/0.png")
    weight = class_weights(open_folder(tmp_path, "train"), 2)
    torch.testing.assert_close(weight[1] / weight[0], torch.tensor((86 / 4) ** 0.5))
    torch.testing.assert_close((86 * weight[0] + 4 * weight[1]) / 90, torch.tensor(1.0))
