"""Sums of rows against loops over them, and the operators' PyTorch form."""

import pytest
import torch

from expedite.operators.clustering import cluster
from expedite.operators.kernels import rows
from expedite.operators.kriging import TileWeights
from expedite.operators.reconstruction import token_weights
from tests.operators.kernels.conftest import DEVICE

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [7, 64, 100])
def test_channels_are_folded(dtype: torch.dtype, channels: int) -> None:
    # Tokens behind a prefix, as hosts have them.
    features = torch.randn(2, 38, channels, device=DEVICE, dtype=dtype)[:, 1:]
    factors, expected = torch.randn(2, 1, channels, device=DEVICE), torch.zeros(2, 37, 7)
    for channel in range(channels):
        expected[..., channel % 7] += (features * factors)[..., channel].cpu().float()
    torch.testing.assert_close(rows.fold(features, factors, 7).cpu(), expected, rtol=1e-2, atol=0.1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tokens_are_added_to_their_clusters(dtype: torch.dtype) -> None:
    values = torch.randn(2, 50, 70, device=DEVICE, dtype=dtype)
    labels, share = torch.randint(6, (2, 50), device=DEVICE), torch.rand(2, 50, 1, device=DEVICE)
    expected = torch.zeros(2, 9, 70)
    for image in range(2):
        for token in range(50):
            expected[image, labels[image, token]] += (
                values[image, token].float() * share[image, token]
            ).cpu()
    torch.testing.assert_close(rows.add_rows(values, labels, share, 9).cpu(), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("grid", "clusters"), [((6, 9), (5, 7)), ((20, 9), (17, 4))])
def test_values_are_spread_as_by_the_operators(
    dtype: torch.dtype, grid: tuple[int, int], clusters: tuple[int, int]
) -> None:
    tokens = torch.randn(2, grid[0] * grid[1], 70, device=DEVICE).to(dtype)
    centroids, record = cluster(tokens, grid, clusters, hard=True, relocated=0.3)
    spread = token_weights(record)
    assert isinstance(spread, TileWeights)
    assert spread.exact.any() and not spread.exact.all()
    after = (centroids + torch.randn_like(centroids)).to(dtype)
    found = rows.spread(spread.weights, spread.tiles, spread.own, spread.exact, after)
    rtol, atol = (1e-4, 1e-4) if dtype == torch.float32 else (0.02, 0.05)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, spread.apply(after), rtol=rtol, atol=atol)
    changed = rows.spread(
        spread.weights, spread.tiles, spread.own, spread.exact, after, centroids, tokens
    )
    expected = spread.apply(after.float() - centroids.float()) + tokens
    assert changed.dtype == dtype
    torch.testing.assert_close(changed.float(), expected, rtol=rtol, atol=atol)


def test_shares_of_clusters_sum_to_one_or_are_none() -> None:
    labels = torch.randint(1, 9, (2, 600), device=DEVICE)
    weight = torch.rand(2, 600, 1, device=DEVICE)
    weight[0, labels[0] == 4] = 0
    mass = weight.new_zeros(2, 12).scatter_add(1, labels, weight[..., 0])
    share = rows.shares(labels, weight, mass, 1e-6)[..., 0]
    totals = mass.new_zeros(2, 12).scatter_add(1, labels, share)
    torch.testing.assert_close(totals, (mass > 0).float())


def test_half_distances() -> None:
    points, centers = torch.randn(2, 50, 20, device=DEVICE), torch.randn(2, 7, 20, device=DEVICE)
    labels = torch.randint(7, (2, 50), device=DEVICE)
    expected = torch.cdist(points, centers).square().gather(2, labels[..., None]) / 2
    torch.testing.assert_close(rows.half_distances(points, centers, labels), expected)
