"""Swin and SwinV2 of Hugging Face transformers, and their copies in MaskFormer, Donut and Swin2SR.

Blocks take and return tokens (B, H·W, C) with their map's size beside them. Stages show the map at
their end alone, which every span has left by then; MaskFormer's show every block's output.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from expedite.patchers.transformers.vit import asked_for, pair, refuse_attentions, usual_grid
from expedite.patching.heads import Projections
from expedite.patching.host import (
    Cells,
    Host,
    Reads,
    apply_child,
    attribute,
    inner,
    map_grid,
    own_class,
)
from expedite.patching.windows.shifted_blocks import Layout
from expedite.patching.windows.swin import make_host, mlp_of_offsets, table_of_offsets

_MODELS = {
    "SwinModel",
    "SwinBackbone",
    "SwinForImageClassification",
    "SwinForMaskedImageModeling",
    "Swinv2Model",
    "Swinv2Backbone",
    "Swinv2ForImageClassification",
    "Swinv2ForMaskedImageModeling",
    "MaskFormerSwinModel",
    "MaskFormerSwinBackbone",
    "DonutSwinModel",
    "DonutSwinForImageClassification",
    "Swin2SRModel",
    "Swin2SRForImageSuperResolution",
}


@dataclass(frozen=True)
class _Blocks:
    """What differs between them."""

    layout: Layout
    window: Callable[[nn.Module], Any]


def find_host(module: nn.Module) -> Host | None:
    """See `module` as a Swin or SwinV2 of transformers; None where it is something else."""
    name = own_class(module).__name__
    if name not in _MODELS or not own_class(module).__module__.startswith("transformers."):
        return None
    backbone = next(m for m in module.modules() if "embeddings" in dict(m.named_children()))
    # Swin2SR's stages, with a convolution at the end of each, are all on one map.
    shrinks = not name.startswith("Swin2SR")
    rows = ("encoder.layers", "blocks") if shrinks else ("encoder.stages", "layers")
    stages = [
        tuple(inner(block, "transformers.") for block in layer.get_submodule(rows[1]).children())
        for layer in backbone.get_submodule(rows[0]).children()
    ]
    kind = _kind_of(stages[0][0])
    return make_host(
        module,
        stages,
        kind.layout,
        [pair(kind.window(blocks[0])) for blocks in stages],
        None if shrinks else [1] * len(stages),
        family=f"transformers {name}",
        backbone=backbone,
        embedding=backbone.get_submodule("embeddings.patch_embeddings.projection"),
        grid=map_grid,
        usual_grid=usual_grid(attribute(module, "config")),
        any_size=True,
        reads=_reads,
        taps="hidden states and feature maps, where a call reads them",
    )


def _kind_of(block: nn.Module) -> _Blocks:
    if hasattr(block, "mlp"):
        return _SWIN
    if hasattr(block.get_submodule("attention.self"), "logit_scale"):
        return _SWINV2
    return _DONUT if hasattr(block, "set_shift_and_window_size") else _OLDER_SWIN


def _reads(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Reads:
    if asked_for("output_attentions", model, args, kwargs):
        refuse_attentions(model)
    shows_blocks = own_class(model).__name__.startswith("MaskFormerSwin")
    if not shows_blocks or not asked_for("output_hidden_states", model, args, kwargs):
        return Reads()
    return Reads(frozenset(range(sum(attribute(model, "config").depths))))


def _is_shifted(block: nn.Module, cells: Cells, keywords: dict[str, Any]) -> tuple[bool, bool]:
    is_shifted = attribute(block, "shift_size") > 0
    return is_shifted, is_shifted


def _is_shifted_on_large_maps(
    block: nn.Module, cells: Cells, keywords: dict[str, Any]
) -> tuple[bool, bool]:
    if min(cells.grid) <= cells.window[0] and not keywords.get("always_partition", False):
        return False, False
    return _is_shifted(block, cells, keywords)


def _project(attention: nn.Module, x: Tensor, names: tuple[str, str, str]) -> Projections:
    q, k, v = (apply_child(attention, x, name) for name in names)
    return q, k, v


def _table_of_a_module(attention: nn.Module, cells: Cells) -> Tensor:
    return table_of_offsets(attention.get_submodule("relative_position_bias"), cells)


def _with_no_weights(x: Tensor) -> tuple[Tensor, None]:
    return x, None  # in the place of attention weights


def _alone(x: Tensor) -> tuple[Tensor]:
    return (x,)


def _window(block: nn.Module) -> Any:
    # Not the block's own, which the library overwrites on small maps.
    return attribute(block.get_submodule("attention.relative_position_bias"), "window_size")


def _older_window(block: nn.Module) -> Any:
    return attribute(block.get_submodule("attention.self"), "window_size")


_OLDER: dict[str, Any] = {
    "attention": "attention.self",
    "heads": "num_attention_heads",
    "project": partial(_project, names=("query", "key", "value")),
    "is_shifted": _is_shifted,
    "dropout": "dropout",
    "after_attention": ("attention.output.dense", "attention.output.dropout"),
    "result": _alone,
}
_SWIN = _Blocks(
    layout=Layout(
        attention="attention",
        heads="num_attention_heads",
        project=partial(_project, names=("q_proj", "k_proj", "v_proj")),
        positions=_table_of_a_module,
        is_shifted=_is_shifted_on_large_maps,
        dropout="attention_dropout",
        before=("layernorm_before",),
        after_attention=("attention.o_proj", "dropout"),
        after_windows=("drop_path",),
        mlp=("layernorm_after", "mlp", "dropout"),
        result=_with_no_weights,
    ),
    window=_window,
)
_OLDER_SWIN = _Blocks(
    layout=Layout(
        **_OLDER,
        positions=table_of_offsets,
        before=("layernorm_before",),
        after_windows=("drop_path",),
        mlp=("layernorm_after", "intermediate", "output"),
    ),
    window=_older_window,
)
_DONUT = replace(
    _OLDER_SWIN, layout=replace(_OLDER_SWIN.layout, is_shifted=_is_shifted_on_large_maps)
)
_SWINV2 = _Blocks(
    layout=Layout(
        **_OLDER,
        positions=partial(mlp_of_offsets, name="continuous_position_bias_mlp"),
        before=(),
        after_windows=("layernorm_before", "drop_path"),
        mlp=("intermediate", "output", "layernorm_after", "drop_path"),
    ),
    window=_older_window,
)
