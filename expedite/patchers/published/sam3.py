"""SAM 3's image encoder as published, and ultralytics' copy of it, found by its structure.

Its blocks take and return maps (B, H, W, C). Most attend in windows, some everywhere, and turn
queries and keys by tables with a row for each token of a window, or of the map.
"""

from functools import partial
from typing import Any

from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.patchers.transformers.sam3 import turned
from expedite.patching.host import (
    Host,
    Reads,
    apply_child,
    attribute,
    every_token,
    map_of_tokens,
)
from expedite.patching.positions.rotary import rotate
from expedite.patching.windows.window_blocks import Layout, Placed, Standing, run_block

_PARTS = {"norm1", "attn", "ls1", "drop_path", "norm2", "mlp", "ls2", "dropout"}
_OF_ATTENTION = {"qkv", "proj"}


def find_host(module: nn.Module) -> Host | None:
    """See `module` as SAM 3's image encoder; None where it is something else."""
    children = dict(module.named_children())
    if set(children) != {"patch_embed", "blocks", "ln_pre", "ln_post"}:
        return None
    blocks = tuple(children["blocks"].children())
    if not blocks or not all(map(_is_block, blocks)):
        return None
    _check(module, blocks)
    side: int = max(attribute(block, "window_size") for block in blocks)
    rows, columns = attribute(_attention(blocks[-1]), "input_size")
    return Host(
        family="SAM 3's ViT as published",
        model=module,
        backbone=module,
        blocks=blocks,
        prefix_tokens=0,
        embedding=children["patch_embed"],
        grid=map_of_tokens,
        usual_grid=(rows, columns),
        any_size=False,  # tables of global blocks are made for one size
        first_norm=partial(apply_child, name=_LAYOUT.first_norm),
        mask=None,
        readout=every_token,
        reads=_reads,
        taps="global blocks, where the model hands all of them on",
        window=(side, side),
        run=partial(run_block, layout=_LAYOUT),
        asks_places=True,
        moves=True,  # positions go with clusters
    )


def _is_block(block: nn.Module) -> bool:
    parts = dict(block.named_children())
    if set(parts) != _PARTS or not hasattr(parts["attn"], "freqs_cis"):
        return False
    return set(dict(parts["attn"].named_children())) == _OF_ATTENTION


def _check(model: nn.Module, blocks: tuple[nn.Module, ...]) -> None:
    """Refuse what the same code can be told to be, and no published encoder is."""
    is_rotary = all(attribute(_attention(block), "freqs_cis") is not None for block in blocks)
    has_tables = any(attribute(_attention(block), "use_rel_pos") for block in blocks)
    ends_whole = attribute(model, "full_attn_ids")[-1] == len(blocks) - 1
    if attribute(model, "retain_cls_token") or has_tables or not (is_rotary and ends_whole):
        raise ExpediteError(
            "a ViT of SAM 3's code was found that keeps a class token, or has other positions "
            "than rotary ones in its blocks, or a last block with windows; an encoder as those of "
            "SAM 3 can be patched"
        )


def _attention(block: nn.Module) -> nn.Module:
    return block.get_submodule("attn")


def _reads(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Reads:
    shows_all = attribute(model, "return_interm_layers")
    return Reads(frozenset(attribute(model, "full_attn_ids") if shows_all else ()))


def _rotate(block: nn.Module, q: Tensor, k: Tensor, standing: Standing) -> Placed:
    """Queries and keys (B·n·m, heads, h·w, d) turned by where clusters stand."""
    cells = standing.cells
    table: Tensor = attribute(_attention(block), "freqs_cis").to(q.device)  # (N, d/2), complex
    among = cells.window if standing.in_windows else cells.grid
    sin, cos = rotate(table.imag, table.real, among, standing.of_each_image())
    sin, cos = (half.repeat_interleave(2, -1) for half in (sin, cos))  # (B·n·m, 1, h·w, d)
    q_turned, k_turned = (turned(x.float(), cos, sin).type_as(x) for x in (q, k))
    return q_turned, k_turned, None


_LAYOUT = Layout(
    first_norm="norm1",
    heads="num_heads",
    place=_rotate,
    after_attention=("attn.proj", "ls1"),
    joined=("drop_path", "dropout"),
    after_windows=("norm2", "mlp", "ls2", "drop_path", "dropout"),
)
