"""What is added to the scores of attention among clusters."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from expedite.patching.frame import Frame
from expedite.patching.host import Host
from expedite.patching.levels import mean, on_grid

# What a cluster without any token counts in attention: next to nothing, with a finite logarithm.
_LEAST_MASS = 1e-30


def log_mass(frame: Frame) -> Tensor:
    """The logarithm of how many tokens each cluster stands for, (B, h·w)."""
    return frame.levels[-1].record.mass.clamp_min(_LEAST_MASS).log()


def key_mask(frame: Frame, tokens: Tensor, prefix: int, suffix: int) -> Tensor | None:
    """The log of each key's mass, (B, 1, 1, keys); None where every token is kept."""
    if frame.keeps_every_token:
        return None
    return F.pad(log_mass(frame), (prefix, suffix))[:, None, None].to(tokens.dtype)


def query_mask(
    host: Host, frame: Frame, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor | None:
    """The mask among clusters in place of one that says to which tokens queries attend.

    Args:
        host: Whose block it is.
        frame: The call's.
        index: Of the block.
        args: Those of its call, with a mask (B, heads, n, n) over the full grid that is added
            to scores, the same for all heads.
        kwargs: Likewise.

    Returns:
        (B, 1, n, n) for n tokens of which the grid's are clusters: each counts as the share of
        its tokens to which a query may attend. None where there is no mask.
    """
    queries, slot = host.queries, host.mask
    given = slot.find(args, kwargs) if slot and queries and queries.masked else None
    if queries is None or given is None or frame.keeps_every_token:
        return given
    rows = given[:, 0, : queries.count].float()  # (B, queries, n)
    weights = (rows - rows.amax(-1, keepdim=True)).exp().mT
    weights = on_grid(weights, *host.beside(index), lambda body: mean(frame, body))
    masked = weights.clamp_min(_LEAST_MASS).log().mT.to(given.dtype)
    mask = F.pad(masked, (0, 0, 0, masked.shape[-1] - masked.shape[1]))[:, None]
    return mask if frame.mask is None else mask + frame.mask
