"""What the training scripts share: the schedule, and which optimizer gets what."""

import math

import pytest
import torch
from torch import nn
from training import progress_of, start, step_down, warm_up_and_cosine


def test_the_rate_rises_then_falls_over_sizes() -> None:
    pixels = [1, 1, 1, 1, 4]
    rates = [
        warm_up_and_cosine(progress_of(pixels, epoch, share / 50))
        for epoch in range(5)
        for share in range(50)
    ]
    assert rates[0] == 0
    assert max(rates) > 0.95
    assert rates[-1] < 0.01
    # The one epoch at full size sees as many pixels as the four at half size.
    assert warm_up_and_cosine(progress_of(pixels, 4, 0.0)) == pytest.approx(0.5)


def test_matrices_of_blocks_go_to_muon_and_the_rest_to_adamw() -> None:
    model = nn.Module()
    model.encoder = nn.Module()
    model.encoder.blocks = nn.ModuleList([nn.Linear(3, 4)])
    model.head = nn.Linear(4, 2)
    muon, adamw = start(model, steps=10, lr=0.1, other_lr=0.01).optimizers
    shapes = [
        sorted(tuple(p.shape) for group in optimizer.param_groups for p in group["params"])
        for optimizer in (muon, adamw)
    ]
    assert shapes == [[(4, 3)], [(2,), (2, 4), (4,)]]
    assert (muon.param_groups[0]["lr"], adamw.param_groups[0]["lr"]) == (0.1, 0.01)


def test_a_step_without_a_finite_gradient_is_left_out() -> None:
    layers = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    model = nn.ModuleDict({"layers": layers})
    run = start(model, steps=10, lr=0.1, other_lr=0.1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.ones(2, 3)
    assert math.isnan(step_down(run, (layers(images) * math.inf).sum()))
    assert all(torch.equal(before[name], found) for name, found in model.state_dict().items())
    assert math.isfinite(step_down(run, layers(images)[:, 0].sum()))
    assert not torch.equal(before["layers.0.weight"], model.state_dict()["layers.0.weight"])
