"""Every promise of the reconstruction operator, one test each."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from expedite.errors import ExpediteError
from expedite.operators.clustering import Clustering, cluster
from expedite.operators.reconstruction import (
    RIDGE,
    TokenReconstruction,
    reconstruct,
    solve_positive,
    token_weights,
)
from tests.oracles import dense, first_cells, linear_weights_loop, near, softmax_weights_loop

GRID, CLUSTERS, TAU = (12, 16), (6, 7), 3.0


def clustered(batch: int = 1, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Clustering]:
    tokens = torch.randn(batch, GRID[0] * GRID[1], 8).to(dtype)
    _, record = cluster(tokens, GRID, CLUSTERS, temperature=TAU)
    return tokens, record


def points(record: Clustering) -> tuple[Tensor, Tensor]:
    """Features and centres of the first image in float64."""
    return record.features[0].double(), record.centers[0].double()


def test_softmax_weights_equal_equation_4_in_a_slow_loop() -> None:
    _, record = clustered()
    found = token_weights(record, reconstruction="knn", weights="softmax", k=9)
    expected = softmax_weights_loop(*points(record), float(record.temperature), k=9)
    torch.testing.assert_close(dense(found, 42)[0].double(), expected, rtol=1e-3, atol=1e-4)


def test_linear_weights_equal_constrained_least_squares() -> None:
    _, record = clustered()
    found = token_weights(record, reconstruction="knn", weights="linear", k=6)
    expected = linear_weights_loop(*points(record), k=6, ridge=RIDGE)
    torch.testing.assert_close(dense(found, 42)[0].double(), expected, rtol=1e-2, atol=2e-3)


def test_linear_weights_rebuild_tokens_better_than_softmax() -> None:
    tokens, record = clustered()

    def error(kind: Any) -> float:
        rebuilt = reconstruct(record.centroids, record, weights=kind, delta=False)
        return float((rebuilt - tokens).square().mean())

    assert error("linear") < 0.5 * min(error("softmax"), error("hard"))


def test_local_neighbours_are_the_nearest_among_7_by_7_cells() -> None:
    _, record = clustered()
    found = dense(token_weights(record, weights="softmax", k=3), 42)[0]
    z, s = points(record)
    for p, first in enumerate(first_cells(GRID, CLUSTERS)):
        reachable = [i for i in range(42) if near(first, i, CLUSTERS[1], reach=3)]
        distance = ((z[p] - s[reachable]) ** 2).sum(1)
        nearest = {reachable[i] for i in distance.argsort()[:3].tolist()}
        assert set(found[p].nonzero().flatten().tolist()) <= nearest


@pytest.mark.parametrize("kind", ["kriging", "linear", "softmax", "hard"])
@pytest.mark.parametrize("reconstruction", ["local", "knn"])
def test_weights_sum_to_one(kind: Any, reconstruction: Any) -> None:
    _, record = clustered(batch=2)
    found = token_weights(record, weights=kind, reconstruction=reconstruction)
    sums = dense(found, 42).sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_l2_weights_are_the_published_ones() -> None:
    _, record = clustered()
    found = dense(token_weights(record, reconstruction="knn", weights="l2", k=5), 42)[0]
    z, s = points(record)
    affinity = torch.exp(-(torch.cdist(z, s) ** 2) / float(record.temperature))
    least = affinity.topk(5).values[:, -1:]
    expected = torch.nn.functional.normalize(affinity * (affinity >= least), dim=1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4)
    assert (found.sum(1) > 1).any()


def test_hard_weights_copy_the_nearest_cluster() -> None:
    _, record = clustered()
    values = torch.randn(1, 42, 5)
    found = reconstruct(values, record, reconstruction="knn", weights="hard", k=4, delta=False)
    z, s = points(record)
    nearest = torch.cdist(z, s).argmin(1)
    torch.testing.assert_close(found[0], values[0, nearest])


def test_delta_adds_the_change_of_clusters_to_the_tokens() -> None:
    tokens, record = clustered()
    change = torch.randn(1, 42, 8)
    spread = token_weights(record)
    found = reconstruct(record.centroids + change, record)
    torch.testing.assert_close(found, tokens + spread.apply(change), rtol=1e-4, atol=1e-5)


def test_delta_of_unchanged_clusters_is_the_tokens_bit_for_bit() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        tokens, record = clustered(dtype=dtype)
        assert torch.equal(reconstruct(record.centroids, record), tokens)


def test_one_set_of_weights_serves_every_tap() -> None:
    _, record = clustered()
    layer = TokenReconstruction()
    spread = layer.weigh(record)
    after = torch.randn_like(record.centroids)
    assert torch.equal(layer(after, record, spread), layer(after, record))


grids = st.tuples(st.integers(1, 12), st.integers(1, 12))


@given(grid=grids, data=st.data(), batch=st.sampled_from([0, 1, 3]))
def test_any_grid_any_clusters_any_batch(
    grid: tuple[int, int], data: st.DataObject, batch: int
) -> None:
    clusters = data.draw(st.tuples(st.integers(1, grid[0]), st.integers(1, grid[1])))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
    kind: Any = data.draw(st.sampled_from(["kriging", "linear", "softmax", "l2", "hard"]))
    nearest = st.none() if kind == "kriging" else st.integers(1, clusters[0] * clusters[1])
    k = data.draw(nearest)
    scope: Any = data.draw(st.sampled_from(["local", "knn"]))
    neighborhood = data.draw(st.sampled_from([1, 5, 9]))
    tokens = torch.randn(batch, grid[0] * grid[1], 8).to(dtype)
    centroids, record = cluster(tokens, grid, clusters, neighborhood=neighborhood)
    found = reconstruct(2 * centroids, record, reconstruction=scope, weights=kind, k=k)
    assert found.shape == tokens.shape
    assert found.dtype == dtype
    assert found.isfinite().all()


def test_as_many_clusters_as_tokens_return_what_the_blocks_made() -> None:
    tokens = torch.randn(2, 12, 4)
    _, record = cluster(tokens, (3, 4), (3, 4))
    after = torch.randn(2, 12, 4)
    assert reconstruct(after, record) is after


def test_each_image_is_independent_and_nan_stays_in_its_own() -> None:
    tokens = torch.randn(2, 192, 8)
    _, clean = cluster(tokens[1:], GRID, CLUSTERS)
    tokens[0, 3, 3] = torch.nan
    _, record = cluster(tokens, GRID, CLUSTERS)
    after = torch.randn(2, 42, 8)
    found = reconstruct(after, record)
    assert found[0].isnan().any()
    # Sums over a batch are rounded otherwise.
    torch.testing.assert_close(found[1:], reconstruct(after[1:], clean), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["kriging", "linear", "softmax", "l2", "hard"])
@pytest.mark.parametrize(
    "tokens",
    [
        torch.zeros(1, 192, 8),
        torch.full((1, 192, 8), -3.1),
        1e15 * torch.randn(1, 192, 8),
        1e4 * torch.randn(1, 192, 8).half(),
    ],
    ids=["zero", "constant", "huge", "fp16 near its limit"],
)
@pytest.mark.parametrize("temperature", ["auto", 1e-9])
def test_finite_and_no_zero_vectors(kind: Any, tokens: Tensor, temperature: Any) -> None:
    _, record = cluster(tokens, GRID, CLUSTERS, temperature=temperature)
    ones = torch.ones(1, 42, 3)
    found = reconstruct(ones, record, weights=kind, delta=False)
    assert found.isfinite().all()
    assert (found > 0.5).all()


def test_clusters_without_mass_are_nobodys_neighbours() -> None:
    tokens = torch.zeros(1, 192, 2)
    tokens[0, ::2, 0] = 1
    tokens += 1e-3 * torch.randn(1, 192, 2)
    _, record = cluster(tokens, GRID, CLUSTERS, temperature=1e-9)
    empty = record.mass[0] < 1e-6
    assert empty.any()
    for kind in ("kriging", "linear", "softmax"):
        assert dense(token_weights(record, weights=kind), 42)[0, :, empty].abs().max() == 0


def test_a_neighborhood_wider_than_7_widens_the_search() -> None:
    # Every token's own cluster may then lie outside 7×7 cells.
    tokens = torch.randn(1, 400, 4)
    _, record = cluster(tokens, (20, 20), (20, 10), neighborhood=11, temperature=1e-9)
    assert reconstruct(record.centroids, record, delta=False).isfinite().all()


def test_float32_inside_under_autocast() -> None:
    _, record = clustered()
    after = torch.randn_like(record.centroids)
    expected = reconstruct(after, record)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(reconstruct(after, record), expected)


def test_gradients_reach_clusters_and_tokens() -> None:
    tokens = torch.randn(1, 192, 8, requires_grad=True)
    centroids, record = cluster(tokens, GRID, CLUSTERS)
    reconstruct(3 * centroids, record).square().sum().backward()  # type: ignore[no-untyped-call]
    assert tokens.grad is not None
    assert tokens.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["kriging", "linear", "softmax", "l2", "hard"])
def test_runs_on_any_device_without_looking_at_values(kind: Any) -> None:
    tokens = torch.empty(2, 192, 8, device="meta")
    centroids, record = cluster(tokens, GRID, CLUSTERS)
    assert reconstruct(centroids, record, weights=kind).shape == (2, 192, 8)


@given(k=st.integers(1, 12), batch=st.integers(0, 5))
def test_small_systems_are_solved_as_the_library_solves_them(k: int, batch: int) -> None:
    root = torch.randn(batch, k, k + 2, dtype=torch.float64)
    matrix = root @ root.mT
    diagonal = 0.1 + torch.rand(batch, k, dtype=torch.float64)
    rhs = torch.randn(batch, k, dtype=torch.float64)
    found = solve_positive(matrix.movedim(0, -1), diagonal.T, rhs.T)
    torch.testing.assert_close(found.T, torch.linalg.solve(matrix + diagonal.diag_embed(), rhs))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 43, "weights": "linear"}, "k=43 nearest clusters were asked of 6×7"),
        ({"k": 0, "weights": "linear"}, "k=0"),
        ({"k": 8}, "k=8 nearest clusters were asked with weights='kriging'"),
        ({"weights": "quadratic"}, "weights 'quadratic'"),
        ({"reconstruction": "global"}, "reconstruction 'global'"),
        ({"cluster_tokens": torch.zeros(1, 41, 8)}, r"\(1, 41, 8\) were given for clusters"),
        ({"cluster_tokens": torch.zeros(1, 42, 5)}, r"\(1, 42, 5\) were given for clusters"),
    ],
)
def test_refuses_what_cannot_be_done(arguments: dict[str, Any], message: str) -> None:
    _, record = clustered()
    with pytest.raises(ExpediteError, match=message):
        reconstruct(**{"cluster_tokens": record.centroids, "clustering": record, **arguments})


def test_values_of_another_width_are_reconstructed_plainly() -> None:
    _, record = clustered()
    assert reconstruct(torch.zeros(1, 42, 150), record, delta=False).shape == (1, 192, 150)
