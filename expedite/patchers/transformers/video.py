"""Video models of transformers whose tokens all attend to each other: VideoMAE and ViViT.

Every frame of tokens is clustered as an image of its own, and clusters of all frames attend to each
other. A class token stands before those of the first frame.
"""

from functools import partial
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.patchers.transformers.towers import wanted_states
from expedite.patchers.transformers.vit import (
    check_attention,
    check_version,
    is_of_transformers,
    pair,
    requested_states,
)
from expedite.patching.heads import dropout_rate, split_heads
from expedite.patching.host import (
    Attention,
    Host,
    Packing,
    Reads,
    apply_child,
    attribute,
    every_token,
    map_grid,
    own_class,
)
from expedite.patching.key_bias import as_key_bias

# With where their blocks and attention are, what makes queries, keys and values of tokens, and how
# the rate of dropout is called.
_MODELS = {
    "VideoMAEModel": (
        "encoder.layer",
        "attention.attention",
        ("query", "key", "value"),
        "dropout_prob",
    ),
    "VivitModel": ("layers", "attention", ("q_proj", "k_proj", "v_proj"), "attention_dropout"),
}


def find_host(module: nn.Module) -> Host | None:
    """See `module` as a video model; None where it is something else."""
    name = own_class(module).__name__
    if name not in _MODELS or not is_of_transformers(module):
        return None
    check_version()
    layers, attention, projections, rate = _MODELS[name]
    config = attribute(module, "config")
    depth, patch = _tubelet(config)
    height, width = pair(config.image_size)
    prefix = 1 if hasattr(module.get_submodule("embeddings"), "cls_token") else 0
    attend = partial(_attend, projections=projections, rate=rate, prefix=prefix)
    frames: int = config.num_frames // depth
    return Host(
        family=f"transformers {name}",
        model=module,
        backbone=module,
        blocks=tuple(module.get_submodule(layers).children()),
        prefix_tokens=prefix,
        embedding=module.get_submodule("embeddings.patch_embeddings.projection"),
        grid=map_grid,
        usual_grid=(height // patch[0], width // patch[1]),
        any_size=False,
        first_norm=partial(apply_child, name="layernorm_before"),
        mask=None,
        attention=Attention(partial(nn.Module.get_submodule, target=attention), attend),
        readout=every_token,
        reads=partial(_reads, attention=config._attn_implementation),
        taps="hidden states, where a call reads them",
        packing=Packing(
            partial(_apart, prefix=prefix), partial(_together, prefix=prefix, frames=frames)
        ),
    )


def _tubelet(config: Any) -> tuple[int, tuple[int, int]]:
    """How many frames a token stands for, and rows and columns of pixels."""
    if isinstance(config.tubelet_size, int):
        return config.tubelet_size, pair(config.patch_size)
    depth, *patch = config.tubelet_size
    return depth, pair(patch)


def _apart(tokens: Tensor, grid: tuple[int, int], is_full: bool, prefix: int) -> Tensor:
    """The tokens (B·T, prefix + N, C) of frames, the prefix in each, of (B, prefix + T·N, C)."""
    count = grid[0] * grid[1]
    frames = (tokens.shape[1] - prefix) // count
    if tokens.shape[1] != prefix + frames * count:
        return tokens  # of no frames of this grid
    body = tokens[:, prefix:].reshape(-1, count, tokens.shape[-1])
    return torch.cat([tokens[:, :prefix].repeat_interleave(frames, 0), body], 1)


def _together(
    tokens: Tensor, grid: tuple[int, int], is_full: bool, prefix: int, frames: int
) -> Tensor:
    """The inverse of `_apart`."""
    body = tokens[:, prefix:].reshape(len(tokens) // frames, -1, tokens.shape[-1])
    return torch.cat([tokens[::frames, :prefix], body], 1)


def _attend(
    attention: nn.Module,
    mask: Tensor,
    hidden_states: Tensor,
    *others: Any,
    projections: tuple[str, str, str],
    rate: str,
    prefix: int,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What attention puts out for clusters (B, prefix + T·n, C) under a mask of each frame's."""
    heads: int = attribute(attention, "num_attention_heads")
    projected = (apply_child(attention, hidden_states, name) for name in projections)
    q, k, v = (split_heads(part, heads) for part in projected)  # each (B, heads, prefix + T·n, d)
    of_frames = mask.as_subclass(Tensor).reshape(len(hidden_states), -1, mask.shape[-1])
    joined = torch.cat([of_frames[:, 0, :prefix], of_frames[..., prefix:].flatten(1)], 1)
    bias, dropout = as_key_bias(joined[:, None, None]), dropout_rate(attention, rate)
    y = F.scaled_dot_product_attention(q, k, v, bias, dropout).transpose(1, 2).flatten(2)
    return (apply_child(attention, y, "o_proj") if hasattr(attention, "o_proj") else y), None


def _reads(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], attention: str
) -> Reads:
    check_attention(model, model, attention)
    given = signature(model.forward).bind_partial(*args, **kwargs).arguments
    if given.get("bool_masked_pos") is not None:
        raise ExpediteError(
            f"a patched {own_class(model).__name__} was called with bool_masked_pos, which leaves "
            "tokens out, and clusters need them all; a call without it works, and so does the "
            "unpatched model"
        )
    depth: int = attribute(model, "config").num_hidden_layers
    states = requested_states(wanted_states(model, args, kwargs), depth)
    return Reads(frozenset(state - 1 for state in states if state > 0))
