"""How close tokens are to the cells they can reach: what assignment and reconstruction share."""

import torch
import torch.nn.functional as F
from torch import Tensor

from expedite.geometry.tiling import Tiles


def with_one(x: Tensor) -> Tensor:
    """Points (..., D) with a last coordinate of 1, (..., D + 1), by which products add a constant.

    Example:
        >>> with_one(torch.tensor([[2.0, 3.0]]))
        tensor([[2., 3., 1.]])
    """
    return F.pad(x, (0, 1), value=1.0)


def keys_of(centers: Tensor, half_norms: Tensor | None = None) -> Tensor:
    """Centres s (..., D) with a last coordinate of -‖s‖²/2, (..., D + 1).

    The product of z `with_one` and such a key is z·s - ‖s‖²/2, which is ½(‖z‖² - d²): larger the
    nearer they are. ‖z‖² is the same for every centre, so that no comparison needs it.

    Args:
        centers: s.
        half_norms: (..., 1) in place of ‖s‖²/2.

    Example:
        >>> with_one(torch.tensor([2.0])) @ keys_of(torch.tensor([3.0]))  # (2² - (3 - 2)²) / 2
        tensor(1.5000)
    """
    if half_norms is None:
        half_norms = half_squares(centers)
    return torch.cat([centers, -half_norms], -1)


def half_squares(x: Tensor) -> Tensor:
    """‖x‖²/2 of points (..., D), (..., 1)."""
    return x.square().sum(-1, keepdim=True) / 2


def closeness(points: Tensor, keys: Tensor, tiles: Tiles) -> Tensor:
    """Products of points with the keys of the cells in their windows, -inf beyond their reach.

    Args:
        points: (B, T, n, D + 1) in tiles, see `with_one`.
        keys: (B, h·w, D + 1), see `keys_of`.
        tiles: Where they lie.

    Returns:
        (B, T, n, m).
    """
    return (points @ tiles.windows(keys).mT).add_(tiles.beyond)
