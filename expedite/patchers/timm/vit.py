"""timm's models that are a row of blocks on all tokens of a grid.

VisionTransformer, Eva (EVA02, DINOv3, rotary ViTs), Beit, VisionTransformerRelPos, NaFlexVit, and
the vision encoders of Qwen3, DeepSeek and Gemma 4.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.patchers.timm.methods import methods
from expedite.patching.host import (
    Bias,
    Host,
    Mask,
    Readout,
    Rotary,
    apply_child,
    attribute,
    every_token,
    inner,
    kind_of,
    runs_as,
)

Size = tuple[int, int]

# The grid of models for images of any size that do not say for which they were made.
_USUAL_GRID = (48, 48)


def find_host(module: nn.Module) -> Host | None:
    """See `module` as a row of timm's blocks; None where it is something else."""
    name = kind_of(module, _KINDS)
    if name is None or not runs_as(module, "timm.", "forward", "forward_features"):
        return None
    kind = _KINDS[name]
    embedding = module.get_submodule(kind.embedding)
    projection = dict(embedding.named_children()).get("proj")
    is_read_whole = kind.readout is every_token
    return Host(
        family=f"timm {name.rpartition('.')[2]}",
        model=module,
        backbone=module,
        blocks=tuple(inner(block, "timm.") for block in module.get_submodule("blocks").children()),
        prefix_tokens=getattr(module, "num_prefix_tokens", 0),
        embedding=embedding,
        projection=projection if isinstance(projection, nn.Conv2d) else None,
        grid=kind.grid,
        usual_grid=_usual_grid(embedding),
        any_size=kind.any_size or getattr(module, "dynamic_img_size", False),
        first_norm=first_norm,
        mask=kind.mask,
        rotary=kind.rotary(module),
        bias=None if kind.bias is None else kind.bias(module),
        readout=kind.readout,
        pooled=None if is_read_whole else module.get_submodule("norm"),
        methods=methods(has_prefix=kind.has_prefix),
        taps="read through forward_intermediates",
    )


def first_norm(block: nn.Module, tokens: Tensor) -> Tensor:
    """What a block's first norm makes of the tokens; post-norm blocks leave them as they are."""
    name = {
        "Block": "norm1",
        "DeepseekVitBlock": "norm1",
        "DiffParallelScalingBlock": "in_norm",
        "EvaBlock": "norm1",
        "Gemma4Block": "norm1",
        "ParallelScalingBlock": "in_norm",
        "RelPosBlock": "norm1",
    }
    kind = next((kind.__name__ for kind in type(block).__mro__ if kind.__name__ in name), None)
    return tokens if kind is None else apply_child(block, tokens, name[kind])


def grid_of_patches(embedding: nn.Module, args: tuple[Any, ...], output: Tensor) -> tuple[int, int]:
    """The grid that timm's `PatchEmbed` makes of an image."""
    height, width = args[0].shape[-2:]
    rows, columns = attribute(embedding, "dynamic_feat_size")((height, width))
    return rows, columns


def _grid_of_naflex(embedding: nn.Module, args: tuple[Any, ...], output: Any) -> Size:
    """The grid of an image; patches that were cut before come from images of several sizes."""
    if output[1] is None:
        _refuse_patches()
    rows, columns = output[1]
    return rows, columns


def _grid_of_gemma(embedding: nn.Module, args: tuple[Any, ...], output: Any) -> Size:
    is_image = isinstance(args[0], Tensor) and args[0].dim() == 4
    if not is_image or any(arg is not None for arg in args[1:]):
        _refuse_patches()
    (height, width), (rows, columns) = args[0].shape[-2:], attribute(embedding, "patch_size")
    return height // rows, width // columns


def _refuse_patches() -> NoReturn:
    raise ExpediteError(
        "a patched model of timm was called with patches of images, which may be of several "
        "sizes, and one grid is clustered at a time; a batch of images of one size works"
    )


def _usual_grid(embedding: nn.Module) -> Size:
    names = ("grid_size", "pos_embed_grid_size")
    sizes = [size for name in names if (size := getattr(embedding, name, None)) is not None]
    rows, columns = [*sizes, _USUAL_GRID][0]
    return rows, columns


def _bias_of_beit(model: nn.Module) -> Bias:
    return Bias("_get_rel_pos_bias", _own_of_beit, attribute(model, "rel_pos_bias"), _table)


def _own_of_beit(block: nn.Module) -> nn.Module | None:
    attention = inner(block.get_submodule("attn"), "timm.")
    return None if attribute(attention, "relative_position_bias_table") is None else attention


def _table(maker: nn.Module, grid: Size) -> Tensor:
    table: Tensor = attribute(maker, "relative_position_bias_table")
    return table


def _bias_of_rel_pos(model: nn.Module) -> Bias:
    shared = attribute(model, "shared_rel_pos")
    return Bias(
        "get_bias",
        _own_of_rel_pos,
        shared,
        _table_of_rel_pos,
        stands_alone=True,
        shared_method="get_bias",
    )


def _own_of_rel_pos(block: nn.Module) -> nn.Module | None:
    maker: nn.Module | None = attribute(block.get_submodule("attn"), "rel_pos")
    return maker


def _table_of_rel_pos(maker: nn.Module, grid: Size) -> Tensor:
    """The table of a `RelPosBias`, or what a `RelPosMlp` makes of every offset."""
    if hasattr(maker, "relative_position_bias_table"):
        return _table(maker, grid)
    coordinates: Tensor = attribute(maker, "rel_coords_log")  # (2H-1, 2W-1, 2)
    bias = maker.get_submodule("bias_act")(maker.get_submodule("mlp")(coordinates)).flatten(0, 1)
    bias = bias * (attribute(maker, "bias_gain") or 1)
    # It adds nothing to scores of and for the class token.
    return F.pad(bias, (0, 0, 0, 3 * attribute(maker, "prefix_tokens")))


def _rotary(model: nn.Module) -> Rotary:
    is_mixed = getattr(model, "rope_mixed", getattr(model, "rope_is_mixed", False))
    return Rotary("rope", _split, _join, of_each=is_mixed)


def _rotary_of_gemma(model: nn.Module) -> Rotary:
    return Rotary("rope_cos", _split_images, _join_images, position=1, second="rope_sin")


def _split(rope: Tensor) -> tuple[Tensor, Tensor]:
    sin, cos = rope.chunk(2, -1)
    return sin, cos


def _join(sin: Tensor, cos: Tensor) -> Tensor:
    return torch.cat([sin, cos], -1)


def _split_images(cos_and_sin: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Of tables (B, N, D), which are the same for all images of one size."""
    cos, sin = cos_and_sin
    return sin[0], cos[0]


def _join_images(sin: Tensor, cos: Tensor) -> tuple[Tensor, Tensor]:
    return cos[:, 0], sin[:, 0]


def _attention(block: nn.Module) -> nn.Module:
    return block.get_submodule("attn")


def _readout(model: nn.Module) -> Readout:
    if getattr(model, "attn_pool", None) is not None:
        return "tokens"
    pool = attribute(model, "global_pool")
    if pool == "token":
        return "prefix"
    return (
        "mean" if pool == "avg" and not getattr(model, "pool_include_prefix", False) else "tokens"
    )


@dataclass(frozen=True)
class _Kind:
    """What differs between the models.

    Args:
        mask: How blocks take a mask.
        embedding: The module that makes tokens of an image.
        grid: Of its output.
        rotary: How blocks take rotary positions.
        bias: How they add relative ones.
        readout: What the model's own head reads.
        any_size: Whether it takes images of any size.
        has_prefix: Whether `forward_intermediates` can be asked for tokens before the grid's.
    """

    mask: Mask
    embedding: str = "patch_embed"
    grid: Callable[[nn.Module, tuple[Any, ...], Any], Size] = grid_of_patches
    rotary: Callable[[nn.Module], Rotary] = _rotary
    bias: Callable[[nn.Module], Bias] | None = None
    readout: Callable[[nn.Module], Readout] = _readout
    any_size: bool = False
    has_prefix: bool = True


_KINDS = {
    "timm.models.vision_transformer.VisionTransformer": _Kind(Mask("attn_mask", position=1)),
    "timm.models.eva.Eva": _Kind(Mask("attn_mask", position=2)),
    "timm.models.beit.Beit": _Kind(Mask("shared_rel_pos_bias", position=1), bias=_bias_of_beit),
    "timm.models.vision_transformer_relpos.VisionTransformerRelPos": _Kind(
        Mask("shared_rel_pos", position=1), bias=_bias_of_rel_pos
    ),
    "timm.models.naflexvit.NaFlexVit": _Kind(
        Mask("attn_mask", position=None), embedding="embeds", grid=_grid_of_naflex, any_size=True
    ),
    "timm.models.qwen3_vit.Qwen3VitEncoder": _Kind(
        Mask("attn_mask", position=2), readout=every_token, any_size=True
    ),
    "timm.models.deepseek_vit.DeepseekVitEncoder": _Kind(
        Mask("attn_mask", position=2, module=_attention), readout=every_token, any_size=True
    ),
    "timm.models.gemma4_vit.Gemma4VitEncoder": _Kind(
        Mask("attn_mask", position=3),
        grid=_grid_of_gemma,
        rotary=_rotary_of_gemma,
        readout=every_token,
        any_size=True,
        has_prefix=False,
    ),
}
