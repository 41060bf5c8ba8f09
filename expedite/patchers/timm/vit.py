"""timm's VisionTransformer, Eva (EVA02, DINOv3, rotary ViTs) and Beit, in all their kinds."""

from typing import Any

import torch
from torch import Tensor, nn

from expedite.patchers.timm.methods import methods
from expedite.patching.host import (
    Bias,
    Host,
    Mask,
    Readout,
    Rotary,
    apply_child,
    attribute,
    inner,
    kind_of,
    runs_as,
)

_FAMILIES = {
    "timm.models.vision_transformer.VisionTransformer": "timm VisionTransformer",
    "timm.models.eva.Eva": "timm Eva",
    "timm.models.beit.Beit": "timm Beit",
}
_MASKS = {
    "timm VisionTransformer": Mask("attn_mask", position=1),
    "timm Eva": Mask("attn_mask", position=2),
    "timm Beit": Mask("shared_rel_pos_bias", position=1),
}


def find_host(module: nn.Module) -> Host | None:
    """See `module` as a timm VisionTransformer, Eva or Beit; None where it is something else."""
    kind = kind_of(module, _FAMILIES)
    if kind is None or not runs_as(module, "timm.", "forward", "forward_features"):
        return None
    family = _FAMILIES[kind]
    embedding = module.get_submodule("patch_embed")
    return Host(
        family=family,
        model=module,
        backbone=module,
        blocks=tuple(inner(block, "timm.") for block in module.get_submodule("blocks").children()),
        prefix_tokens=attribute(module, "num_prefix_tokens"),
        embedding=embedding,
        projection=dict(embedding.named_children()).get("proj"),
        grid=grid_of_patches,
        usual_grid=attribute(embedding, "grid_size"),
        any_size=getattr(module, "dynamic_img_size", False),
        first_norm=first_norm,
        mask=_MASKS[family],
        rotary=Rotary("rope", _split, _join, of_each=getattr(module, "rope_mixed", False)),
        bias=_bias(module) if family == "timm Beit" else None,
        readout=_readout,
        pooled=module.get_submodule("norm"),
        methods=methods(has_prefix=True),
        taps="read through forward_intermediates",
    )


def first_norm(block: nn.Module, tokens: Tensor) -> Tensor:
    """What a block's first norm makes of the tokens; post-norm blocks leave them as they are."""
    name = {
        "Block": "norm1",
        "EvaBlock": "norm1",
        "ParallelScalingBlock": "in_norm",
        "DiffParallelScalingBlock": "in_norm",
    }
    kind = next((kind.__name__ for kind in type(block).__mro__ if kind.__name__ in name), None)
    return tokens if kind is None else apply_child(block, tokens, name[kind])


def grid_of_patches(embedding: nn.Module, args: tuple[Any, ...], output: Tensor) -> tuple[int, int]:
    """The grid that timm's `PatchEmbed` makes of an image."""
    height, width = args[0].shape[-2:]
    rows, columns = attribute(embedding, "dynamic_feat_size")((height, width))
    return rows, columns


def _bias(model: nn.Module) -> Bias:
    return Bias("_get_rel_pos_bias", _own_bias, attribute(model, "rel_pos_bias"), _table)


def _own_bias(block: nn.Module) -> nn.Module | None:
    attention = inner(block.get_submodule("attn"), "timm.")
    return None if attribute(attention, "relative_position_bias_table") is None else attention


def _table(maker: nn.Module, grid: tuple[int, int]) -> Tensor:
    table: Tensor = attribute(maker, "relative_position_bias_table")
    return table


def _split(rope: Tensor) -> tuple[Tensor, Tensor]:
    sin, cos = rope.chunk(2, -1)
    return sin, cos


def _join(sin: Tensor, cos: Tensor) -> Tensor:
    return torch.cat([sin, cos], -1)


def _readout(model: nn.Module) -> Readout:
    if getattr(model, "attn_pool", None) is not None:
        return "tokens"
    pool = attribute(model, "global_pool")
    if pool == "token":
        return "prefix"
    return (
        "mean" if pool == "avg" and not getattr(model, "pool_include_prefix", False) else "tokens"
    )
