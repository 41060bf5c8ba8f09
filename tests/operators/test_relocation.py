"""Relocation against a loop over clusters and tokens."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from expedite import ExpediteError, Plan, Span
from expedite.operators.assignment import HardAssignment
from expedite.operators.clustering import cluster, labels
from expedite.operators.reconstruction import reconstruct, token_weights
from expedite.operators.relocation import relocate

sides = st.integers(1, 6)


def relocate_loop(
    own: Tensor, x: Tensor, weight: Tensor, clusters: tuple[int, int], count: int
) -> Tensor:
    """Labels (N,) of one image after `count` clusters moved."""
    h, w = clusters
    own = own.clone()

    def mean(cell: int) -> Tensor:
        mine = own == cell
        return (x[mine] * weight[mine, None]).sum(0) / weight[mine].sum()

    unions = []
    for cell in range(h * w):
        row, column = divmod(cell, w)
        if (row + column) % 2:
            continue
        costs = []
        for down, right in ((-1, 0), (0, -1), (0, 1), (1, 0)):
            if 0 <= row + down < h and 0 <= column + right < w:
                other = (row + down) * w + column + right
                one, two = (float(weight[own == c].sum()) for c in (cell, other))
                gap = float((mean(cell) - mean(other)).square().sum())
                costs.append((one * two / (one + two) * gap, other))
        if costs:
            unions.append((*min(costs), cell))
    errors = torch.stack(
        [(x[p] - mean(int(own[p]))).square().sum() * weight[p] for p in range(len(x))]
    )
    for cell in own.unique().tolist():  # type: ignore[no-untyped-call]
        mine = (own == cell).nonzero()[:, 0]
        errors[mine[errors[mine].argmin()]] = 0  # which stays
    order = errors.argsort(descending=True).tolist()
    moved = [
        (cell, other, token)
        for (cost, other, cell), token in zip(sorted(unions)[:count], order, strict=False)
        if errors[token] > cost
    ]
    for cell, other, _ in moved:
        own[own == cell] = other
    for cell, _, token in moved:
        own[token] = cell
    return own


def same_partition(one: Tensor, other: Tensor) -> bool:
    """Whether the same tokens are together, whatever the clusters are called."""
    return torch.equal(one[:, None] == one, other[:, None] == other)


@given(clusters=st.tuples(sides, sides), seed=st.integers(0, 99), share=st.floats(0.1, 0.5))
def test_equals_a_loop(clusters: tuple[int, int], seed: int, share: float) -> None:
    h, w = clusters
    count = int(share * h * w)
    generator = torch.Generator().manual_seed(seed)
    own = torch.arange(2 * h * w).remainder(h * w).expand(2, -1)  # none empty: no ties at 0
    x = torch.randn(2, 2 * h * w, 3, generator=generator)
    weight = torch.rand(2, 2 * h * w, 1, generator=generator) + 0.5
    before = HardAssignment.of(own, weight, h * w)
    means = before.means(x, x[:, : h * w])
    after, centers = relocate(before, x, means, weight, clusters, count)
    for image in range(2):
        expected = relocate_loop(own[image], x[image], weight[image, :, 0], clusters, count)
        assert same_partition(after.labels[image], expected)
    torch.testing.assert_close(after.mass.sum(1), weight.sum((1, 2)))
    filled = after.mass > 0
    torch.testing.assert_close(centers[filled], after.means(x, centers)[filled])


def test_clusters_without_tokens_move_first() -> None:
    own = torch.tensor([[1, 1, 1, 3, 3, 3]])  # 0 and 2 are empty
    x = torch.tensor([[[0.0], [0.0], [0.0], [4.0], [7.0], [9.0]]])
    one = torch.ones(1, 6, 1)
    before = HardAssignment.of(own, one, 4)
    after, _ = relocate(before, x, before.means(x, torch.zeros(1, 4, 1)), one, (1, 4), 2)
    assert same_partition(after.labels[0], torch.tensor([1, 1, 1, 0, 3, 2]))


def test_nothing_goes_into_a_cluster_without_tokens() -> None:
    # Both could at no cost, and would be one cluster.
    own = torch.tensor([[0, 0, 2, 2, 4, 4]])  # 1 and 3 are empty
    x = torch.tensor([[[0.0], [0.0], [5.0], [5.0], [9.0], [9.0]]])
    one = torch.ones(1, 6, 1)
    before = HardAssignment.of(own, one, 5)
    after, _ = relocate(before, x, before.means(x, torch.zeros(1, 5, 1)), one, (1, 5), 2)
    assert same_partition(after.labels[0], own[0])


@given(seed=st.integers(0, 99))
def test_one_move_never_adds_to_the_squared_distances(seed: int) -> None:
    x = torch.randn(1, 100, 4, generator=torch.Generator().manual_seed(seed))

    def error(share: float) -> float:
        _, record = cluster(x, (10, 10), (6, 5), hard=True, relocated=share)
        own = record.centers[0, labels(record)[0]]
        return float((record.features[0] - own).square().sum())

    assert error(1 / 30) <= error(0.0) * (1 + 1e-5)


def test_moves_clusters_from_even_ground_to_detail() -> None:
    # Left half nearly constant, right half noise.
    tokens = 0.01 * torch.randn(1, 16, 16, 8)
    tokens[:, :, 8:] *= 100
    flat = tokens.flatten(1, 2)
    settings: dict[str, Any] = {"hard": True}

    def left(share: float) -> int:
        _, record = cluster(flat, (16, 16), (8, 8), relocated=share, **settings)
        of_left = labels(record).view(16, 16)[:, :8]
        return int(torch.zeros(64).index_fill(0, of_left.flatten(), 1).sum())

    assert left(0.25) < left(0.0) - 8


def test_a_token_alone_is_reconstructed_from_its_cluster_alone() -> None:
    tokens = torch.randn(1, 16 * 16, 8)
    centroids, record = cluster(tokens, (16, 16), (8, 8), hard=True, relocated=0.25)
    assert isinstance(record.assignment, HardAssignment)
    alone = record.mass.gather(1, record.assignment.labels)[0] == 1
    assert alone.any()
    after = torch.randn_like(centroids)
    spread = token_weights(record).apply(after)
    torch.testing.assert_close(spread[0, alone], after[0, record.assignment.labels[0, alone]])
    back = reconstruct(after, record, delta=False)
    torch.testing.assert_close(back[0, alone], spread[0, alone])


@pytest.mark.parametrize("share", [-0.1, 0.6])
def test_refuses_shares_that_cannot_move(share: float) -> None:
    with pytest.raises(ExpediteError, match="a share"):
        cluster(torch.randn(1, 16, 4), (4, 4), (2, 2), hard=True, relocated=share)
    with pytest.raises(ExpediteError, match="a share"):
        Plan((Span(1, 4),), relocated=share)


def test_soft_shares_leave_no_single_tokens() -> None:
    with pytest.raises(ExpediteError, match="hard=True works"):
        cluster(torch.randn(1, 16, 4), (4, 4), (2, 2), relocated=0.2)
    with pytest.raises(ExpediteError, match="need hard=True"):
        Plan((Span(1, 4),), hard=False, relocated=0.2)
