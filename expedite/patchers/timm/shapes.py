"""timm's Visformer and NesT, whose blocks take tokens in shapes of their own.

Visformer's take maps (B, C, H, W), and attend to all of them in all stages but the first. NesT's
take (B, windows, N, C); those of its last level have one window, the whole map, and are the host.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from expedite.patchers.timm.methods import methods
from expedite.patching.heads import dropout_rate, heads_of_one
from expedite.patching.host import (
    Attention,
    Cells,
    Host,
    Packing,
    Stage,
    apply_child,
    attribute,
    every_token,
    inner,
    kind_of,
    map_grid,
    runs_as,
)
from expedite.patching.packing import channels_first, channels_last

_VISFORMER, _NEST = "timm.models.visformer.Visformer", "timm.models.nest.Nest"


def find_host(module: nn.Module) -> Host | None:
    """See `module` as a Visformer or NesT of timm; None where it is something else."""
    name = kind_of(module, (_VISFORMER, _NEST))
    if name is None or not runs_as(module, "timm.", "forward", "forward_features"):
        return None
    return _visformer(module) if name == _VISFORMER else _nest(module)


def _common(model: nn.Module, blocks: Sequence[nn.Module], ends: Sequence[int]) -> dict[str, Any]:
    return {
        "family": f"timm {type(model).__name__}",
        "model": model,
        "backbone": model,
        "blocks": tuple(inner(block, "timm.") for block in blocks),
        "prefix_tokens": 0,
        "grid": map_grid,
        "any_size": False,
        "mask": None,
        "readout": every_token,
        "methods": methods(lambda model: ends),
        "taps": "outputs of stages, of the full map in any case",
    }


def _visformer(model: nn.Module) -> Host | None:
    rows = [list(model.get_submodule(f"stage{number}").children()) for number in (1, 2, 3)]
    attends = [all(map(_attends, row)) and len(row) > 0 for row in rows]
    first = attends.index(True) if True in attends else len(rows)
    if not all(attends[first:]) or first == len(rows):
        return None
    embedding = dict(model.named_children()).get(f"patch_embed{first + 1}")
    if embedding is None:  # stages of one map and of several widths
        return None
    height, width = attribute(embedding, "grid_size")
    rows = rows[first:]
    stages = tuple(
        Stage(len(row), (height >> number, width >> number), 2**number, rounds_up=False)
        for number, row in enumerate(rows)
    )
    ran = [sum(map(len, rows[: number + 1])) for number in range(len(rows))]
    return Host(
        **_common(model, [block for row in rows for block in row], [0] * first + ran),
        embedding=embedding,
        usual_grid=(height, width),
        first_norm=_norm_of_visformer,
        window=max(stages, key=lambda stage: stage.depth).window,
        run=_run_visformer,
        stages=stages,
        moves=True,  # nothing in its blocks says where a token stands
        packing=Packing(channels_last, channels_first),
    )


def _attends(block: nn.Module) -> bool:
    return attribute(block, "attn") is not None and not attribute(block, "spatial_conv")


def _norm_of_visformer(block: nn.Module, tokens: Tensor) -> Tensor:
    return channels_last(apply_child(block, channels_first(tokens), "norm1"))


def _run_visformer(block: nn.Module, x: Tensor, cells: Cells, keywords: dict[str, Any]) -> Tensor:
    """A block's output on a map of clusters (B, C, h, w)."""
    attention = block.get_submodule("attn")
    heads: int = attribute(attention, "num_heads")
    qkv = apply_child(attention, apply_child(block, x, "norm1"), "qkv").flatten(2)
    q, k, v = qkv.unflatten(1, (3, heads, -1)).permute(1, 0, 2, 4, 3)  # type: ignore[no-untyped-call]
    keys = cells.log_mass
    mask = None if keys is None else keys.flatten(1)[:, None, None].to(x.dtype)
    out = F.scaled_dot_product_attention(q, k, v, mask, dropout_rate(attention, "attn_drop"))
    out = out.mT.flatten(1, 2).unflatten(-1, x.shape[-2:])  # type: ignore[no-untyped-call]
    out = apply_child(attention, apply_child(attention, out, "proj"), "proj_drop")
    x = x + apply_child(block, out, "drop_path")
    out = apply_child(block, apply_child(block, x, "norm2"), "mlp")
    return x + apply_child(block, out, "drop_path")


def _nest(model: nn.Module) -> Host:
    *before, level = model.get_submodule("levels").children()
    blocks = list(level.get_submodule("transformer_encoder").children())
    side: int = attribute(level, "block_size")
    return Host(
        **_common(model, blocks, [0] * len(before) + [len(blocks)]),
        embedding=level.get_submodule("pool"),
        usual_grid=(side, side),
        first_norm=partial(apply_child, name="norm1"),
        attention=Attention(_attention, _attend_in_one),
        packing=Packing(_of_one_window, _as_one_window),
    )


def _of_one_window(x: Tensor, grid: tuple[int, int], is_full: bool) -> Tensor:
    return x.flatten(1, 2)


def _as_one_window(x: Tensor, grid: tuple[int, int], is_full: bool) -> Tensor:
    return x[:, None]


def _attention(block: nn.Module) -> nn.Module:
    return block.get_submodule("attn")


def _attend_in_one(attention: nn.Module, mask: Tensor, x: Tensor) -> Tensor:
    """What the attention puts out for (B, 1, N, C) under a mask that its own code lacks."""
    q, k, v = heads_of_one(attention, x[:, 0])
    out = F.scaled_dot_product_attention(q, k, v, mask, dropout_rate(attention, "attn_drop"))
    # Channels of heads lie between one another in the library's code.
    out = out.permute(0, 2, 3, 1).flatten(2)[:, None]
    return apply_child(attention, apply_child(attention, out, "proj"), "proj_drop")
