"""Running blocks with windows and decomposed relative positions on a map of clusters.

The blocks' own submodules do the work; cutting into windows, positions and masses are ours, since
libraries fix them to the size of a window of tokens.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expedite.geometry.constants import remembered
from expedite.operators.windows import partition, unpartition
from expedite.patching.decomposed import between, middles, places, positions
from expedite.patching.host import Cells, Side, attribute


def dropout_rate(attention: nn.Module, name: str | None) -> float:
    """The rate in training that an attribute says, or a dropout module of that name; else 0."""
    if name is None or not attention.training:
        return 0.0
    rate = attribute(attention, name)
    return float(getattr(rate, "p", rate))


@dataclass(frozen=True)
class Layout:
    """What a library calls the parts of its blocks, in the order they run.

    Every block has `attn` with `qkv`, `proj` and the tables `rel_pos_h` and `rel_pos_w`.
    """

    first_norm: str
    heads: str
    after_attention: tuple[str, ...]
    after_windows: tuple[str, ...]
    query: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    dropout: str | None = None  # of the attention's scores


def run_block(
    block: nn.Module, x: Tensor, cells: Cells, keywords: dict[str, Any], layout: Layout
) -> Tensor:
    """A block's output on a map of clusters (B, h, w, C)."""
    normed = through(block, (layout.first_norm,), x)
    if attribute(block, "window_size") > 0:
        attended = _in_windows(block, normed, cells, layout)
    else:
        bias = None if cells.log_mass is None else cells.log_mass.flatten(1)
        middle, size = _standing(middles, cells.grid, cells.clusters, cells, x.device)
        attended = _attend(block, normed, middle, size, bias, layout)
    x = x + attended
    return x + through(block, layout.after_windows, x)


def through(block: nn.Module, names: Iterable[str], x: Tensor) -> Tensor:
    """What submodules of a block make of x, one after the other."""
    for name in names:
        x = block.get_submodule(name)(x)
    return x


def _in_windows(block: nn.Module, x: Tensor, cells: Cells, layout: Layout) -> Tensor:
    """Attention in windows of clusters, padded with zeros as the windows of tokens are."""
    (h, w), (kh, kw) = cells.clusters, cells.cells
    n, m = -(-h // kh), -(-w // kw)
    padded = F.pad(x, (0, 0, 0, m * kw - w, 0, n * kh - h))
    windows = partition(padded, cells.cells)  # (B·n·m, kh, kw, C)
    bias = log_mass_in_windows(cells, x.device)
    middle, size = _standing(places, cells.window, cells.cells, cells, x.device)
    attended = _attend(block, windows, middle, size, bias, layout)
    return unpartition(attended, (n, m))[:, :h, :w]


def _standing(
    along: Callable[..., tuple[Tensor, ...]],
    tokens: tuple[int, int],
    count: tuple[int, int],
    cells: Cells,
    device: torch.device,
) -> tuple[list[Tensor], tuple[int, int]]:
    """Where `count` clusters stand along each side, and among how many.

    As the tokens that tables of positions are read for, where these are resized.
    """
    if cells.resized:
        return [torch.arange(side, device=device)[None] for side in count], count
    return [along(*side, device)[0] for side in cells.sides], tokens


def _attend(
    block: nn.Module,
    x: Tensor,
    middle: list[Tensor],
    size: tuple[int, int],
    log_mass: Tensor | None,
    layout: Layout,
) -> Tensor:
    """Attention among the cells of each window (B·n·m, h, w, C), which stand for `size` tokens."""
    attention = block.get_submodule("attn")
    qkv = through(attention, ("qkv",), x.flatten(1, 2))  # (B·n·m, h·w, 3·C)
    shape = (*qkv.shape[:2], 3, attribute(attention, layout.heads), -1)
    q, k, v = qkv.reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)  # (B·n·m, heads, h·w, d)
    q, k = through(attention, layout.query, q), through(attention, layout.key, k)
    rows, columns = (
        between(attribute(attention, name), at, side).to(q.dtype)
        for name, at, side in zip(("rel_pos_h", "rel_pos_w"), middle, size, strict=True)
    )
    bias = positions(q, rows, columns)
    if log_mass is not None:
        bias += log_mass[:, None, None]  # in place: it is as large as all scores
    dropout = dropout_rate(attention, layout.dropout)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
    return through(block, layout.after_attention, y.transpose(1, 2).reshape(x.shape))


def log_mass_in_windows(cells: Cells, device: torch.device) -> Tensor | None:
    """What the clusters of every window add to scores as keys, (B·n·m, kh·kw).

    None where clusters do not weigh by their mass.
    """
    if cells.log_mass is None:
        return None
    (of_padding,) = log_mass_of_padding(*cells.sides, device)  # (n·kh, m·kw)
    (h, w), (rows, columns) = cells.clusters, of_padding.shape
    log_mass = F.pad(cells.log_mass, (0, columns - w, 0, rows - h)) + of_padding
    return partition(log_mass[..., None], cells.cells).flatten(1)


@remembered
def log_mass_of_padding(rows: Side, columns: Side, device: torch.device) -> tuple[Tensor]:
    """The log of how many padded tokens each padded cell stands for, elsewhere 0.

    Blocks attend to the zeros that fill up windows. The padded cells of a window of clusters share
    what the window of tokens has of them.
    """
    (_, down, high), (_, across, wide) = (places(*side, device) for side in (rows, columns))
    there = down[:, :, None, None] & across  # (n, kh, m, kw)
    tokens = rows[1] * columns[1] - high * wide.mT  # (n, m)
    padded = (~there).sum((1, 3)).clamp(min=1)
    share = (tokens / padded)[:, None, :, None]
    log_mass = torch.where(there, 0.0, share.log())
    return (log_mass.flatten(2).flatten(0, 1),)  # (n·kh, m·kw)
