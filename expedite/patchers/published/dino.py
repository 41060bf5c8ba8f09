"""DINOv2 and DINOv3 as they were published, outside of any package.

Meta's `DinoVisionTransformer`, and the copies of it in Depth Anything V1 and V2, VGGT and others,
under whatever name a copy stands. Blocks may stand in chunks, each of which begins with as many
identities as there are blocks before it; they take and return tokens, or a list of tokens for a
list of images, of which one alone can be clustered.
"""

from collections.abc import Set
from functools import partial
from inspect import signature
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from expedite.patching.heads import heads_of_one
from expedite.patching.host import (
    Attention,
    Host,
    Method,
    Readout,
    Reads,
    Rotary,
    apply_child,
    attribute,
    map_grid,
    nothing_more,
)

# A block has these children and no more, which might do something else between.
_PARTS = {"norm1", "attn", "ls1", "drop_path1", "norm2", "mlp", "ls2", "drop_path2"}
_OF_ATTENTION = {"qkv", "attn_drop", "proj", "proj_drop"}
_PREFIX = ("cls_token", "register_tokens", "storage_tokens")
_INTERMEDIATES = {"x", "n", "reshape", "return_class_token", "return_extra_tokens", "norm"}


def find_host(module: nn.Module) -> Host | None:
    """See `module` as a published DINOv2 or DINOv3; None where it is something else."""
    children = dict(module.named_children())
    if not {"patch_embed", "blocks", "norm"} <= children.keys() or not _is_called_alike(module):
        return None
    blocks = tuple(_blocks(children["blocks"]))
    projection = dict(children["patch_embed"].named_children()).get("proj")
    if projection is None or not blocks or not all(map(is_block, blocks)):
        return None
    has_rotary = "rope_embed" in children
    return Host(
        family=f"published {'DINOv3' if has_rotary else 'DINOv2'}",
        model=module,
        backbone=module,
        blocks=blocks,
        prefix_tokens=sum(_count(module, name) for name in _PREFIX),
        embedding=projection,
        grid=map_grid,
        usual_grid=attribute(children["patch_embed"], "patches_resolution"),
        any_size=True,
        first_norm=partial(apply_child, name="norm1"),
        mask=None,
        attention=Attention(_attention, _attend),
        rotary=Rotary("rope_or_rope_list", _itself, _both, position=1) if has_rotary else None,
        readout=_readout,
        reads=_reads,
        methods=(
            Method("forward_features", nothing_more),
            Method("get_intermediate_layers", _intermediates),
        ),
        taps="read through get_intermediate_layers",
    )


def _is_called_alike(module: nn.Module) -> bool:
    """Whether it has the methods of the published model, with no arguments of other kinds."""
    methods = [getattr(type(module), name, None) for name in _METHODS]
    if not all(methods):
        return False
    return set(signature(methods[0]).parameters) - {"self"} <= _INTERMEDIATES  # type: ignore[arg-type]


_METHODS = ("get_intermediate_layers", "forward_features", "prepare_tokens_with_masks")


def _blocks(holder: nn.Module) -> list[nn.Module]:
    chunks = [
        chunk if isinstance(chunk, nn.ModuleList) else nn.ModuleList([chunk])
        for chunk in holder.children()
    ]
    return [block for chunk in chunks for block in chunk if not isinstance(block, nn.Identity)]


def is_block(module: nn.Module, of_attention: Set[str] = frozenset(_OF_ATTENTION)) -> bool:
    """Whether a module has the parts of a block, and its attention no others than these."""
    parts = dict(module.named_children())
    if not {"norm1", "attn", "norm2", "mlp"} <= parts.keys() <= _PARTS:
        return False
    inside = parts["attn"].named_children()
    found = {name for name, part in inside if not isinstance(part, nn.Identity)}
    return {"qkv", "proj"} <= found <= of_attention


def _count(model: nn.Module, name: str) -> int:
    tokens = getattr(model, name, None)  # (1, count, C)
    return 0 if tokens is None else int(tokens.shape[1])


def _attention(block: nn.Module) -> nn.Module:
    return block.get_submodule("attn")


def _attend(
    attention: nn.Module,
    mask: Tensor,
    x: Tensor,
    attn_bias: None = None,
    rope: Any = None,
    pos: None = None,  # of VGGT's copy
) -> Tensor:
    """What the attention puts out for tokens (B, N, C) under a mask that its own code lacks."""
    q, k, v = heads_of_one(attention, x)
    if rope is not None:
        q, k = attribute(attention, "apply_rope")(q, k, rope)
    drop = getattr(attention, "attn_drop", None)
    dropout = drop.p if isinstance(drop, nn.Dropout) and attention.training else 0.0
    out = F.scaled_dot_product_attention(q, k, v, mask, dropout).transpose(1, 2).flatten(2)
    return apply_child(attention, apply_child(attention, out, "proj"), "proj_drop")


def _itself(sin_and_cos: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return sin_and_cos


def _both(sin: Tensor, cos: Tensor) -> tuple[Tensor, Tensor]:
    return sin, cos


def _readout(model: nn.Module) -> Readout:
    return "prefix"


def _reads(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Reads:
    # Without these a call returns what the head makes of the class token.
    usual = signature(type(model).forward).parameters.get("is_training")  # True in VGGT's copy
    shows_all = kwargs.get("is_training", usual is not None and usual.default)
    shows_all = shows_all or kwargs.get("return_grid", False)
    return Reads(frozenset({_depth(model) - 1} if shows_all else ()))


def _intermediates(model: nn.Module, x: Tensor, n: Any = 1, *args: Any, **kwargs: Any) -> Reads:
    depth = _depth(model)
    return Reads(frozenset(range(depth - n, depth) if isinstance(n, int) else n), last=False)


def _depth(model: nn.Module) -> int:
    return len(_blocks(model.get_submodule("blocks")))
