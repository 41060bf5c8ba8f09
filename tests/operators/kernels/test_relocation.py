"""Relocation's kernels against its PyTorch form."""

import pytest
import torch

from expedite.operators.kernels import relocation
from expedite.operators.relocation import _all_but_nearest, _chessboard, _unions
from tests.operators.kernels.conftest import DEVICE


@pytest.mark.parametrize("clusters", [(1, 3), (5, 4), (7, 9)])
@pytest.mark.parametrize("depth", [3, 40])
def test_unions_are_the_cheapest(clusters: tuple[int, int], depth: int) -> None:
    cells = clusters[0] * clusters[1]
    centers = torch.randn(2, cells, depth, device=DEVICE)
    mass = torch.randint(0, 3, (2, cells), device=DEVICE).float()
    board = _chessboard(*clusters, DEVICE)
    cost, into = relocation.unions(centers, mass, *board)
    expected_cost, expected = _unions(centers, mass, *board)
    torch.testing.assert_close(cost, expected_cost)
    # Clusters without mass go at no cost wherever they go.
    counts = (mass[:, board[0]] > 0) & cost.isfinite()
    assert counts.any()
    assert into[counts].equal(expected[counts])


def test_the_nearest_token_of_every_cluster_stays() -> None:
    error = torch.rand(2, 150, device=DEVICE)
    labels = torch.randint(0, 20, (2, 150), device=DEVICE)
    error[0, labels[0] == 7] = 0.25  # the first of equals
    error[1, labels[1] == 3] = 0
    found = relocation.all_but_nearest(error, labels, 23, 1e-3)
    assert found.equal(_all_but_nearest(error, labels, 23))
    assert (found == 0).sum() >= 20
