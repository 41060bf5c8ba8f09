"""Adaptive average pooling in place of clustering (Tables 3 and 4 of arXiv 2210.01035)."""

from typing import ClassVar

from torch import Tensor

from expedite.evaluate.comparators.base import Measured, MergeSession, Merging
from expedite.evaluate.comparators.records import PooledAssignment
from expedite.operators.clustering import average_pool


class TokenPooling(Merging):
    """Pools tokens over the bins of a span's cluster grid, whatever they stand for.

    Example:
        >>> import torch
        >>> from expedite.plan import Span
        >>> layer = TokenPooling(Span(0, clusters=(1, 2)))
        >>> pooled, record = layer(torch.ones(1, 12, 8), (3, 4), Measured())
        >>> pooled.shape, record.mass
        (torch.Size([1, 2, 8]), tensor([[6., 6.]]))
    """

    def assign(
        self,
        measured: Measured,
        mass: Tensor,
        grid: tuple[int, int],
        clusters: tuple[int, int],
    ) -> PooledAssignment:
        # Bins that overlap count some tokens twice, so masses are shares of all tokens.
        share = average_pool(mass[..., None], grid, clusters)[..., 0]  # (B, h·w)
        total = share * (mass.sum(1) / share.sum(1))[:, None]
        return PooledAssignment(total, grid, clusters)


class PoolSession(MergeSession):
    """Tokens become the means of regular bins."""

    title: ClassVar[str] = "pooling"
    layer: ClassVar[type[Merging]] = TokenPooling
