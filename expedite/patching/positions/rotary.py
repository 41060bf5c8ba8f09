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
        sin: (H·W, D) of the angles of every token, in row-major order, or (heads, H·W, D).
            Neighbours differ by less than π, and by the same along each side.
        cos: Of the same shape.
        grid: (H, W).
        positions: (B, n, 2) rows and columns.

    Returns:
        Two tables (B, heads or 1, n, D) in the dtype of those given; 1 stands for all heads.

    Raises:
        ExpediteError: The tables are of other shapes.
    """
    height, width = grid
    if sin.dim() not in (2, 3) or sin.shape[-2] != height * width:
        raise ExpediteError(
            f"rotary positions of shape {tuple(sin.shape)} were met on a grid of {height}×{width}; "
            "tables with a row for each token, for all heads or for each, can be given to clusters"
        )
    dtype = sin.dtype
    sin, cos = (table.float().reshape(-1, *table.shape[-2:]) for table in (sin, cos))
    # From the nearest token by a part of a step: errors of a half-precision table stay as they are.
    # An image of NaN has no places, and keeps its NaN: its angles are any that there are.
    positions = positions.nan_to_num(0.0)
    nearest = positions.round()
    index = (nearest[..., 0] * width + nearest[..., 1]).long()  # (B, n)
    away = (positions - nearest)[:, None]  # (B, 1, n, 2)
    down, right = _step(sin, cos, width if height > 1 else 0), _step(sin, cos, min(1, width - 1))
    angle = away[..., :1] * down + away[..., 1:] * right  # (B, heads, n, D)
    near_sin, near_cos = sin[:, index].transpose(0, 1), cos[:, index].transpose(0, 1)
    turned_sin = near_sin * angle.cos() + near_cos * angle.sin()
    turned_cos = near_cos * angle.cos() - near_sin * angle.sin()
    return turned_sin.to(dtype), turned_cos.to(dtype)


def rotate_behind(
    prefix: int, sin: Tensor, cos: Tensor, grid: tuple[int, int], positions: Tensor
) -> tuple[Tensor, ...]:
    """As `rotate`, where `prefix` rows stand before those of tokens, and stay as they are."""
    turned = rotate(sin[..., prefix:, :], cos[..., prefix:, :], grid, positions)
    return tuple(
        torch.cat([table[..., :prefix, :].expand(*new.shape[:2], -1, -1), new], 2)
        for table, new in zip((sin, cos), turned, strict=True)
    )


def _step(sin: Tensor, cos: Tensor, token: int) -> Tensor:
    """Angles (heads, 1, D) from the first token to another."""
    s, c, to_s, to_c = (table[:, i : i + 1] for i in (0, token) for table in (sin, cos))
    return torch.atan2(to_s * c - to_c * s, to_c * c + to_s * s)
