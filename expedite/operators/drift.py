"""How widely clusters are spread: what decides how wrongly blocks turn them."""

import torch
from torch import Tensor

from expedite.errors import ExpediteError
from expedite.operators.assignment import half_distances
from expedite.operators.closeness import half_squares
from expedite.operators.clustering import Clustering, full_precision, labels

SPREADS = 3
_TINY = 1e-30


def spreads(clustering: Clustering) -> Tensor:
    """Numbers of every cluster that are 0 where no tokens were merged.

    A cluster's spread is the mean squared distance of its tokens to its centre, over the mean
    square of all tokens of the image, in the space of the distances.

    Args:
        clustering: From `clustering.cluster`, with some tokens merged.

    Returns:
        (B, h·w, 3) float32: the mean spread over clusters, the cluster's own, and its root.

    Raises:
        ExpediteError: Nothing was merged.

    Example:
        >>> from expedite.operators.clustering import cluster
        >>> _, record = cluster(torch.randn(2, 192, 8), (12, 16), (5, 6), hard=True)
        >>> spreads(record).shape
        torch.Size([2, 30, 3])
    """
    if clustering.assignment is None:
        raise ExpediteError("spreads of clusters were asked where no tokens were merged")
    with full_precision(clustering.features.device):
        own = labels(clustering)
        apart = half_distances(clustering.features, clustering.centers, own)  # (B, N, 1)
        nothing = torch.zeros_like(clustering.centers[..., :1])
        spread = clustering.assignment.means(apart, nothing)  # (B, h·w, 1)
        unit = half_squares(clustering.features).mean(1, keepdim=True)
        spread = spread / unit.clamp_min(_TINY)
    mean = spread.mean(1, keepdim=True).expand_as(spread)
    return torch.cat([mean, spread, spread.sqrt()], -1).detach()
