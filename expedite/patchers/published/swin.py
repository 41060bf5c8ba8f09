"""Swin and SwinV2 as they were published, outside of any package.

Microsoft's classifiers, and the backbones of Mask2Former (detectron2's `D2SwinTransformer`),
OneFormer, DINO and Microsoft's own detectors and segmenters, under whatever name a copy stands.
Blocks map tokens (B, H·W, C) to the same; those of backbones are also handed the mask of shifted
windows, which their stage makes.
"""

from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expedite.patchers.transformers.vit import pair
from expedite.patching.heads import Projections
from expedite.patching.host import Cells, Host, Method, attribute, map_grid, nothing_more
from expedite.patching.windows.shifted_blocks import Layout, Size
from expedite.patching.windows.swin import make_host, mlp_of_offsets, project, table_of_offsets

# A block has these children and no more, which might do something else between.
_PARTS = {"norm1", "attn", "drop_path", "norm2", "mlp"}
_OF_ATTENTION = {"qkv", "proj", "attn_drop", "proj_drop"}
_METHODS = ("forward_features", "forward_raw")


def find_host(module: nn.Module) -> Host | None:
    """See `module` as a published Swin or SwinV2; None where it is something else."""
    children = dict(module.named_children())
    layers = list(children["layers"].children()) if "layers" in children else []
    stages = [_blocks(layer) for layer in layers]
    embedding = children.get("patch_embed")
    if embedding is None or not hasattr(embedding, "patch_size") or not stages or not all(stages):
        return None
    first = stages[0][0]
    is_v2 = hasattr(first.get_submodule("attn"), "logit_scale")
    is_classifier = hasattr(first, "input_resolution") and hasattr(embedding, "patches_resolution")
    kind = "classifier" if is_classifier else "backbone"
    return make_host(
        module,
        stages,
        _V2 if is_v2 else _V1,
        [_window(blocks[0]) for blocks in stages],
        scales=_scales(layers),
        family=f"published Swin{'V2' if is_v2 else ''} {kind}",
        embedding=embedding,
        grid=_grid if is_classifier else map_grid,
        usual_grid=_grid(embedding) if is_classifier else _usual_grid(module, embedding),
        any_size=not is_classifier,
        methods=tuple(Method(name, nothing_more) for name in _METHODS if hasattr(module, name)),
        taps="outputs of stages, of the full map in any case",
        hands_masks=not is_classifier,
    )


def _blocks(layer: nn.Module) -> tuple[nn.Module, ...]:
    """The blocks of a stage; none where it is something else."""
    blocks = tuple(dict(layer.named_children()).get("blocks", nn.Identity()).children())
    return blocks if all(map(_is_block, blocks)) else ()


def _is_block(block: nn.Module) -> bool:
    parts = dict(block.named_children())
    if parts.keys() != _PARTS or not isinstance(getattr(block, "shift_size", None), int):
        return False
    attention = parts["attn"]
    has_positions = hasattr(attention, "relative_position_bias_table") or (
        hasattr(attention, "cpb_mlp") and hasattr(attention, "logit_scale")
    )
    is_there = dict(attention.named_children()).keys() >= _OF_ATTENTION
    window = getattr(attention, "window_size", None)
    is_flat = isinstance(window, (tuple, list)) and len(window) == 2  # of video they have three
    return has_positions and is_there and is_flat


def _scales(layers: list[nn.Module]) -> list[int]:
    """Along each side, how many tokens of the embedding stand for one of each stage."""
    halved = [dict(layer.named_children()).get("downsample") is not None for layer in layers]
    return [2**times for times in accumulate(halved[:-1], initial=0)]


def _grid(embedding: nn.Module, *call: Any) -> Size:
    rows, columns = attribute(embedding, "patches_resolution")
    return rows, columns


def _usual_grid(model: nn.Module, embedding: nn.Module) -> Size:
    height, width = pair(getattr(model, "pretrain_img_size", 224))
    rows, columns = pair(attribute(embedding, "patch_size"))
    return height // rows, width // columns


def _window(block: nn.Module) -> Size:
    rows, columns = attribute(block.get_submodule("attn"), "window_size")
    return rows, columns


def _is_shifted(block: nn.Module, cells: Cells, keywords: dict[str, Any]) -> tuple[bool, bool]:
    is_shifted = attribute(block, "shift_size") > 0
    return is_shifted, is_shifted


def _project_v2(attention: nn.Module, x: Tensor) -> Projections:
    q_bias, v_bias = attribute(attention, "q_bias"), attribute(attention, "v_bias")
    bias = None if q_bias is None else torch.cat([q_bias, torch.zeros_like(v_bias), v_bias])
    q, k, v = F.linear(x, attribute(attention, "qkv").weight, bias).chunk(3, -1)
    return q, k, v


_COMMON: dict[str, Any] = {
    "attention": "attn",
    "heads": "num_heads",
    "is_shifted": _is_shifted,
    "dropout": "attn_drop",
    "after_attention": ("attn.proj", "attn.proj_drop"),
}
_V1 = Layout(
    **_COMMON,
    project=project,
    positions=table_of_offsets,
    before=("norm1",),
    after_windows=("drop_path",),
    mlp=("norm2", "mlp", "drop_path"),
)
_V2 = Layout(
    **_COMMON,
    project=_project_v2,
    positions=mlp_of_offsets,
    before=(),
    after_windows=("norm1", "drop_path"),
    mlp=("mlp", "norm2", "drop_path"),
)
