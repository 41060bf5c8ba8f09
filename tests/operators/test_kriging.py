"""Weights by kriging: the equation as it stands, what they reach, and both ways to solve."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from expedite.geometry.tiling import make_one_tile
from expedite.operators.clustering import Clustering, cluster, labels
from expedite.operators.kriging import NUGGET, TileWeights, kriging_weights
from expedite.operators.reconstruction import reconstruct, token_weights
from tests.oracles import dense, first_cells, kriging_weights_loop

GRID, CLUSTERS = (12, 16), (6, 7)
CPU = torch.device("cpu")


def of_windows(record: Clustering) -> Tensor:
    """The weights themselves (B, N, h·w), also of tokens that are their cluster."""
    found = token_weights(record)
    assert isinstance(found, TileWeights)
    inexact = replace(found, exact=torch.zeros_like(found.exact))
    return dense(inexact, record.mass.shape[1])


def whole(record: Clustering) -> Tensor:
    """Weights of all clusters (B, N, h·w)."""
    one_tile = make_one_tile(record.grid, record.clusters, CPU)
    return dense(kriging_weights(record, one_tile), record.mass.shape[1])


@pytest.mark.parametrize("relocated", [0.0, 0.3])
def test_equals_the_bordered_system_solved_token_by_token(relocated: float) -> None:
    tokens = torch.randn(2, 192, 8)
    _, record = cluster(tokens, GRID, CLUSTERS, hard=True, relocated=relocated)
    found = whole(record)
    for image in range(2):
        z, s = record.features[image].double(), record.centers[image].double()
        expected = kriging_weights_loop(z, s, record.mass[image] > 0, NUGGET)
        own = labels(record)[image]
        exact = ((z - s[own]) ** 2).sum(1, keepdim=True) < 1e-6
        assert exact.any() or not relocated
        expected = torch.where(exact, torch.nn.functional.one_hot(own, 42), expected)
        torch.testing.assert_close(found[image].double(), expected, rtol=1e-3, atol=1e-4)


def test_a_smooth_change_is_guessed_better_than_by_the_nearest_clusters() -> None:
    tokens = torch.randn(1, 192, 4)
    _, record = cluster(tokens, GRID, CLUSTERS, hard=True, relocated=0.3)
    turn: Tensor = torch.linalg.qr(torch.randn(4, 4)).Q

    def change(x: Tensor) -> Tensor:
        return (x @ turn).sin()

    def error(kind: str) -> float:
        before = record.centroids
        after = reconstruct(before + change(before), record, weights=kind)  # type: ignore[arg-type]
        return float((after - tokens - change(tokens)).square().mean())

    assert error("kriging") < 0.8 * min(error("linear"), error("softmax"), error("hard"))


def test_a_token_that_is_a_cluster_is_that_cluster_however_far_its_place() -> None:
    tokens = torch.randn(1, 40 * 40, 8)
    tokens[0, 3] = tokens[0, -5] = 40.0 * torch.ones(8)
    _, record = cluster(tokens, (40, 40), (20, 20), hard=True, relocated=0.3)
    values = torch.randn(1, 400, 3)
    found = token_weights(record).apply(values)
    own = labels(record)[0]
    alone = own.bincount(minlength=400)[own] == 1
    assert 10 < alone.sum() < 400
    assert torch.equal(found[0, alone], values[0, own[alone]])


def test_up_to_16_cells_a_side_all_are_weighed_and_beyond_those_around_the_tile() -> None:
    _, record = cluster(torch.randn(1, 40 * 32, 8), (40, 32), (20, 16))
    weights = of_windows(record)[0].reshape(-1, 20, 16) != 0
    for token, (row, _) in enumerate(first_cells((40, 32), (20, 16))):
        tile = row // 4
        rows = weights[token].any(1).nonzero().flatten()
        first, last = rows.aminmax()
        assert (int(first), int(last)) == (max(0, 4 * tile - 2), min(19, 4 * tile + 5))
        assert weights[token].any(0).all()


def test_where_no_cluster_in_reach_has_a_token_nothing_is_added() -> None:
    _, record = cluster(torch.randn(1, 40 * 40, 8), (40, 40), (20, 20))
    mass = record.mass.clone().view(20, 20)
    mass[:10] = 0
    object.__setattr__(record, "mass", mass.view(1, -1))
    found = of_windows(record)[0].reshape(40, 40, 400)
    assert found.isfinite().all()
    assert (found[:, :, :200] == 0).all()
    assert (found[0] == 0).all()
    torch.testing.assert_close(found[39].sum(-1), torch.ones(40))


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e15])
def test_scale_changes_nothing(scale: float) -> None:
    tokens = torch.randn(1, 192, 8)
    (_, record), (_, scaled) = (cluster(x, GRID, CLUSTERS) for x in (tokens, scale * tokens))
    torch.testing.assert_close(whole(scaled), whole(record), rtol=1e-2, atol=1e-3)
