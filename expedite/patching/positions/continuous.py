"""Continuous relative position biases of clusters: an MLP over the logarithm of an offset.

SwinV2 makes its biases so, from one MLP for every offset; between clusters, which stand at the
centres of regular cells, the MLP itself is asked for what lies between the offsets of tokens.
"""

import math

import torch
from torch import Tensor, nn

from expedite.geometry.constants import remembered
from expedite.patching.positions.bias import spread

# The largest offset in training is scaled to 8, and its logarithm then to that of 9 in base 8.
_SCALE = 8
_BOUND = 16.0


def continuous_bias(
    mlp: nn.Module, window: tuple[int, int], cells: tuple[int, int], trained: tuple[int, int]
) -> Tensor:
    """What is added to attention scores among the clusters of a window.

    Args:
        mlp: Maps coordinates (..., 2) to (..., heads).
        window: (H, W) of the tokens.
        cells: (h, w) of the clusters.
        trained: The window by whose size the MLP's coordinates are divided.

    Returns:
        (heads, h·w, h·w).

    Example:
        >>> continuous_bias(nn.Linear(2, 4), (8, 8), (5, 5), (8, 8)).shape
        torch.Size([4, 25, 25])
    """
    rows, columns = (max(side - 1, 1) for side in trained)
    return _BOUND * _bias(mlp, window, cells, _SCALE / rows, _SCALE / columns, _SCALE).sigmoid()


def logarithmic_bias(mlp: nn.Module, window: tuple[int, int], cells: tuple[int, int]) -> Tensor:
    """As `continuous_bias`, of a kind of SwinV2 that neither scales offsets nor bounds biases.

    Example:
        >>> logarithmic_bias(nn.Linear(2, 4), (8, 8), (5, 5)).shape
        torch.Size([4, 25, 25])
    """
    return _bias(mlp, window, cells, 1.0, 1.0, math.e)


def _bias(
    mlp: nn.Module, window: tuple[int, int], cells: tuple[int, int], *scales_and_base: float
) -> Tensor:
    # Layers of dynamic quantisation have no parameters; they take float32 on the CPU.
    weight = next(mlp.parameters(), torch.empty(0))
    (coordinates,) = _coordinates(*window, *cells, *scales_and_base, weight.device)
    table = mlp(coordinates.to(weight.dtype)).flatten(0, 1)  # ((2h-1)·(2w-1), heads)
    return spread(table, cells)


@remembered
def _coordinates(
    height: int,
    width: int,
    h: int,
    w: int,
    down: float,
    right: float,
    base: float,
    device: torch.device,
) -> tuple[Tensor]:
    """What the MLP is given for every offset between cells, (2h-1, 2w-1, 2)."""
    sides = [
        torch.arange(1 - count, count, device=device) * (scale * side / count)
        for side, count, scale in ((height, h, down), (width, w, right))
    ]
    offsets = torch.stack(torch.meshgrid(*sides, indexing="ij"), -1)
    return (offsets.sign() * (offsets.abs() + 1).log() / math.log(base),)
