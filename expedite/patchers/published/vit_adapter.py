"""ViT-Adapter and META (`expedite.models`), whose interactions stand between a ViT's blocks."""

from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.patching.host import (
    Bias,
    Cells,
    Host,
    Injection,
    Mask,
    Readout,
    Reads,
    apply_child,
    attribute,
    inner,
    map_grid,
)
from expedite.patching.positions.bias import window_bias
from expedite.patching.windows.window_blocks import log_mass_in_windows


def find_host(module: nn.Module) -> Host | None:
    """See `module` as a ViT-Adapter or META; None where it is something else."""
    # By name first: looking at some other model must not import ours, which imports timm.
    if not any(kind.__name__ == "ViTAdapter" for kind in type(module).__mro__):
        return None
    from expedite.models.meta import META
    from expedite.models.vit_adapter import ViTAdapter

    if not isinstance(module, ViTAdapter):
        return None
    config = module.config
    window = config.window
    return Host(
        family="META" if isinstance(module, META) else "ViT-Adapter",
        model=module,
        backbone=module,
        blocks=tuple(inner(block, "expedite.") for block in module.blocks),
        prefix_tokens=config.prefix_tokens,
        embedding=module.patch_embed,
        grid=map_grid,
        usual_grid=config.grid,
        any_size=config.prefix_tokens == 0,
        first_norm=partial(apply_child, name="norm1"),
        mask=Mask("mask") if window is None else None,
        bias=Bias("position_bias", _attention, None, _table) if config.prefix_tokens else None,
        readout=_readout,
        reads=_reads,
        taps=f"blocks {', '.join(str(1 + tap) for tap in config.taps)}, read by the adapter",
        window=None if window is None else (window, window),
        run=None if window is None else _run,
        injections=tuple(map(_injection, module.interactions)),
    )


def _injection(interaction: nn.Module) -> Injection:
    """How an injector asks: by places, if it takes them; META's convolutions need the grid."""
    from expedite.models.adapter_interactions import Injector

    injector = interaction.get_submodule("injector")
    return Injection(injector, places=1 if isinstance(injector, Injector) else None)


def _readout(model: nn.Module) -> Readout:
    return "taps"


def _reads(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Reads:
    return Reads(frozenset(attribute(module, "config").taps), last=False)


def _attention(block: nn.Module) -> nn.Module:
    return block.get_submodule("attn")


def _table(maker: nn.Module, grid: tuple[int, int]) -> Tensor:
    own: tuple[int, int] = attribute(maker, "grid")
    if grid != own:
        raise ExpediteError(
            f"a grid of {grid[0]}×{grid[1]} tokens was met by relative position biases of "
            f"{own[0]}×{own[1]}; images of the size they were trained for fit"
        )
    table: Tensor = attribute(maker, "relative_position_bias_table")
    return table


def _run(block: nn.Module, x: Tensor, cells: Cells, keywords: dict[str, Any]) -> Any:
    """A block's output on the clusters (B, h·w, C) of windows."""
    forward = type(block).forward
    window: tuple[int, int] | None = attribute(block, "window")
    if window is None:
        mask = None if cells.log_mass is None else cells.log_mass.flatten(1)
        return forward(block, x, _of_keys(mask, x))
    cells = _in_windows_of(window, cells)
    mask = _of_keys(log_mass_in_windows(cells, x.device), x)
    if hasattr(attention := _attention(block), "relative_position_bias_table"):
        table = _table(attention, window)
        positions = window_bias(table, window, cells.cells, cells.resized)[None].to(x.dtype)
        mask = positions if mask is None else positions + mask
    return forward(block, x, mask, cells.clusters, cells.cells)


def _in_windows_of(window: tuple[int, int], cells: Cells) -> Cells:
    """The same clusters in windows that are several times those that were clustered."""
    sides = zip(window, cells.window, cells.cells, strict=True)
    rows, columns = (wide // narrow * count for wide, narrow, count in sides)
    return replace(cells, window=window, cells=(rows, columns))


def _of_keys(mask: Tensor | None, x: Tensor) -> Tensor | None:
    return None if mask is None else mask[:, None, None].to(x.dtype)
