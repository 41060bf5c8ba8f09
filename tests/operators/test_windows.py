"""Window clustering against one window at a time, on maps that windows do not divide."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from expedite import ExpediteError
from expedite.operators import clustering
from expedite.operators.clustering import cluster
from expedite.operators.reconstruction import reconstruct
from expedite.operators.windows import (
    cluster_windows,
    clustered,
    partition,
    pool_windows,
    reconstruct_windows,
    unpartition,
    window_labels,
)

sides = st.integers(1, 11)
pytestmark = pytest.mark.usefixtures("no_gradients")


def weighted(k: int | None, cells: tuple[int, int]) -> dict[str, Any]:
    """Settings of reconstruction from at most `k` of the cells, or from all by kriging."""
    if k is None:
        return {"weights": "kriging"}
    return {"weights": "linear", "k": min(k, cells[0] * cells[1])}


def one_at_a_time(
    tokens: Tensor, window: tuple[int, int], cells: tuple[int, int], k: int | None, **settings: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Centroids, masses and tokens rebuilt from twice the centroids, window by window."""
    batch, height, width, channels = tokens.shape
    (high, wide), (h, w) = window, cells
    total = -(-height * h // high), -(-width * w // wide)
    centroids, mass = torch.zeros(batch, *total, channels), torch.zeros(batch, *total)
    rebuilt = torch.zeros_like(tokens)
    for image in range(batch):
        for top in range(0, height, high):
            for left in range(0, width, wide):
                part = tokens[image, top : top + high, left : left + wide]
                rows, columns = part.shape[:2]
                grid = -(-rows * h // high), -(-columns * w // wide)
                means, record = cluster(
                    part.reshape(1, -1, channels), (rows, columns), grid, **settings
                )
                back = reconstruct(2 * means, record, **weighted(k, grid))
                down, across = top * h // high, left * w // wide
                place = image, slice(down, down + grid[0]), slice(across, across + grid[1])
                centroids[place] = means.reshape(*grid, channels)
                mass[place] = record.mass.reshape(grid)
                rebuilt[image, top : top + high, left : left + wide] = back.reshape(part.shape)
    return centroids, mass, rebuilt


@given(height=sides, width=sides, window=st.tuples(sides, sides), data=st.data())
def test_equals_one_window_at_a_time(
    height: int, width: int, window: tuple[int, int], data: st.DataObject
) -> None:
    cells = data.draw(st.integers(1, window[0])), data.draw(st.integers(1, window[1]))
    k = data.draw(st.none() | st.integers(1, min(8, cells[0] * cells[1])))
    tokens = torch.randn(2, height, width, 6)
    centroids, record = cluster_windows(tokens, window, cells, iterations=2)
    means, mass, rebuilt = one_at_a_time(tokens, window, cells, k, iterations=2)
    torch.testing.assert_close(centroids, means, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(record.mass, mass, rtol=1e-3, atol=1e-3)
    found = reconstruct_windows(2 * centroids, record, **weighted(k, cells))
    torch.testing.assert_close(found, rebuilt, rtol=1e-2, atol=1e-2)
    assert centroids.shape[1:3] == record.clusters == clustered((height, width), window, cells)


@given(height=sides, width=sides, window=st.tuples(sides, sides), data=st.data())
def test_padding_is_clustered_like_a_map_filled_up_with_zeros(
    height: int, width: int, window: tuple[int, int], data: st.DataObject
) -> None:
    cells = data.draw(st.integers(1, window[0])), data.draw(st.integers(1, window[1]))
    assume(cells != window)
    tokens = torch.randn(2, height, width, 6)
    zeros = 0, 0, 0, -width % window[1], 0, -height % window[0]
    centroids, record = cluster_windows(tokens, window, cells, padding=True)
    expected, of_filled = cluster_windows(F.pad(tokens, zeros), window, cells)
    torch.testing.assert_close(centroids, expected)
    torch.testing.assert_close(record.mass, of_filled.mass)
    assert record.clusters == of_filled.clusters
    torch.testing.assert_close(
        pool_windows(tokens, record), pool_windows(F.pad(tokens, zeros), of_filled)
    )
    full = reconstruct_windows(2 * expected, of_filled)[:, :height, :width]
    torch.testing.assert_close(reconstruct_windows(2 * centroids, record), full)
    assert torch.equal(
        window_labels(record),
        window_labels(of_filled).view(2, *of_filled.grid)[:, :height, :width].flatten(1),
    )


def test_nothing_fills_windows_up_whose_tokens_stay() -> None:
    tokens = torch.randn(1, 5, 7, 3)
    centroids, record = cluster_windows(tokens, (4, 4), (4, 4), padding=True)
    assert centroids is tokens and record.clusters == (5, 7)


@given(height=sides, width=sides, window=st.tuples(sides, sides), data=st.data())
def test_masses_count_every_token_once_and_no_padding(
    height: int, width: int, window: tuple[int, int], data: st.DataObject
) -> None:
    cells = data.draw(st.integers(1, window[0])), data.draw(st.integers(1, window[1]))
    weight = torch.rand(2, height, width)
    _, record = cluster_windows(torch.randn(2, height, width, 6), window, cells, mass=weight)
    torch.testing.assert_close(record.mass.sum((1, 2)), weight.sum((1, 2)), rtol=1e-4, atol=1e-4)


def test_features_decide_where_tokens_go() -> None:
    tokens, features = torch.randn(1, 7, 6, 4), torch.randn(1, 7, 6, 3)
    centroids, record = cluster_windows(tokens, (4, 4), (2, 2), features=features)
    corner = tokens[:, :4, :4].reshape(1, 16, 4)
    means, _ = cluster(corner, (4, 4), (2, 2), features=features[:, :4, :4].reshape(1, 16, 3))
    torch.testing.assert_close(centroids[:, :2, :2].reshape(1, 4, 4), means)
    assert record.clusters == (4, 3)


def test_as_many_clusters_as_tokens_are_the_tokens() -> None:
    tokens = torch.randn(2, 10, 9, 4)
    centroids, record = cluster_windows(tokens, (4, 4), (4, 4))
    assert centroids is tokens
    assert record.is_identity
    assert reconstruct_windows(centroids, record) is centroids


@given(height=sides, width=sides, window=st.tuples(sides, sides), data=st.data())
def test_without_borders_the_map_is_clustered_as_one(
    height: int, width: int, window: tuple[int, int], data: st.DataObject
) -> None:
    cells = data.draw(st.integers(1, window[0])), data.draw(st.integers(1, window[1]))
    size = clustered((height, width), window, cells)
    k = data.draw(st.none() | st.integers(1, min(8, cells[0] * cells[1], size[0] * size[1])))
    tokens = torch.randn(2, height, width, 6)
    centroids, record = cluster_windows(tokens, window, cells, borders=False)
    means, plain = cluster(tokens.flatten(1, 2), (height, width), size)
    assert torch.equal(centroids.flatten(1, 2), means)
    assert torch.equal(record.mass.flatten(1), plain.mass)
    back = reconstruct(2 * means, plain, **weighted(k, size))
    found = reconstruct_windows(2 * centroids, record, **weighted(k, size))
    assert torch.equal(found.flatten(1, 2), back)


def test_hard_assignment_without_the_shortcut_gives_every_token_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens = torch.randn(2, 10, 9, 4)
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    hard: dict[str, Any] = {"temperature": 1e-12, "iterations": 1}
    centroids, record = cluster_windows(tokens, (4, 4), (4, 4), **hard)
    torch.testing.assert_close(centroids, tokens)
    for delta in (True, False):
        back = reconstruct_windows(2 * centroids, record, weights="hard", delta=delta)
        torch.testing.assert_close(back, 2 * tokens)


def test_windows_do_not_see_each_other() -> None:
    tokens = torch.randn(1, 8, 8, 4)
    centroids, record = cluster_windows(tokens, (4, 4), (3, 3))
    other = tokens.clone()
    other[:, :4, :4] = torch.nan
    changed, with_nan = cluster_windows(other, (4, 4), (3, 3))
    assert torch.equal(changed[:, 3:], centroids[:, 3:])
    assert torch.equal(
        reconstruct_windows(changed, with_nan)[:, 4:], reconstruct_windows(centroids, record)[:, 4:]
    )


@given(n=sides, m=sides, window=st.tuples(sides, sides))
def test_a_map_comes_back_from_its_windows(n: int, m: int, window: tuple[int, int]) -> None:
    x = torch.randn(2, n * window[0], m * window[1], 3)
    windows = partition(x, window)
    assert windows.shape == (2 * n * m, *window, 3)
    assert torch.equal(windows[m * n - 1], x[0, -window[0] :, -window[1] :])
    assert torch.equal(unpartition(windows, (n, m)), x)


def test_windows_compile_into_one_graph() -> None:
    torch.compiler.reset()

    def there_and_back(tokens: Tensor) -> Tensor:
        centroids, record = cluster_windows(tokens, (4, 4), (3, 3))
        return reconstruct_windows(centroids.tanh(), record)

    tokens = torch.randn(2, 10, 9, 4)
    compiled = torch.compile(there_and_back, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(tokens), there_and_back(tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "cells", "k", "message"),
    [
        ((2, 64, 4), (2, 2), 1, "windows are those of a map"),
        ((2, 8, 8, 4), (5, 5), 1, "5×5 clusters were asked of a grid of 4×4"),
        ((2, 8, 8, 4), (2, 2), 5, "k can be at most 4"),
    ],
)
def test_refuses_what_cannot_be_done(
    shape: tuple[int, ...], cells: tuple[int, int], k: int, message: str
) -> None:
    with pytest.raises(ExpediteError, match=message):
        centroids, record = cluster_windows(torch.randn(shape), (4, 4), cells)
        reconstruct_windows(centroids, record, weights="linear", k=k)


@given(height=sides, width=sides, window=st.tuples(sides, sides), borders=st.booleans())
def test_labels_say_which_tokens_a_centroid_is_the_mean_of(
    height: int, width: int, window: tuple[int, int], borders: bool
) -> None:
    cells = -(-window[0] // 2), -(-window[1] // 3)
    tokens = torch.randn(2, height, width, 3)
    centroids, record = cluster_windows(tokens, window, cells, borders=borders, hard=True)
    found = window_labels(record)
    bodies, places = tokens.flatten(1, 2), centroids.flatten(1, 2)
    for body, means, index in zip(bodies, places, found, strict=True):
        for place in index.unique():
            torch.testing.assert_close(body[index == place].mean(0), means[place])
