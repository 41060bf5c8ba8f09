"""Swin and SwinV2 of timm and torchvision.

Found by their blocks and not by the model's class: features_only and feature extractors take the
model apart and leave its stages.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expedite.patchers.bias import window_bias
from expedite.patchers.continuous import continuous_bias
from expedite.patchers.host import (
    Cells,
    Host,
    Method,
    Readout,
    Reads,
    Stage,
    apply_child,
    attribute,
    class_names,
)
from expedite.patchers.shifted_blocks import Layout, Projections, Size, run_block


@dataclass(frozen=True)
class _Library:
    """What differs between the four, besides their blocks."""

    family: str
    layout: Layout
    window: Callable[[nn.Module], Size]
    usual_grid: Callable[[nn.Module], Size]
    any_size: Callable[[nn.Module], bool]
    methods: tuple[Method, ...] = ()


def find_host(module: nn.Module) -> Host | None:
    """See `module` as a Swin or SwinV2; None where it is something else."""
    parts = _parts(module)
    stages = [blocks for part in parts if (blocks := _blocks_of(part))]
    library = _library(stages[0][0]) if stages else None
    if library is None or _blocks_of(parts[0]):
        return None
    return Host(
        family=library.family,
        model=module,
        backbone=module,
        blocks=tuple(block for blocks in stages for block in blocks),
        prefix_tokens=0,
        embedding=parts[0],
        grid=_grid,
        usual_grid=library.usual_grid(parts[0]),
        any_size=library.any_size(parts[0]),
        first_norm=first_norm(library.layout),
        mask=None,
        readout=readout,
        methods=tuple(m for m in library.methods if hasattr(module, m.name)),
        taps="outputs of stages, of the full map in any case",
        run=partial(run_block, layout=library.layout),
        **in_stages([(len(blocks), library.window(blocks[0])) for blocks in stages]),
    )


def in_stages(stages: list[tuple[int, Size]]) -> dict[str, Any]:
    """What a host says of its stages, given how many blocks each has, and their windows."""
    found = [Stage(depth, window, 2**number) for number, (depth, window) in enumerate(stages)]
    longest = max(found, key=lambda stage: stage.depth)
    return {"stages": tuple(found), "window": longest.window}


def first_norm(layout: Layout) -> Callable[[nn.Module, Tensor], Tensor]:
    """What a block's first norm makes of tokens; SwinV2's blocks have none before attention."""
    return partial(apply_child, name=layout.before[0]) if layout.before else _as_they_are


def readout(model: nn.Module) -> Readout:
    return "tokens"


def _parts(module: nn.Module) -> list[nn.Module]:
    """The embedding, the stages and what lies between them, of whatever may be a Swin."""
    inside = dict(module.named_children())  # no attributes, which wrappers pass on
    if isinstance(features := inside.get("features"), nn.Sequential):  # torchvision
        return list(features.children())
    if "patch_embed" in inside and "layers" in inside:  # timm
        return [inside["patch_embed"], *inside["layers"].children()]
    is_container = isinstance(module, (nn.Sequential, nn.ModuleDict))
    return list(module.children()) if is_container else []


def _blocks_of(part: nn.Module) -> tuple[nn.Module, ...]:
    """The blocks of a stage; none where it is something else."""
    holder = dict(part.named_children()).get("blocks", part)
    blocks = tuple(holder.children())
    return blocks if blocks and _library(blocks[0]) else ()


def _library(block: nn.Module) -> _Library | None:
    names = class_names(block)
    return next((_LIBRARIES[name] for name in _LIBRARIES if name in names), None)


def _grid(embedding: nn.Module, args: tuple[Any, ...], output: Tensor) -> Size:
    return output.shape[1], output.shape[2]  # of (B, H, W, C)


def _as_they_are(block: nn.Module, tokens: Tensor) -> Tensor:
    return tokens


def _features(model: nn.Module, *args: Any, **kwargs: Any) -> Reads:
    return Reads()


def _intermediates(
    model: nn.Module,
    x: Tensor,
    indices: int | list[int] | None = None,
    norm: bool = False,
    stop_early: bool = False,
    output_fmt: str = "NCHW",
    intermediates_only: bool = False,
) -> Reads:
    from timm.models._features import feature_take_indices

    stages = [attribute(stage, "blocks") for stage in attribute(model, "layers")]
    taken, _ = feature_take_indices(len(stages), indices)
    ends = list(accumulate(len(blocks) for blocks in stages))
    taps = frozenset(ends[index] - 1 for index in taken)
    return Reads(taps, last=not intermediates_only)


def _grid_of_timm(embedding: nn.Module) -> Size:
    rows, columns = attribute(embedding, "grid_size")
    return rows, columns


def _is_not_strict(embedding: nn.Module) -> bool:
    return not attribute(embedding, "strict_img_size")


def _window_of_timm(block: nn.Module) -> Size:
    rows, columns = attribute(block, "window_size")
    return rows, columns


def _is_shifted_in_timm(
    block: nn.Module, cells: Cells, keywords: dict[str, Any]
) -> tuple[bool, bool]:
    down, right = attribute(block, "shift_size")
    return down > 0, right > 0


def _dropout_of_timm(attention: nn.Module) -> float:
    rate: float = attribute(attention, "attn_drop").p
    return rate


def _grid_of_224(embedding: nn.Module) -> Size:
    rows, columns = next(m for m in embedding.modules() if isinstance(m, nn.Conv2d)).stride
    return 224 // rows, 224 // columns


def _always(embedding: nn.Module) -> bool:
    return True


def _window_of_torchvision(block: nn.Module) -> Size:
    return _window_of_timm(block.get_submodule("attn"))


def _is_shifted_in_torchvision(
    block: nn.Module, cells: Cells, keywords: dict[str, Any]
) -> tuple[bool, bool]:
    down, right = attribute(block.get_submodule("attn"), "shift_size")
    (height, width), (rows, columns) = cells.grid, cells.window
    return down > 0 and height > rows, right > 0 and width > columns


def _dropout_of_torchvision(attention: nn.Module) -> float:
    rate: float = attribute(attention, "attention_dropout")
    return rate


def _output_dropout_of_torchvision(attention: nn.Module) -> float:
    rate: float = attribute(attention, "dropout")
    return rate


def _project(attention: nn.Module, x: Tensor) -> Projections:
    q, k, v = apply_child(attention, x, "qkv").chunk(3, -1)
    return q, k, v


def _project_v2_of_timm(attention: nn.Module, x: Tensor) -> Projections:
    bias = None
    if attribute(attention, "q_bias") is not None:
        bias = torch.cat([attribute(attention, f"{name}_bias") for name in "qkv"])
    q, k, v = F.linear(x, attribute(attention, "qkv").weight, bias).chunk(3, -1)
    return q, k, v


def _project_v2_of_torchvision(attention: nn.Module, x: Tensor) -> Projections:
    q, k, v = apply_child(attention, x, "qkv").chunk(3, -1)
    bias = attribute(attention, "qkv").bias
    # Keys have no bias in SwinV2, whatever a checkpoint has in its place.
    return q, k if bias is None else k - bias.chunk(3)[1], v


def table_of_offsets(attention: nn.Module, window: Size, cells: Size) -> Tensor:
    """The bias of a Swin's attention among the cells of a window."""
    return window_bias(attribute(attention, "relative_position_bias_table"), window, cells)


def _mlp_of_timm(attention: nn.Module, window: Size, cells: Size) -> Tensor:
    rows, columns = attribute(attention, "pretrained_window_size")
    trained = (rows, columns) if rows > 0 else window
    return continuous_bias(attention.get_submodule("cpb_mlp"), window, cells, trained)


def _mlp_of_torchvision(attention: nn.Module, window: Size, cells: Size) -> Tensor:
    return continuous_bias(attention.get_submodule("cpb_mlp"), window, cells, window)


_TIMM: dict[str, Any] = {
    "attention": "attn",
    "heads": "num_heads",
    "is_shifted": _is_shifted_in_timm,
    "dropout": _dropout_of_timm,
    "after_attention": ("attn.proj", "attn.proj_drop"),
    "pads_first": False,
}
_TORCHVISION: dict[str, Any] = {
    "attention": "attn",
    "heads": "num_heads",
    "is_shifted": _is_shifted_in_torchvision,
    "dropout": _dropout_of_torchvision,
    "output_dropout": _output_dropout_of_torchvision,
    "after_attention": ("attn.proj",),
}
_METHODS = (
    Method("forward_features", _features),
    Method("forward_intermediates", _intermediates),
)
# By the class of a block, a class before those that it inherits from.
_LIBRARIES = {
    "timm.models.swin_transformer.SwinTransformerBlock": _Library(
        family="timm SwinTransformer",
        layout=Layout(
            **_TIMM,
            project=_project,
            positions=table_of_offsets,
            before=("norm1",),
            after_windows=("drop_path1",),
            mlp=("norm2", "mlp", "drop_path2"),
        ),
        window=_window_of_timm,
        usual_grid=_grid_of_timm,
        any_size=_is_not_strict,
        methods=_METHODS,
    ),
    "timm.models.swin_transformer_v2.SwinTransformerV2Block": _Library(
        family="timm SwinTransformerV2",
        layout=Layout(
            **_TIMM,
            project=_project_v2_of_timm,
            positions=_mlp_of_timm,
            before=(),
            after_windows=("norm1", "drop_path1"),
            mlp=("mlp", "norm2", "drop_path2"),
        ),
        window=_window_of_timm,
        usual_grid=_grid_of_timm,
        any_size=_is_not_strict,
        methods=_METHODS,
    ),
    "torchvision.models.swin_transformer.SwinTransformerBlockV2": _Library(
        family="torchvision SwinTransformer V2",
        layout=Layout(
            **_TORCHVISION,
            project=_project_v2_of_torchvision,
            positions=_mlp_of_torchvision,
            before=(),
            after_windows=("norm1", "stochastic_depth"),
            mlp=("mlp", "norm2", "stochastic_depth"),
        ),
        window=_window_of_torchvision,
        usual_grid=_grid_of_224,
        any_size=_always,
    ),
    "torchvision.models.swin_transformer.SwinTransformerBlock": _Library(
        family="torchvision SwinTransformer",
        layout=Layout(
            **_TORCHVISION,
            project=_project,
            positions=table_of_offsets,
            before=("norm1",),
            after_windows=("stochastic_depth",),
            mlp=("norm2", "mlp", "stochastic_depth"),
        ),
        window=_window_of_torchvision,
        usual_grid=_grid_of_224,
        any_size=_always,
    ),
}
