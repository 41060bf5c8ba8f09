"""What token stands for a cluster in the blocks: one that they treat as they treat its members.

A plain mean of unlike tokens is like none of them, and shorter than they are.
"""

import torch
from torch import Tensor

from expedite.operators.assignment import Assignment, HardAssignment, half_distances, own_values

# Tokens that point everywhere have no direction that is worth keeping.
_MOST_LONGER = 2.0
_TINY = 1e-30


def sharpen(
    assignment: HardAssignment,
    features: Tensor,
    centers: Tensor,
    weight: Tensor,
    sharpness: float,
) -> tuple[HardAssignment, Tensor]:
    """Let tokens count less in their cluster's means the further they are from its centre.

    By exp(-s · ‖z - c‖² / mean ‖z - c‖²), between the mean (s = 0) and the member nearest to the
    centre (s → ∞): what blocks make of a token that is nearly a real one they make of real ones.
    Two tokens of one cluster are equally far from their mean and count alike.

    Args:
        assignment: Of every token.
        features: (B, N, D).
        centers: (B, h·w, D).
        weight: (B, N, 1) how much each token counts.
        sharpness: s.

    Returns:
        The assignment by whose means clusters are to be represented, and the centres by it.

    Example:
        >>> x, one = torch.tensor([[[0.0], [1], [5]]]), torch.ones(1, 3, 1)
        >>> all_in_one = HardAssignment.of(torch.tensor([[0, 0, 0]]), one, 1)
        >>> _, center = sharpen(all_in_one, x, torch.tensor([[[2.0]]]), one, sharpness=4.0)
        >>> center
        tensor([[[0.9330]]])
    """
    labels = assignment.labels
    apart = half_distances(features, centers, labels)  # (B, N, 1)
    unit = own_values(assignment.means(apart, torch.zeros_like(centers[..., :1])), labels)
    # No cluster vanishes: its nearest token is nearer than the mean.
    kept = weight * torch.exp(sharpness * (1 - apart / unit.clamp_min(_TINY)))
    core = HardAssignment.of(labels, kept, centers.shape[1])
    return core, core.means(features, centers)


def lengthen(
    centroids: Tensor, tokens: Tensor, middle: Tensor, assignment: Assignment, power: float
) -> Tensor:
    """Centroids made as long as their tokens are on average, to some power.

    A mean of tokens that point elsewhere is shorter than they are. What follows takes its direction
    alone, LayerNorm stretching it, but adds to it what is meant for tokens of full length: blocks
    turn short cluster tokens too far. A cluster of one token, or of equal ones, stays as it is.

    Args:
        centroids: (B, h·w, C).
        tokens: (B, N, C).
        middle: (B, h·w, C) what stands for clusters without tokens.
        assignment: Of the tokens.
        power: 1 for the tokens' mean length; more lengthens more where clusters are wide.

    Returns:
        (B, h·w, C) float32, at most 2 to that power times as long as before.

    Example:
        >>> tokens = torch.tensor([[[3.0, 4], [3, -4]]])
        >>> both = HardAssignment.of(torch.tensor([[0, 0]]), torch.ones(1, 2, 1), 1)
        >>> lengthen(torch.tensor([[[3.0, 0]]]), tokens, tokens[:, :1], both, power=1)
        tensor([[[5., 0.]]])
    """
    wanted = assignment.means(_length(tokens), _length(middle))
    longer = wanted / _length(centroids).clamp_min(_TINY)
    return centroids * longer.clamp_max(_MOST_LONGER) ** power


def _length(x: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x.float(), dim=-1, keepdim=True)
    return length
