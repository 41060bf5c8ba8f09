"""The depth training script on a handful of tiny scenes: it learns, and what is unknown is left."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lessons import Views, pictures
from train_dpt import CONFIG, depth_loss, log_error, measure, read_pair
from training import start, step_down

from expedite.models.dpt import DPT
from expedite.scenes.scenes import write_scenes

SMALL = replace(CONFIG, width=64, heads=1, layers=4, taps=(0, 1, 2, 3), image_size=(64, 96))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root, "train", 3, (40, 56))
    return root


def fresh() -> DPT:
    torch.manual_seed(0)
    return DPT(SMALL)


def test_loss_falls(scenes: Path) -> None:
    run = start(fresh(), 24, lr=3e-3, other_lr=1e-3)
    views = Views(pictures(scenes, "train"), (64, 96), (0, 0), read_pair)
    images, depth = (torch.stack(each) for each in zip(*(views[i] for i in range(3)), strict=True))
    losses = [step_down(run, depth_loss(run.model, (images, depth), False)) for _ in range(12)]
    assert losses[-1] < 0.8 * losses[0]


def test_pixels_of_unknown_depth_do_not_count(scenes: Path) -> None:
    predicted, depth = torch.full((1, 4, 4), 10.0), torch.full((1, 4, 4), 5.0)
    depth[0, :2] = 0
    error = log_error(predicted, depth)
    assert torch.equal(error[0, :2], torch.zeros(2, 4))
    torch.testing.assert_close(error[0, 2:], torch.full((2, 4), math.log(2)))
    found = measure(DPT(SMALL), pictures(scenes, "train"), (64, 96))
    assert set(found) == {"RMSE", "AbsRel", "δ<1.25"}
    assert 0 <= found["δ<1.25"] <= 1
