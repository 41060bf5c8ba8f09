"""Rotary positions of clusters: each stands where its tokens are on average.

For each image its own place, since clusters move. Works on the tables of sines and cosines that a
model hands its blocks, whatever they were made from, as long as angles grow evenly along each side.
"""

import torch
from torch import Tensor

from expedite.errors import ExpediteError
from expedite.operators.clustering import Clustering, pool


def grid_positions(grid: tuple[int, int], device: torch.device) -> Tensor:
    """Row and column of every token, (1, H·W, 2) float32."""
    rows, columns = (torch.arange(side, device=device, dtype=torch.float32) for side in grid)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)[None]


def cluster_positions(
    records: list[Clustering], grid: tuple[int, int], device: torch.device
) -> Tensor:
    """Row and column of every cluster of a chain of clusterings, weighed by mass, (B, h·w, 2)."""
    positions = grid_positions(grid, device)
    for record in records:
        positions = pool(positions, record)
    return positions


def rotate(
    sin: Tensor, cos: Tensor, grid: tuple[int, int], positions: Tensor
) -> tuple[Tensor, Tensor]:
    """Sines and cosines between those of a grid's tokens.

    Args:
        sin: (H·W, D) of the angles of every token, in row-major order. Neighbours differ by less
            than π, and by the same along each side.
        cos: (H·W, D).
        grid: (H, W).
        positions: (B, n, 2) rows and columns.

    Returns:
        Two tables (B, 1, n, D), which stand for all heads, in the dtype of those given.

    Raises:
        ExpediteError: The tables are of other than (H·W, D): some models have one for each head.
    """
    height, width = grid
    if sin.dim() != 2 or len(sin) != height * width:
        raise ExpediteError(
            f"rotary positions of shape {tuple(sin.shape)} were met on a grid of {height}×{width}; "
            "one table for all heads and blocks can be given to clusters"
        )
    # From the nearest token by a part of a step: errors of a half-precision table stay as they are.
    # An image of NaN has no places, and keeps its NaN: its angles are any that there are.
    positions = positions.nan_to_num(0.0)
    nearest = positions.round()
    index = (nearest[..., 0] * width + nearest[..., 1]).long()  # (B, n)
    away = positions - nearest
    down, right = _step(sin, cos, width if height > 1 else 0), _step(sin, cos, min(1, width - 1))
    angle = away[..., :1] * down + away[..., 1:] * right  # (B, n, D)
    near_sin, near_cos = sin.float()[index], cos.float()[index]
    turned_sin = near_sin * angle.cos() + near_cos * angle.sin()
    turned_cos = near_cos * angle.cos() - near_sin * angle.sin()
    return turned_sin[:, None].to(sin.dtype), turned_cos[:, None].to(cos.dtype)


def _step(sin: Tensor, cos: Tensor, token: int) -> Tensor:
    """Angles (D,) from the first token to another."""
    s, c, to_s, to_c = sin[0].float(), cos[0].float(), sin[token].float(), cos[token].float()
    return torch.atan2(to_s * c - to_c * s, to_c * c + to_s * s)
