"""torchvision's Swin and SwinV2.

Found by their blocks and not by the model's class: detectors take its features alone, or parts of
them.
"""

from typing import Any

from torch import Tensor, nn

from expedite.patching.heads import Projections
from expedite.patching.host import Cells, Host, attribute, kind_of, map_of_tokens
from expedite.patching.windows.shifted_blocks import Layout, Size
from expedite.patching.windows.swin import (
    blocks_of,
    make_host,
    mlp_of_offsets,
    project,
    table_of_offsets,
)


def find_host(module: nn.Module) -> Host | None:
    """See `module` as a Swin or SwinV2 of torchvision; None where it is something else."""
    features = dict(module.named_children()).get("features", module)
    if not isinstance(features, (nn.Sequential, nn.ModuleDict)):
        return None
    embedding, *parts = [*features.children(), nn.Identity()]
    stages = [blocks for part in parts if (blocks := blocks_of(part, _LAYOUTS))]
    if blocks_of(embedding, _LAYOUTS) or not stages:
        return None
    kind = kind_of(stages[0][0], _LAYOUTS)
    assert kind is not None  # or there were no stages
    return make_host(
        module,
        stages,
        _LAYOUTS[kind],
        [_window(blocks[0]) for blocks in stages],
        family=f"torchvision SwinTransformer{' V2' if kind.endswith('V2') else ''}",
        embedding=embedding,
        grid=map_of_tokens,
        usual_grid=_grid_of_224(embedding),
        any_size=True,
    )


def _grid_of_224(embedding: nn.Module) -> Size:
    rows, columns = next(m for m in embedding.modules() if isinstance(m, nn.Conv2d)).stride
    return 224 // rows, 224 // columns


def _window(block: nn.Module) -> Size:
    rows, columns = attribute(block.get_submodule("attn"), "window_size")
    return rows, columns


def _is_shifted(block: nn.Module, cells: Cells, keywords: dict[str, Any]) -> tuple[bool, bool]:
    down, right = attribute(block.get_submodule("attn"), "shift_size")
    (height, width), (rows, columns) = cells.grid, cells.window
    return down > 0 and height > rows, right > 0 and width > columns


def _project_v2(attention: nn.Module, x: Tensor) -> Projections:
    q, k, v = project(attention, x)
    bias = attribute(attention, "qkv").bias
    # Keys have no bias in SwinV2, whatever a checkpoint has in its place.
    return q, k if bias is None else k - bias.chunk(3)[1], v


_COMMON: dict[str, Any] = {
    "attention": "attn",
    "heads": "num_heads",
    "is_shifted": _is_shifted,
    "dropout": "attention_dropout",
    "output_dropout": "dropout",
    "after_attention": ("attn.proj",),
}
# A class before the one that it inherits from.
_LAYOUTS = {
    "torchvision.models.swin_transformer.SwinTransformerBlockV2": Layout(
        **_COMMON,
        project=_project_v2,
        positions=mlp_of_offsets,
        before=(),
        after_windows=("norm1", "stochastic_depth"),
        mlp=("mlp", "norm2", "stochastic_depth"),
    ),
    "torchvision.models.swin_transformer.SwinTransformerBlock": Layout(
        **_COMMON,
        project=project,
        positions=table_of_offsets,
        before=("norm1",),
        after_windows=("stochastic_depth",),
        mlp=("norm2", "mlp", "stochastic_depth"),
    ),
}
