"""Deformable attention against a slow loop from its definition."""

import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from expedite.models.deformable import DeformableAttention, grid_places, sample
from tests.models.drawn import draw_weights

GRIDS = ((5, 4), (3, 2))

pytestmark = pytest.mark.usefixtures("no_gradients")


def bilinear(one_map: Tensor, x: float, y: float) -> Tensor:
    """The value (d,) of a map (H, W, d) at a place, x from 0 at its left edge to 1 at its right."""
    height, width, _ = one_map.shape
    column, row = x * width - 0.5, y * height - 0.5
    total = torch.zeros(one_map.shape[-1], dtype=torch.float64)
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < height and 0 <= j < width:
                total += (1 - abs(row - i)) * (1 - abs(column - j)) * one_map[i, j]
    return total


def test_equals_a_loop_also_beyond_the_borders() -> None:
    batch, queries, heads, depth, points = 2, 5, 3, 4, 2
    values = torch.randn(batch, 26, heads, depth)
    places = torch.rand(batch, queries, 2)
    offsets = 3 * torch.randn(batch, queries, heads, len(GRIDS), points, 2)
    weights = torch.rand(batch, queries, heads, len(GRIDS), points)
    found = sample(values, GRIDS, places, offsets, weights).reshape(batch, queries, heads, depth)
    expected = torch.zeros(found.shape, dtype=torch.float64)
    starts = (0, 20)
    for b, q, h, level, point in torch.cartesian_prod(
        *(torch.arange(n) for n in (batch, queries, heads, len(GRIDS), points))
    ).tolist():
        height, width = GRIDS[level]
        body = values[b, starts[level] : starts[level] + height * width, h].double()
        away = offsets[b, q, h, level, point].double()
        x = places[b, q, 0].item() + away[0].item() / width
        y = places[b, q, 1].item() + away[1].item() / height
        weight = weights[b, q, h, level, point].double()
        expected[b, q, h] += weight * bilinear(body.reshape(height, width, depth), x, y)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_looks_around_at_first() -> None:
    """Heads look right, down, left and up, each point a step farther; all count alike."""
    attention = DeformableAttention(8, heads=4, levels=1, points=2)
    offsets = attention.sampling_offsets(torch.randn(1, 8)).reshape(4, 2, 2)
    right, down = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    one = torch.stack([right, down, -right, -down])
    torch.testing.assert_close(offsets, torch.stack([one, 2 * one], 1), rtol=1e-6, atol=1e-6)
    assert not attention.attention_weights(torch.randn(1, 8)).any()


def test_places_are_finer_than_half_precision() -> None:
    """On a map of 512 columns, neighbours are told apart in bfloat16 too."""
    attention = DeformableAttention(8, heads=1, levels=1, points=1)
    attention.sampling_offsets.bias.zero_()
    features = torch.arange(512.0)[None, :, None].expand(1, 512, 8)
    at = grid_places(((1, 512),), torch.device("cpu"))
    queries = torch.zeros(1, 512, 8)
    plain = attention(queries, at, features, ((1, 512),))
    half = attention.bfloat16()(queries.bfloat16(), at, features.bfloat16(), ((1, 512),))
    assert (half.float() - plain).abs().max() < 0.02 * plain.abs().max()


@pytest.mark.slow
def test_exports_to_onnx(tmp_path: Path) -> None:
    places = grid_places(((3, 2),), torch.device("cpu"))
    model = Fixed(DeformableAttention(8, heads=2, levels=2), places).eval()
    draw_weights(model.state_dict())
    inputs = torch.randn(2, 6, 8), torch.randn(2, 26, 8)
    program = torch.onnx.export(model, inputs, dynamo=True, verbose=False)
    assert program is not None
    program.save(tmp_path / "attention.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "attention.onnx")
    names = (given.name for given in session.get_inputs())
    feeds = {name: given.numpy() for name, given in zip(names, inputs, strict=True)}
    np.testing.assert_allclose(
        session.run(None, feeds)[0], model(*inputs).numpy(), rtol=1e-4, atol=1e-4
    )


class Fixed(nn.Module):
    """Deformable attention from places and on maps that stay as they are."""

    def __init__(self, attention: DeformableAttention, places: Tensor) -> None:
        super().__init__()
        self.attention = attention
        self.places = nn.Buffer(places)

    def forward(self, queries: Tensor, features: Tensor) -> Tensor:
        found: Tensor = self.attention(queries, self.places, features, GRIDS)
        return found
