"""EM's kernels against the operators' PyTorch form, which has oracles of its own."""

import pytest
import torch

from expedite.geometry.tiling import make_tiles
from expedite.operators import kernels
from expedite.operators.clustering import TIE, _em, average_pool
from expedite.operators.kernels import em, fits
from tests.operators.kernels.conftest import DEVICE

# One tile and several, oblong, more tokens than a program takes at once, windows of 16 and more.
CASES = [
    ((6, 9), (5, 7), 20, 2),
    ((13, 11), (13, 3), 64, 2),
    ((20, 18), (9, 8), 33, 3),
    ((16, 16), (2, 1), 8, 1),
]


@pytest.mark.parametrize(("grid", "clusters", "depth", "reach"), CASES)
@pytest.mark.parametrize("nearest_cells", [False, True])
def test_steps_are_those_of_the_operators(
    grid: tuple[int, int], clusters: tuple[int, int], depth: int, reach: int, nearest_cells: bool
) -> None:
    tiles = make_tiles(grid, clusters, reach, DEVICE, nearest=nearest_cells)
    z = torch.randn(2, grid[0] * grid[1], depth, device=DEVICE)
    weight, tau = torch.rand(2, z.shape[1], 1, device=DEVICE), torch.tensor([[[0.5]], [[2.0]]])
    centers, tau = average_pool(z, grid, clusters), tau.to(DEVICE)
    _, soft = _em(z, weight, centers, tau, 1, tiles, False)
    torch.testing.assert_close(em.soft_step(z, weight, centers, tau, tiles), soft)
    hard, _ = _em(z, weight, centers, tau, 1, tiles, True)
    assert em.nearest(z, weight, centers, tau, tiles, TIE).equal(hard.labels)


def test_a_center_without_mass_stays() -> None:
    tiles = make_tiles((8, 8), (4, 4), 1, DEVICE)
    z, centers = torch.randn(1, 64, 4, device=DEVICE), torch.randn(1, 16, 4, device=DEVICE)
    centers[0, 5] = 1e3
    moved = em.soft_step(
        z, z.new_ones(1, 64, 1), centers, torch.tensor([[[0.1]]], device=DEVICE), tiles
    )
    assert moved[0, 5].equal(centers[0, 5])
    assert not moved[0, 6].equal(centers[0, 6])


def test_what_does_not_fit_a_program_is_left_to_the_operators(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiles = make_tiles((40, 40), (20, 20), 2, DEVICE)  # windows of 8×8
    assert fits(torch.empty(1, 1600, 128), tiles)
    assert not fits(torch.empty(1, 1600, 129), tiles)
    assert not fits(torch.empty(1, 1600, 64), make_tiles((40, 40), (20, 20), 7, DEVICE))
    # Smaller GPUs hold less: an RTX 4090 99 KiB.
    monkeypatch.setattr(kernels, "_shared_memory", lambda: 99 * 1024)
    assert fits(torch.empty(1, 1600, 64), tiles)
    assert not fits(torch.empty(1, 1600, 64), make_tiles((40, 40), (20, 20), 4, DEVICE))
