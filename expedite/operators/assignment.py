"""Which cluster a token belongs to: to several of its window softly, or to one alone."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from expedite.geometry.graphs import is_plain
from expedite.geometry.tiling import Tiles
from expedite.operators.closeness import half_squares
from expedite.operators.kernels import EMPTY_MASS, LARGEST_DEPTH, fused

_TINY = 1e-30
# A cluster that tokens were shared out to stands for none with less mass: the published floor.
LEAST_SHARED = 1e-16


class Assignment(Protocol):
    """Which cluster a token belongs to, and how much of it."""

    @property
    def mass(self) -> Tensor: ...

    @property
    def labels(self) -> Tensor: ...

    def means(self, values: Tensor, otherwise: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class SoftAssignment:
    """Tokens shared out among the clusters of their windows, as the E-step does (Eq. 3)."""

    weights: Tensor  # (B, T, n, m) float32 in tiles: what each cluster has of each token's mass
    mass: Tensor  # (B, h·w) float32: how many tokens each cluster stands for
    tiles: Tiles

    @property
    def labels(self) -> Tensor:
        """The cluster that each token leans to most, (B, N) int64."""
        return self.tiles.join(self.tiles.cells_at(self.weights.argmax(-1, keepdim=True)))[..., 0]

    def means(self, values: Tensor, otherwise: Tensor) -> Tensor:
        """Means of values (B or 1, N, C), `otherwise` (B, h·w, C) of clusters without mass."""
        total = self.mass[..., None]
        # Shares that sum to one before the product: sums of huge values would overflow.
        share = self.weights / self.tiles.windows(total.clamp_min(_TINY)).mT  # (B, T, n, m)
        means = self.tiles.add_windows(share.mT @ self.tiles.split(values.float()))
        return torch.where(total <= LEAST_SHARED, otherwise, means)


@dataclass(frozen=True)
class HardAssignment:
    """Every token in one cluster: means are one pass over the tokens."""

    labels: Tensor  # (B, N) int64
    mass: Tensor  # (B, h·w) float32
    share: Tensor  # (B, N, 1) float32 of the cluster's mass, 0 in clusters without

    @classmethod
    def of(cls, labels: Tensor, weight: Tensor, clusters: int) -> "HardAssignment":
        """From the cluster of each token and how much each counts, (B, N, 1)."""
        mass = weight.new_zeros(labels.shape[0], clusters).scatter_add(1, labels, weight[..., 0])
        if fused(labels, weight):
            from expedite.operators.kernels.rows import shares

            return cls(labels, mass, shares(labels, weight, mass, EMPTY_MASS))
        inverse = torch.where(mass > EMPTY_MASS, 1 / mass.clamp_min(_TINY), 0)
        return cls(labels, mass, inverse.gather(1, labels)[..., None] * weight)

    def means(self, values: Tensor, otherwise: Tensor) -> Tensor:
        """See `SoftAssignment.means`."""
        means = self._sums(values.expand(self.mass.shape[0], -1, -1))
        empty = self.mass <= EMPTY_MASS
        if not is_plain(values):
            return torch.where(empty[..., None], otherwise.float(), means)
        if values.shape[2] and empty.any():  # seldom, and it spares a pass over all
            means[empty] = otherwise.float().expand_as(means)[empty]
        return means

    def _sums(self, values: Tensor) -> Tensor:
        """Of values (B, N, C) times the tokens' shares, (B, h·w, C)."""
        batch, clusters = self.mass.shape
        if fused(values, self.share):
            from expedite.operators.kernels.rows import add_rows

            return add_rows(values, self.labels, self.share, clusters)
        rows = values.float().flatten(0, 1)  # (B·N, C)
        if takes_bags(rows):
            order, start, share = self._members
            sums = F.embedding_bag(order, rows, start, mode="sum", per_sample_weights=share)
        else:
            index = flat_index(self.labels, clusters).flatten()
            sums = rows.new_zeros(batch * clusters, rows.shape[1])
            sums = sums.index_add(0, index, rows * self.share.flatten(0, 1))
        return sums.view(batch, clusters, rows.shape[1])

    @cached_property
    def _members(self) -> tuple[Tensor, Tensor, Tensor]:
        """The batch's tokens by their clusters, where those of each begin, and their shares."""
        rows = flat_index(self.labels, self.mass.shape[1]).flatten()
        cluster, order = rows.sort(stable=True)
        every = torch.arange(self.mass.numel(), device=rows.device)
        return order, torch.searchsorted(cluster, every), self.share.flatten()[order]


def own_values(cluster_values: Tensor, labels: Tensor) -> Tensor:
    """The values (B, h·w, C) of the cluster that each token belongs to, (B, N, C).

    Example:
        >>> own_values(torch.tensor([[[4.0], [7.0]]]), torch.tensor([[1, 0, 1]])).flatten()
        tensor([7., 4., 7.])
    """
    rows = flat_index(labels, cluster_values.shape[1]).flatten()
    own = cluster_values.flatten(0, 1).index_select(0, rows)
    return own.view(*labels.shape, cluster_values.shape[2])


def half_distances(points: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
    """½‖z - s‖² of points (B, N, D) and the centres (B, h·w, D) they belong to, (B, N, 1).

    Example:
        >>> points, centers = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])
        >>> half_distances(points, centers, torch.tensor([[1]])).item()
        2.0
    """
    if fused(points, centers) and points.shape[2] <= LARGEST_DEPTH:
        from expedite.operators.kernels import rows

        return rows.half_distances(points, centers, labels)
    return half_squares(points - own_values(centers, labels))


def takes_bags(rows: Tensor) -> bool:
    """Whether weighted sums of rows are best taken by `embedding_bag`: one pass, no temporary.

    Compilers fuse other forms, and ONNX has them.
    """
    return rows.device.type in ("cpu", "cuda") and not torch.compiler.is_compiling()


def flat_index(index: Tensor, clusters: int) -> Tensor:
    """Indices of clusters within each image, (B, ...), as rows of the whole batch (B·h·w, ...).

    Example:
        >>> flat_index(torch.tensor([[0, 4], [0, 4]]), 6)
        tensor([[ 0,  4],
                [ 6, 10]])
    """
    image = torch.arange(index.shape[0], device=index.device)
    return index + clusters * image.view(-1, *[1] * (index.dim() - 1))
