"""timm's SwinTransformer, SwinTransformerV2 and SwinTransformerV2Cr.

Found by their blocks and not by the model's class: features_only takes the model apart and leaves
its stages.
"""

from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expedite.patchers.timm.methods import methods
from expedite.patching.heads import Projections
from expedite.patching.host import Cells, Host, attribute, kind_of, map_grid, map_of_tokens
from expedite.patching.positions.continuous import logarithmic_bias
from expedite.patching.windows.shifted_blocks import Layout, Size
from expedite.patching.windows.swin import (
    blocks_of,
    make_host,
    mlp_of_offsets,
    project,
    table_of_offsets,
)


def find_host(module: nn.Module) -> Host | None:
    """See `module` as a Swin or SwinV2 of timm; None where it is something else."""
    # Children and no attributes, which wrappers pass on.
    embedding = dict(module.named_children()).get("patch_embed")
    if embedding is None or not (stages := _stages(module)):
        return None
    kind = kind_of(stages[0][0], _LAYOUTS)
    assert kind is not None  # or there were no stages
    return make_host(
        module,
        stages,
        _LAYOUTS[kind],
        [_window(blocks[0]) for blocks in stages],
        family=f"timm {kind.rpartition('.')[2].removesuffix('Block')}",
        embedding=embedding,
        grid=map_grid if kind.endswith("V2CrBlock") else map_of_tokens,
        usual_grid=attribute(embedding, "grid_size"),
        any_size=not attribute(embedding, "strict_img_size"),
        methods=tuple(method for method in methods(_ends) if hasattr(module, method.name)),
        taps="outputs of stages, of the full map in any case",
    )


def _stages(model: nn.Module) -> list[tuple[nn.Module, ...]]:
    children = dict(model.named_children())
    holder = children.get("layers") or children.get("stages") or model
    return [blocks for part in holder.children() if (blocks := blocks_of(part, _LAYOUTS))]


def _ends(model: nn.Module) -> list[int]:
    return list(accumulate(len(blocks) for blocks in _stages(model)))


def _window(block: nn.Module) -> Size:
    rows, columns = attribute(block, "window_size")
    return rows, columns


def _is_shifted(block: nn.Module, cells: Cells, keywords: dict[str, Any]) -> tuple[bool, bool]:
    down, right = attribute(block, "shift_size")
    return down > 0, right > 0


def _project_v2(attention: nn.Module, x: Tensor) -> Projections:
    bias = None
    if attribute(attention, "q_bias") is not None:
        bias = torch.cat([attribute(attention, f"{name}_bias") for name in "qkv"])
    q, k, v = F.linear(x, attribute(attention, "qkv").weight, bias).chunk(3, -1)
    return q, k, v


def _positions_v2_cr(attention: nn.Module, cells: Cells) -> Tensor:
    return logarithmic_bias(attention.get_submodule("meta_mlp"), cells.window, cells.cells)


_COMMON: dict[str, Any] = {
    "attention": "attn",
    "heads": "num_heads",
    "is_shifted": _is_shifted,
    "dropout": "attn_drop",
    "after_attention": ("attn.proj", "attn.proj_drop"),
    "pads_first": False,
}
_LAYOUTS = {
    "timm.models.swin_transformer.SwinTransformerBlock": Layout(
        **_COMMON,
        project=project,
        positions=table_of_offsets,
        before=("norm1",),
        after_windows=("drop_path1",),
        mlp=("norm2", "mlp", "drop_path2"),
    ),
    "timm.models.swin_transformer_v2.SwinTransformerV2Block": Layout(
        **_COMMON,
        project=_project_v2,
        positions=mlp_of_offsets,
        before=(),
        after_windows=("norm1", "drop_path1"),
        mlp=("mlp", "norm2", "drop_path2"),
    ),
    "timm.models.swin_transformer_v2_cr.SwinTransformerV2CrBlock": Layout(
        **_COMMON,
        project=project,
        positions=_positions_v2_cr,
        before=(),
        after_windows=("norm1", "drop_path1"),
        mlp=("mlp", "norm2", "drop_path2"),
        last=("norm3",),
    ),
}
