"""Tokens under the clusterings in force in a call: averages over clusters, and the full grid."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from expedite.operators.clustering import Clustering, pool
from expedite.operators.reconstruction import TokenReconstruction
from expedite.operators.windows import (
    WindowClustering,
    WindowTokenReconstruction,
    as_map,
    pool_windows,
)
from expedite.patching.frame import Frame


def on_grid(tokens: Tensor, prefix: int, suffix: int, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply `change` to the tokens between the first `prefix` and the last `suffix`."""
    if prefix == suffix == 0:
        return change(tokens)
    end = tokens.shape[1] - suffix
    body = change(tokens[:, prefix:end])
    return torch.cat([tokens[:, :prefix], body, tokens[:, end:]], dim=1)


def mean(frame: Frame, body: Tensor) -> Tensor:
    """Means (B, h·w, C) over the clusters in force of what tokens (B, N, C) have, or maps."""
    is_flat = is_flat_map(frame, body)
    for level in frame.levels:
        if isinstance(level.record, Clustering):
            body = pool(body, level.record)
        else:
            body = body[:, level.order[1]] if is_flat and level.order else body
            as_a_map = as_map(body, level.record.grid)
            body = pool_windows(as_a_map, level.record)
    return body.flatten(1, 2) if is_flat else body


def with_mean(frame: Frame, tokens: Tensor, prefix: int) -> Tensor:
    """The first `prefix` tokens and the mean of the clusters behind, weighed by their masses."""
    mass = frame.levels[-1].record.mass
    share = (mass / mass.sum(1, keepdim=True))[:, None]  # (B, 1, h·w)
    return on_grid(tokens, prefix, 0, lambda body: (share @ body.float()).to(body.dtype))


def pool_levels(frame: Frame, body: Tensor) -> Tensor:
    """Average over the clusters in force, and let their records remember these tokens instead."""
    for level, record in zip(frame.levels, frame.records, strict=True):
        centroids = pool(body, record)
        level.record = replace(record, tokens=body, centroids=centroids)
        body = centroids
    return body


def restore_levels(
    frame: Frame, layer: TokenReconstruction | WindowTokenReconstruction, body: Tensor
) -> Tensor:
    """The full grid, row by row or in the order in which its tokens came, of cluster tokens."""
    is_flat = is_flat_map(frame, body)
    if is_flat:
        body = as_map(body, frame.levels[-1].record.clusters)
    for level in reversed(frame.levels):
        if level.weights is None and not level.record.is_identity:
            level.weights = layer.weigh(level.record)
        body = layer(body, level.record, level.weights)
    order = frame.levels[0].order
    body = body.flatten(1, 2) if is_flat else body
    return body if order is None else body[:, order[0]]


def is_flat_map(frame: Frame, body: Tensor) -> bool:
    """Whether tokens that windows are cut from came as (B, H·W, C)."""
    return body.dim() == 3 and isinstance(frame.levels[-1].record, WindowClustering)
