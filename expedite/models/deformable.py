"""Multi-scale deformable attention (Zhu et al., ICLR 2021) in plain PyTorch.

Equals the CUDA operator that the published ViT-Adapter is built on, whose names of weights it has,
and exports.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expedite.geometry.constants import remembered

Grid = tuple[int, int]


class DeformableAttention(nn.Module):
    """Each query samples a few places around its own on every map, and weighs what it finds.

    Source: `ops/modules/ms_deform_attn.py` of czczup/ViT-Adapter.

    Args:
        width: Channels of queries and maps.
        heads: Each has places and weights of its own.
        levels: How many maps.
        points: Places of a head on each map.
        ratio: Channels of what is sampled, as a share of `width`.

    Example:
        >>> attention = DeformableAttention(32, heads=4, levels=2)
        >>> queries, maps = torch.randn(2, 6, 32), torch.randn(2, 4 * 4 + 2 * 2, 32)
        >>> at = grid_places(((2, 3),), torch.device("cpu"))
        >>> attention(queries, at, maps, ((4, 4), (2, 2))).shape
        torch.Size([2, 6, 32])
    """

    def __init__(
        self, width: int, heads: int, levels: int, points: int = 4, ratio: float = 1.0
    ) -> None:
        super().__init__()
        self.shape = heads, levels, points
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj = nn.Linear(width, int(width * ratio))
        self.output_proj = nn.Linear(int(width * ratio), width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Heads look in directions around the circle, each point one step farther."""
        heads, levels, points = self.shape
        angles = torch.arange(heads) * (2 * math.pi / heads)
        directions = torch.stack([angles.cos(), angles.sin()], -1)  # (heads, 2)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, points + 1)[:, None]
        offsets = (directions[:, None, None] * steps).expand(heads, levels, points, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())
        for constant in (self.sampling_offsets.weight, *self.attention_weights.parameters()):
            nn.init.zeros_(constant)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self, queries: Tensor, places: Tensor, features: Tensor, grids: tuple[Grid, ...]
    ) -> Tensor:
        """Map queries (B, Q, D) to what they find, (B, Q, D).

        Args:
            queries: (B, Q, D).
            places: (B or 1, Q, 2) where queries stand, across and down, as shares of the image.
            features: (B, N, D) the tokens of all maps, one map after the other.
            grids: (H, W) of every map.
        """
        heads, levels, points = self.shape
        values = self.value_proj(features).unflatten(2, (heads, -1))  # (B, N, heads, d)
        offsets = self.sampling_offsets(queries).unflatten(2, (heads, levels, points, 2))
        weights = self.attention_weights(queries).unflatten(2, (heads, levels * points))
        weights = weights.softmax(-1).unflatten(3, (levels, points))
        found = sample(values, grids, places, offsets, weights)
        out: Tensor = self.output_proj(found.to(queries.dtype))
        return out


def sample(
    values: Tensor, grids: tuple[Grid, ...], places: Tensor, offsets: Tensor, weights: Tensor
) -> Tensor:
    """The weighed sum of what lies at places on maps, bilinear, with zeros beyond the borders.

    In float32, as the CUDA operator under autocast: half precision cannot tell places apart.

    Args:
        values: (B, N, heads, d) the tokens of all maps, one map after the other.
        grids: (H, W) of every map.
        places: (B or 1, Q, 2) across and down, as shares of the image.
        offsets: (B, Q, heads, levels, points, 2) from there, in cells of each map.
        weights: (B, Q, heads, levels, points).

    Returns:
        (B, Q, heads · d) float32.
    """
    batch, _, heads, depth = values.shape
    count = places.shape[1]
    bodies = torch.split_with_sizes(values.float(), [height * width for height, width in grids], 1)
    levels = zip(bodies, grids, offsets.float().unbind(3), weights.float().unbind(3), strict=True)
    parts = []
    for body, grid, away, weight in levels:
        as_map = body.permute(0, 2, 3, 1).reshape(batch * heads, depth, *grid)
        (cell,) = _cell(*grid, away.device)
        at = places[:, :, None, None] + away * cell  # (B, Q, heads, points, 2)
        at = (2 * at - 1).transpose(1, 2).flatten(0, 1)  # (B·heads, Q, points, 2)
        found = F.grid_sample(as_map, at, align_corners=False)  # (B·heads, d, Q, points)
        share = weight.transpose(1, 2).flatten(0, 1)[:, None]  # (B·heads, 1, Q, points)
        parts.append((found * share).sum(-1))
    total = torch.stack(parts).sum(0)  # (B·heads, d, Q)
    return total.reshape(batch, heads * depth, count).transpose(1, 2)


@remembered
def _cell(height: int, width: int, device: torch.device) -> tuple[Tensor]:
    """The size (2,) of a cell, across and down, as shares of the image."""
    # Filled on the device: a tensor of numbers would be copied there, which waits for it.
    sides = [torch.full((), 1 / count, device=device) for count in (width, height)]
    return (torch.stack(sides),)


def grid_places(grids: tuple[Grid, ...], device: torch.device) -> Tensor:
    """Where the cells of maps lie, row by row: (1, ΣH·W, 2) across and down, as shares of 1.

    Example:
        >>> grid_places(((1, 2),), torch.device("cpu")).tolist()
        [[[0.25, 0.5], [0.75, 0.5]]]
    """
    places = [_places(*grid, device)[0] for grid in grids]
    return torch.cat(places, 1)


@remembered
def _places(height: int, width: int, device: torch.device) -> tuple[Tensor]:
    down = (torch.arange(height, device=device) + 0.5) / height
    across = (torch.arange(width, device=device) + 0.5) / width
    rows, columns = torch.meshgrid(down, across, indexing="ij")
    return (torch.stack([columns, rows], -1).flatten(0, 1)[None],)
