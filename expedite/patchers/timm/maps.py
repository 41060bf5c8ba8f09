"""timm's VOLO, ConViT and LeViT: all of a map attends to itself, by attention of their own.

The map counts as one window, for which `run` does what the library's code would do for any map, but
with clusters' masses, and with positions of clusters where there are positions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expedite.geometry.constants import remembered
from expedite.patchers.timm.methods import every_block, methods
from expedite.patchers.timm.vit import grid_of_patches
from expedite.patching.heads import dropout_rate, heads_of_one, split_heads
from expedite.patching.host import (
    Cells,
    Host,
    Queries,
    Readout,
    Stage,
    apply_child,
    attribute,
    every_token,
    inner,
    kind_of,
    map_grid,
    map_of_tokens,
    runs_as,
)
from expedite.patching.positions.bias import window_bias
from expedite.patching.windows.window_blocks import (
    Layout,
    Standing,
    nowhere,
    run_block,
)

Size = tuple[int, int]
Rows = list[list[nn.Module]]


@dataclass(frozen=True)
class _Kind:
    """What differs between the models.

    Args:
        rows: Blocks on maps of one size.
        embedding: What makes the first of these maps.
        grid: Of its output.
        usual_grid: The first map.
        run: A block on clusters.
        first_norm: Of a block; "" where it has none.
        ends: How many blocks have run where each intermediate is taken.
        readout: What the head reads.
        queries: Tokens that join on the way.
        moves: Whether clusters may leave their cells, as nothing says where they stand.
    """

    rows: Callable[[nn.Module], Rows]
    embedding: Callable[[nn.Module], nn.Module]
    grid: Callable[[nn.Module, tuple[Any, ...], Tensor], Size]
    usual_grid: Callable[[nn.Module], Size]
    run: Callable[[nn.Module, Tensor, Cells, dict[str, Any]], Tensor]
    first_norm: str
    ends: Callable[[nn.Module], Sequence[int]] = every_block
    readout: Callable[[nn.Module], Readout] = every_token
    queries: Callable[[nn.Module], Queries | None] = lambda model: None
    moves: bool = False


def find_host(module: nn.Module) -> Host | None:
    """See `module` as a VOLO, ConViT or LeViT of timm; None where it is something else."""
    name = kind_of(module, _KINDS)
    if name is None or not runs_as(module, "timm.", "forward", "forward_features"):
        return None
    kind = _KINDS[name]
    if not (rows := kind.rows(module)):
        return None
    grid = kind.usual_grid(module)
    stages = tuple(_stage(len(row), grid, 2**number) for number, row in enumerate(rows))
    return Host(
        family=f"timm {name.rpartition('.')[2]}",
        model=module,
        backbone=module,
        blocks=tuple(inner(block, "timm.") for row in rows for block in row),
        prefix_tokens=0,
        embedding=kind.embedding(module),
        grid=kind.grid,
        usual_grid=grid,
        any_size=False,
        first_norm=partial(apply_child, name=kind.first_norm) if kind.first_norm else _the_same,
        mask=None,
        readout=kind.readout,
        methods=methods(kind.ends),
        taps="read through forward_intermediates",
        window=max(stages, key=lambda stage: stage.depth).window,
        run=kind.run,
        stages=stages,
        moves=kind.moves,
        queries=kind.queries(module),
    )


def _stage(depth: int, grid: Size, scale: int) -> Stage:
    stage = Stage(depth, None, scale)
    return replace(stage, window=stage.grid(grid))


def _the_same(block: nn.Module, tokens: Tensor) -> Tensor:
    return tokens


def _keys(x: Tensor, cells: Cells) -> Tensor | None:
    """What clusters of x (B, beside + h·w, C) add to scores as keys, (B, 1, 1, keys)."""
    if cells.log_mass is None:
        return None
    log_mass = cells.log_mass.flatten(1)
    return F.pad(log_mass, (x.shape[1] - log_mass.shape[1], 0))[:, None, None].to(x.dtype)


# VOLO: blocks on maps (B, H, W, C) behind outlookers, which mix neighbours of a larger map.
def _rows_of_volo(model: nn.Module) -> Rows:
    parts = [list(part.children()) for part in model.get_submodule("network").children()]
    is_block = [bool(part) and hasattr(_attention(part[0]), "qkv") for part in parts]
    return [[block for part, there in zip(parts, is_block, strict=True) if there for block in part]]


def _attention(block: nn.Module) -> nn.Module:
    return dict(block.named_children()).get("attn", block)


def _before_volo(model: nn.Module) -> nn.Module:
    """The module in front of the first block."""
    parts = list(model.get_submodule("network").children())
    (row,) = _rows_of_volo(model)
    first = next(i for i, part in enumerate(parts) if row[0] in set(part.children()))
    return parts[first - 1]


def _ends_of_volo(model: nn.Module) -> Sequence[int]:
    (row,) = _rows_of_volo(model)
    parts = list(model.get_submodule("network").children())
    ran = list(accumulate(sum(block in set(row) for block in part.children()) for part in parts))
    return [ran[end] for end in attribute(model, "stage_ends")]


def _grid_of_volo(model: nn.Module) -> Size:
    _, rows, columns, _ = attribute(model, "pos_embed").shape
    return rows, columns


def _never(block: nn.Module) -> bool:
    return False


_OF_VOLO = Layout(
    first_norm="norm1",
    heads="num_heads",
    place=nowhere,
    dropout="attn_drop",
    after_attention=("attn.proj", "attn.proj_drop"),
    joined=("drop_path1",),
    after_windows=("norm2", "mlp", "drop_path2"),
    in_windows=_never,
)


# ConViT: first attention to positions beside that to contents, then with a class token.
def _rows_of_convit(model: nn.Module) -> Rows:
    return [list(model.get_submodule("blocks").children())]


def _class_token(model: nn.Module) -> Queries:
    return Queries(attribute(model, "local_up_to_layer"), 1)


def _readout_of_convit(model: nn.Module) -> Readout:
    return "prefix" if attribute(model, "global_pool") == "token" else "tokens"


def _run_convit(block: nn.Module, x: Tensor, cells: Cells, keywords: dict[str, Any]) -> Tensor:
    attend = _attend_gated if attribute(block, "use_gpsa") else _attend_plain
    attention = block.get_submodule("attn")
    attended = attend(attention, apply_child(block, x, "norm1"), cells)
    attended = apply_child(attention, apply_child(attention, attended, "proj"), "proj_drop")
    x = x + apply_child(block, attended, "drop_path")
    return x + apply_child(
        block, block.get_submodule("mlp")(apply_child(block, x, "norm2")), "drop_path"
    )


def _attend_plain(attention: nn.Module, x: Tensor, cells: Cells) -> Tensor:
    q, k, v = heads_of_one(attention, x)
    dropout = dropout_rate(attention, "attn_drop")
    attended = F.scaled_dot_product_attention(q, k, v, _keys(x, cells), dropout)
    return attended.transpose(1, 2).flatten(2)


def _attend_gated(attention: nn.Module, x: Tensor, cells: Cells) -> Tensor:
    """Shares by contents and shares by positions, mixed by a gate for each head."""
    heads: int = attribute(attention, "num_heads")
    q, k = (split_heads(part, heads) for part in apply_child(attention, x, "qk").chunk(2, -1))
    v = split_heads(apply_child(attention, x, "v"), heads)
    keys = _keys(x, cells)
    keys = x.new_zeros(()) if keys is None else keys
    offsets = _offsets(Standing(cells, False, x.device)).to(x.dtype)  # (h·w, h·w, 3)
    by_place = apply_child(attention, offsets, "pos_proj").movedim(-1, 0)  # (heads, h·w, h·w)
    by_content = (attribute(attention, "scale") * q @ k.mT + keys).softmax(-1)
    gate = attribute(attention, "gating_param").sigmoid()[:, None, None]
    shares = (1 - gate) * by_content + gate * (by_place + keys).softmax(-1)
    shares = apply_child(attention, shares / shares.sum(-1, keepdim=True), "attn_drop")
    return (shares @ v).transpose(1, 2).flatten(2)


def _offsets(standing: Standing) -> Tensor:
    """From each cluster to each, across, down and the square of the distance: (h·w, h·w, 3)."""
    (rows, columns), _ = standing.along()
    down, across = (side[0] - side[0][:, None] for side in (rows, columns))
    down, across = down[:, None, :, None], across[:, None]  # (h, 1, h, 1) and (1, w, 1, w)
    size = rows.shape[1], columns.shape[1]
    parts = across, down, across**2 + down**2
    return torch.stack([part.expand(size + size) for part in parts], -1).flatten(2, 3).flatten(0, 1)


# LeViT: biases by how far rows and columns are apart; stages that shrink the map to its half.
def _rows_of_levit(model: nn.Module) -> Rows:
    rows = [
        list(stage.get_submodule("blocks").children())
        for stage in model.get_submodule("stages").children()
    ]
    uses_maps = any(attribute(_attention(block), "use_conv") for row in rows for block in row)
    return [] if uses_maps else rows


def _grid_of_levit(model: nn.Module) -> Size:
    rows, columns = attribute(_attention(_rows_of_levit(model)[0][0]), "resolution")
    return rows, columns


def _ends_of_levit(model: nn.Module) -> Sequence[int]:
    return list(accumulate(map(len, _rows_of_levit(model))))


def _run_levit(block: nn.Module, x: Tensor, cells: Cells, keywords: dict[str, Any]) -> Tensor:
    attention = block.get_submodule("attn")
    depth, width = attribute(attention, "key_dim"), attribute(attention, "val_dim")
    heads = split_heads(apply_child(attention, x, "qkv"), attribute(attention, "num_heads"))
    q, k, v = torch.split(heads, [depth, depth, width], -1)
    bias = window_bias(_table(attention), cells.grid, cells.clusters, cells.resized)[None]
    keys = _keys(x, cells)
    mask = bias.to(x.dtype) if keys is None else bias.to(x.dtype) + keys
    attended = F.scaled_dot_product_attention(q, k, v, mask, scale=attribute(attention, "scale"))
    attended = apply_child(attention, attended.transpose(1, 2).flatten(2), "proj")
    x = x + apply_child(block, attended, "drop_path1")
    return x + apply_child(block, apply_child(block, x, "mlp"), "drop_path2")


def _table(attention: nn.Module) -> Tensor:
    """The biases of every offset between tokens, ((2H-1)·(2W-1), heads)."""
    biases: Tensor = attribute(attention, "attention_biases")  # (heads, H·W)
    (index,) = _distances(*attribute(attention, "resolution"), biases.device)
    return biases.mT[index]


@remembered
def _distances(height: int, width: int, device: torch.device) -> tuple[Tensor]:
    """Which distance every offset is, rows by rows from (1-H, 1-W) on."""
    down, across = (torch.arange(1 - side, side, device=device).abs() for side in (height, width))
    return ((down[:, None] * width + across).flatten(),)


_KINDS = {
    "timm.models.volo.VOLO": _Kind(
        rows=_rows_of_volo,
        embedding=_before_volo,
        grid=map_of_tokens,
        usual_grid=_grid_of_volo,
        run=partial(run_block, layout=_OF_VOLO),
        first_norm="norm1",
        ends=_ends_of_volo,
        moves=True,
    ),
    "timm.models.convit.ConVit": _Kind(
        rows=_rows_of_convit,
        embedding=partial(nn.Module.get_submodule, target="patch_embed"),
        grid=grid_of_patches,
        usual_grid=lambda model: attribute(model.get_submodule("patch_embed"), "grid_size"),
        run=_run_convit,
        first_norm="norm1",
        readout=_readout_of_convit,
        queries=_class_token,
    ),
    "timm.models.levit.Levit": _Kind(
        rows=_rows_of_levit,
        embedding=partial(nn.Module.get_submodule, target="stem"),
        grid=map_grid,
        usual_grid=_grid_of_levit,
        run=_run_levit,
        first_norm="",
        ends=_ends_of_levit,
    ),
}
