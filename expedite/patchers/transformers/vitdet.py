"""ViTDet of transformers, alone, as a backbone and inside ViTMatte and others.

Its blocks take and return maps (B, C, H, W). Most attend in windows, some everywhere, with
decomposed relative positions or none; some end with convolutions.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from expedite.patchers.transformers.vit import (
    asked_for,
    check_version,
    refuse_attentions,
    requested_states,
    usual_grid,
)
from expedite.patching.host import (
    Cells,
    Host,
    Packing,
    Readout,
    Reads,
    apply_child,
    attribute,
    inner,
    kind_of,
    map_grid,
    runs_as,
)
from expedite.patching.packing import channels_first, channels_last
from expedite.patching.windows.window_blocks import Layout, by_tables, nowhere, run_block

_MODELS = tuple(
    f"transformers.models.vitdet.modeling_vitdet.{name}"
    for name in ("VitDetModel", "VitDetBackbone")
)


def find_host(module: nn.Module) -> Host | None:
    """See `module` as a ViTDet; None where it is something else."""
    name = kind_of(module, _MODELS)
    if name is None or not runs_as(module, "transformers", "forward"):
        return None
    check_version()
    config = attribute(module, "config")
    has_tables: bool = config.use_relative_position_embeddings
    grid = usual_grid(config)
    side: int = config.window_size
    has_windows = side > 0 and len(config.window_block_indices) > 0
    blocks = module.get_submodule("encoder.layer").children()
    return Host(
        family=f"transformers {name.rpartition('.')[2]}",
        model=module,
        backbone=module,
        blocks=tuple(inner(block, "transformers") for block in blocks),
        prefix_tokens=0,
        embedding=module.get_submodule("embeddings.projection"),
        grid=map_grid,
        usual_grid=grid,
        any_size=True,
        first_norm=partial(apply_child, name=_LAYOUT.first_norm),
        mask=None,
        readout=_readout,
        reads=_reads,
        taps="hidden states and feature maps, where a call reads them",
        window=(side, side) if has_windows else grid,
        run=partial(_run, layout=_LAYOUT if has_tables else replace(_LAYOUT, place=nowhere)),
        packing=Packing(channels_last, channels_first),
        local=_residual,
    )


def _readout(model: nn.Module) -> Readout:
    return "taps" if hasattr(model, "out_features") else "tokens"


def _reads(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Reads:
    if asked_for("output_attentions", model, args, kwargs):
        refuse_attentions(model)
    wanted = asked_for("output_hidden_states", model, args, kwargs)
    states = requested_states(wanted, attribute(model, "config").num_hidden_layers)
    if hasattr(model, "out_features"):
        names = attribute(model, "stage_names")
        states |= {names.index(name) for name in attribute(model, "out_features")}
    taps = frozenset(state - 1 for state in states if state > 0)
    return Reads(taps, last=_readout(model) == "tokens")


def _run(
    block: nn.Module, x: Tensor, cells: Cells, keywords: dict[str, Any], layout: Layout
) -> tuple[Tensor]:
    return (channels_first(run_block(block, channels_last(x), cells, keywords, layout)),)


def _residual(block: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """What a block's convolutions add to a map (B, H, W, C)."""
    if not attribute(block, "use_residual_block"):
        return None
    return partial(_added, block.get_submodule("residual"))


def _added(residual: nn.Module, x: Tensor) -> Tensor:
    return channels_last(residual(channels_first(x))) - x


_LAYOUT = Layout(
    first_norm="norm1",
    heads="num_heads",
    attention="attention",
    place=partial(by_tables, name="attention"),
    after_attention=("attention.proj",),
    joined=("drop_path",),
    after_windows=("norm2", "mlp", "drop_path"),
)
