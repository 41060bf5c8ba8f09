"""The depth training script on a handful of tiny scenes: it learns, resumes and keeps pairs."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import train_dpt
from PIL import Image
from train_dpt import CONFIG, Settings, Views, depth_loss, log_error, measure, pictures, train
from training import start, step_down

from expedite.evaluate.scenes import write_scenes
from expedite.models.dpt import DPT

SMALL = replace(CONFIG, width=64, heads=1, layers=4, taps=(0, 1, 2, 3), image_size=(64, 96))
SETTINGS = Settings(sizes=((32, 64), (64, 96)), limits=(4, 2), batch=2, bf16=False, workers=0)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root, "train", 4, (40, 56))
    write_scenes(root, "val", 2, (40, 56))
    return root


def fresh() -> DPT:
    torch.manual_seed(0)
    return DPT(SMALL)


def test_resuming_ends_at_the_same_weights(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(scenes, SETTINGS, fresh(), tmp_path / "whole").state_dict()
    one_epoch = train_dpt._train_epoch

    def interrupted(*arguments: object) -> float:
        if arguments[0].epoch == 1:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return one_epoch(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(train_dpt, "_train_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(scenes, SETTINGS, fresh(), tmp_path / "parts")
    parts = train(scenes, SETTINGS, fresh(), tmp_path / "parts", resume=True).state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_loss_falls(scenes: Path) -> None:
    run = start(fresh(), 24, lr=3e-3, other_lr=1e-3)
    views = Views(pictures(scenes, "train"), (64, 96), (0, 0))
    images, depth = (torch.stack(each) for each in zip(*(views[i] for i in range(3)), strict=True))
    losses = [step_down(run, depth_loss(run.model, images, depth, bf16=False)) for _ in range(12)]
    assert losses[-1] < 0.8 * losses[0]


def test_views_keep_image_and_depth_together(tmp_path: Path) -> None:
    for kind in ("images", "depth"):
        (tmp_path / kind / "train").mkdir(parents=True)
    metres = np.tile(np.linspace(1, 40, 64), (48, 1))
    Image.fromarray((6 * metres).astype(np.uint8)).convert("RGB").save(
        tmp_path / "images/train/0.jpg", quality=95
    )
    Image.fromarray((1000 * metres).astype(np.uint16)).save(tmp_path / "depth/train/0.png")
    flips = set()
    for epoch in range(20):
        image, depth = Views(pictures(tmp_path, "train"), (48, 64), (0, epoch))[0]
        brightness = image.mean(0)
        assert np.corrcoef(brightness.flatten(), depth.flatten())[0, 1] > 0.99
        flips.add(bool(depth[0, 0] < depth[0, -1]))
    assert flips == {True, False}


def test_pixels_of_unknown_depth_do_not_count(scenes: Path) -> None:
    predicted, depth = torch.full((1, 4, 4), 10.0), torch.full((1, 4, 4), 5.0)
    depth[0, :2] = 0
    error = log_error(predicted, depth)
    assert torch.equal(error[0, :2], torch.zeros(2, 4))
    torch.testing.assert_close(error[0, 2:], torch.full((2, 4), math.log(2)))
    found = measure(DPT(SMALL), pictures(scenes, "val"), (64, 96))
    assert set(found) == {"RMSE", "AbsRel", "δ<1.25"}
    assert 0 <= found["δ<1.25"] <= 1
