"""Kriging's kernels against the operators' PyTorch form, which has oracles of its own."""

import pytest
import torch

from expedite.geometry.tiling import make_tiles
from expedite.operators.clustering import cluster
from expedite.operators.kernels import fits, kriging
from expedite.operators.kriging import NUGGET, _weights, there_and_unit
from expedite.operators.reconstruction import LOCAL_REACH
from tests.operators.kernels.conftest import DEVICE
from tests.oracles import kriging_weights_loop


@pytest.mark.parametrize(
    ("grid", "clusters", "uncut"),
    [((6, 9), (5, 7), 16), ((20, 9), (17, 4), 16), ((18, 18), (12, 11), 0), ((4, 5), (1, 1), 16)],
)
def test_weights_are_those_of_the_operators(
    grid: tuple[int, int], clusters: tuple[int, int], uncut: int
) -> None:
    tokens = torch.randn(2, grid[0] * grid[1], 24, device=DEVICE)
    tokens[1, : tokens.shape[1] // 2] = 0  # so many of one kind leave clusters without a token
    _, record = cluster(tokens, grid, clusters, hard=True)
    assert clusters == (1, 1) or not record.mass.all()
    tiles = make_tiles(grid, clusters, LOCAL_REACH, DEVICE, uncut=uncut)
    there, unit = there_and_unit(record, tiles)
    found = kriging.weigh(record.features, record.centers, there, unit, NUGGET, tiles)
    # Clusters that are alike share a weight, in which parts they do says little.
    values = tiles.windows(record.centers.sin())
    expected = _weights(record, tiles, there, unit) @ values
    torch.testing.assert_close(found @ values, expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(found.sum(-1), torch.ones_like(found[..., 0]), rtol=0, atol=2e-3)
    assert not (found * (1 - there.mT)).any()


def test_clusters_that_are_nearly_alike_get_the_weights_that_they_should() -> None:
    grid, clusters = (16, 16), (8, 8)
    kinds = torch.randn(1, 4, 24).repeat_interleave(64, 1)
    _, record = cluster((kinds + 0.01 * torch.randn(2, 256, 24)).to(DEVICE), grid, clusters)
    tiles = make_tiles(grid, clusters, LOCAL_REACH, DEVICE, uncut=16)
    there, unit = there_and_unit(record, tiles)
    found = kriging.weigh(record.features, record.centers, there, unit, NUGGET, tiles)
    for image in range(2):
        z, s, mass = (x[image].cpu() for x in (record.features, record.centers, record.mass))
        expected = kriging_weights_loop(z.double(), s.double(), mass > 0, NUGGET)
        torch.testing.assert_close(found[image, 0].cpu().double(), expected, rtol=0, atol=2e-2)


def test_what_is_too_large_for_one_program_is_left_to_the_operators() -> None:
    assert fits(torch.empty(1, 1600, 64), make_tiles((40, 40), (16, 16), 0, DEVICE))
    whole = make_tiles((40, 40), (20, 20), 3, DEVICE, uncut=20)
    assert not fits(torch.empty(1, 1600, 64), whole)
