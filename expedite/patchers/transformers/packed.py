"""Vision models that take the patches of all images as one sequence: Pixtral, Qwen2-VL, Qwen3-VL.

Images of one size are told apart again; where a model merges squares of tokens at its end, it takes
those of a square one behind the other.
"""

from collections.abc import Callable
from functools import partial
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.patchers.transformers.rotary_attention import attend
from expedite.patchers.transformers.towers import wanted_states
from expedite.patchers.transformers.vit import (
    check_attention,
    check_version,
    is_of_transformers,
    join,
    pair,
    requested_states,
    swap,
)
from expedite.patching.host import (
    Attention,
    Host,
    Packing,
    Reads,
    Rotary,
    apply_child,
    attribute,
    every_token,
    own_class,
)

# With what they call their blocks, the positions of these, their attention and their first norm.
_PIXTRAL = ("transformer.layers", "patch_positional_embedding", "attention", "attention_norm")
_QWEN = ("blocks", "rotary_pos_emb", "attn", "norm1")
_MODELS = {
    "PixtralVisionModel": _PIXTRAL,
    "Qwen2VisionTransformerPretrainedModel": _QWEN,
    "Qwen3VLMoeVisionModel": _QWEN,
    "Qwen3VLVisionModel": _QWEN,
}


def find_host(module: nn.Module) -> Host | None:
    """See `module` as a model of packed images; None where it is something else."""
    name = own_class(module).__name__
    if name not in _MODELS or not is_of_transformers(module):
        return None
    check_version()
    layers, positions, attention, norm = _MODELS[name]
    config = attribute(module, "config")
    merge: int = getattr(config, "spatial_merge_size", 1)
    return Host(
        family=f"transformers {name}",
        model=module,
        backbone=module,
        blocks=tuple(module.get_submodule(layers).children()),
        prefix_tokens=0,
        embedding=module.get_submodule(positions),
        grid=partial(_grid, family=name),
        usual_grid=_usual_grid(config),
        any_size=True,
        first_norm=partial(apply_child, name=norm),
        mask=None,
        attention=Attention(_child(attention), attend),
        rotary=Rotary("position_embeddings", swap, join),
        readout=every_token,
        reads=partial(_reads, attention=config._attn_implementation),
        taps="hidden states where a call reads them, and those of deepstack",
        hands_masks=True,
        packing=Packing(
            partial(_apart, merge=merge),
            partial(_together, merge=merge, has_batch=name == "PixtralVisionModel"),
        ),
    )


def _child(name: str) -> Callable[[nn.Module], nn.Module]:
    return partial(nn.Module.get_submodule, target=name)


def _usual_grid(config: Any) -> tuple[int, int]:
    """What a model was made for, if it says so; else 32×32, since they take images of any size."""
    if hasattr(config, "image_size"):
        height, width = pair(config.image_size)
        return height // config.patch_size, width // config.patch_size
    side = isqrt(getattr(config, "num_position_embeddings", 32 * 32))
    return side, side


def _grid(embedding: nn.Module, args: tuple[Any, ...], output: Any, family: str) -> tuple[int, int]:
    """The grid of images of one size, from the row and column of every token, (B·N, 2)."""
    where: Tensor = args[1]
    height, width = (int(side) + 1 for side in where.amax(0))
    count = height * width
    index = where[:, 0] * width + where[:, 1]
    every = torch.arange(count, device=index.device)
    if len(index) % count or not (index.reshape(-1, count).sort(1)[0] == every).all():
        raise ExpediteError(
            f"a patched {family} was called with images of several sizes, whose clusters are laid "
            "out for one; images of one size at a time work, and so does the unpatched model"
        )
    return height, width


def _apart(tokens: Tensor, grid: tuple[int, int], is_full: bool, merge: int) -> Tensor:
    """The tokens (B, N, C) of each image, row by row, of a sequence (B·N, C) or (1, B·N, C)."""
    height, width = grid
    if tokens.numel() % (height * width * tokens.shape[-1]):
        return tokens.reshape(1, -1, tokens.shape[-1])  # of no image of this grid
    if not is_full:
        return tokens.reshape(-1, height * width, tokens.shape[-1])
    squares = tokens.reshape(-1, height // merge, width // merge, merge, merge, tokens.shape[-1])
    return squares.transpose(2, 3).reshape(-1, height * width, tokens.shape[-1])


def _together(
    tokens: Tensor, grid: tuple[int, int], is_full: bool, merge: int, has_batch: bool
) -> Tensor:
    """The inverse of `_apart`."""
    height, width = grid
    if is_full:
        rows = tokens.reshape(-1, height // merge, merge, width // merge, merge, tokens.shape[-1])
        tokens = rows.transpose(2, 3)
    packed = tokens.reshape(-1, tokens.shape[-1])
    return packed[None] if has_batch else packed


def _reads(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], attention: str
) -> Reads:
    check_attention(model, model, attention)
    wanted = wanted_states(model, args, kwargs)
    count = len(list(model.get_submodule(_MODELS[own_class(model).__name__][0]).children()))
    states = requested_states(wanted, count)
    taps = {state - 1 for state in states if state > 0}
    return Reads(frozenset(taps | set(getattr(model, "deepstack_visual_indexes", ()))))
