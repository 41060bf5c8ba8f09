"""Attention of transformers that rotates by positions which all images share, for clusters.

Clusters of each image have positions of their own, which MLCD, Pixtral and Qwen's models do not
take.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expedite.patching.host import apply_child, attribute

_OUTPUTS = ("o_proj", "out_proj", "proj")


def attend(
    attention: nn.Module,
    mask: Tensor | None,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    **kwargs: Any,
) -> Any:
    """What attention puts out for clusters, in the shape in which they came.

    Args:
        attention: The module that attends.
        mask: (B, 1, 1, n) or None.
        hidden_states: (B, n, C), or the clusters of all images one behind the other.
        position_embeddings: Cosines and sines, each (B, 1, n, d).
        kwargs: What the call has besides, masks and lengths for the full grid.
    """
    cos, sin = position_embeddings
    heads: int = attribute(attention, "num_heads")
    q, k, v = (
        part.reshape(len(cos), -1, heads, part.shape[-1] // heads).transpose(1, 2)
        for part in _project(attention, hidden_states)
    )  # (B, heads, n, d)
    q, k = (_turned(x.float(), cos.float(), sin.float()).type_as(x) for x in (q, k))
    rate = getattr(attention, "dropout", 0.0) if attention.training else 0.0
    y = F.scaled_dot_product_attention(q, k, v, mask, rate).transpose(1, 2)
    names = dict(attention.named_children())
    output = next(name for name in _OUTPUTS if name in names)
    y = apply_child(attention, y.reshape(hidden_states.shape), output)
    return y if "qkv" in names else (y, None)


def _project(attention: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    if hasattr(attention, "qkv"):
        return apply_child(attention, x, "qkv").chunk(3, -1)
    return tuple(apply_child(attention, x, name) for name in ("q_proj", "k_proj", "v_proj"))


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The first and the second half of the channels of x turned by an angle."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin
