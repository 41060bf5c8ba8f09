"""Blocks that attend within a view and among all views in turn, as in VGGT and Depth Anything 3.

They are DINOv2's, with norms of queries and keys, which are turned by each token's row and column.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expedite.patchers.published.dino import is_block
from expedite.patching.heads import dropout_rate, heads_of_one
from expedite.patching.host import apply_child, attribute, found_in

_OF_ATTENTION = {"qkv", "q_norm", "k_norm", "attn_drop", "proj", "proj_drop", "rope"}


def are_known(blocks: tuple[nn.Module, ...]) -> bool:
    """Whether all of these are such blocks, with one way to turn queries and keys, or none."""
    if not blocks or not all(is_block(block, _OF_ATTENTION) for block in blocks):
        return False
    ropes = {rope for rope in map(rope_of, blocks) if rope is not None}
    return len(ropes) < 2 and all(hasattr(rope, "base_frequency") for rope in ropes)


def the_rope(blocks: tuple[nn.Module, ...]) -> nn.Module | None:
    """What turns queries and keys of those blocks that have it."""
    return next((rope for rope in map(rope_of, blocks) if rope is not None), None)


def rope_of(block: nn.Module) -> nn.Module | None:
    """What turns a block's queries and keys."""
    return getattr(attention_of(block), "rope", None)


def layout(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, images: str
) -> tuple[int, tuple[int, int]]:
    """Views of a scene and the grid of each, where a model is called with `images`."""
    _, views, _, height, width = found_in(args, kwargs, images, 0).shape  # (B, S, 3, H, W)
    side: int = attribute(model, "patch_size")
    return views, (height // side, width // side)


def attention_of(block: nn.Module) -> nn.Module:
    """The module that attends."""
    return block.get_submodule("attn")


def attend(
    attention: nn.Module,
    mask: Tensor,
    x: Tensor,
    pos: Tensor | None = None,
    attn_mask: None = None,
) -> Tensor:
    """What the attention puts out for tokens (B, N, C) under a mask (B, 1, 1, N)."""
    q, k, v = heads_of_one(attention, x)
    q, k = apply_child(attention, q, "q_norm"), apply_child(attention, k, "k_norm")
    rope = getattr(attention, "rope", None)
    if rope is not None and pos is not None:
        q, k = rope(q, pos), rope(k, pos)
    dropout = dropout_rate(attention, "attn_drop")
    out = F.scaled_dot_product_attention(q, k, v, mask, dropout).transpose(1, 2).flatten(2)
    return apply_child(attention, apply_child(attention, out, "proj"), "proj_drop")


def turn(rope: nn.Module, x: Tensor, positions: Tensor) -> Tensor:
    """Queries or keys (B, heads, n, d) turned by rows and columns (B, n, 2).

    The first half of the channels by rows, the other by columns; in each a channel of the first
    half goes with one of the second. Angles are rounded to the tokens' type, as the model's are.
    """
    half = x.shape[-1] // 2
    shares = torch.arange(0, half, 2, device=x.device).float() / half
    frequencies = attribute(rope, "base_frequency") ** -shares  # (d/4,)
    angles = (positions.float()[:, None, :, :, None] * frequencies).to(x.dtype)
    sin, cos = angles.sin(), angles.cos()  # (B, 1, n, 2, d/4)
    first, second = x.reshape(*x.shape[:-1], 2, 2, -1).unbind(-2)  # each (B, heads, n, 2, d/4)
    turned = torch.stack([first * cos - second * sin, second * cos + first * sin], -2)
    return turned.flatten(-3)
