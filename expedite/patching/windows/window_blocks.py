"""Running blocks of which some attend in windows, others everywhere, on a map of clusters.

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
from expedite.patching.heads import Projections, dropout_rate, one_projection, split_heads
from expedite.patching.host import Cells, Side, attribute
from expedite.patching.key_bias import attend_under
from expedite.patching.positions.decomposed import between, middles, places, positions

Size = tuple[int, int]
# Queries and keys with their positions, and what these add to scores.
Placed = tuple[Tensor, Tensor, Tensor | None]


@dataclass(frozen=True)
class Standing:
    """Where clusters stand that attend to one another, all of a map or those of each window.

    Args:
        cells: The whole map's.
        in_windows: Whether they are those of windows.
        device: Where tensors are due.
    """

    cells: Cells
    in_windows: bool
    device: torch.device

    def along(self) -> tuple[list[Tensor], Size]:
        """The middles of regular cells along each side, in tokens, and among how many tokens.

        As the tokens that tables of positions are read for, where these are resized.
        """
        cells = self.cells
        tokens, count, along = cells.grid, cells.clusters, middles
        if self.in_windows:
            tokens, count, along = cells.window, cells.cells, places
        if cells.resized:
            return [torch.arange(side, device=self.device)[None] for side in count], count
        return [along(*side, self.device)[0] for side in cells.sides], tokens

    def of_each_image(self) -> Tensor:
        """Rows and columns in tokens, (B, h·w, 2), or (B·n·m, kh·kw, 2) from each window's first.

        Means of the tokens that each cluster stands for; where a cell stands for padding, its
        middle.
        """
        found = self.cells.places
        assert found is not None  # the host has said that it asks for them
        if not self.in_windows:
            return found.flatten(1, 2)
        starts, middle, there = _frames_of_windows(*self.cells.sides, self.device)
        own = _padded_windows(found, self.cells).unflatten(0, (-1, len(starts)))  # type: ignore[no-untyped-call]
        return torch.where(there, own - starts, middle).flatten(0, 1).flatten(1, 2)


def by_tables(
    block: nn.Module, q: Tensor, k: Tensor, standing: Standing, name: str = "attn"
) -> Placed:
    """Decomposed relative positions of queries (B·n·m, heads, h·w, d), as a bias of scores."""
    middle, size = standing.along()
    attention = block.get_submodule(name)
    rows, columns = (
        between(attribute(attention, table), at, side).to(q.dtype)
        for table, at, side in zip(("rel_pos_h", "rel_pos_w"), middle, size, strict=True)
    )
    return q, k, positions(q, rows, columns)


def nowhere(block: nn.Module, q: Tensor, k: Tensor, standing: Standing) -> Placed:
    """Blocks without positions inside."""
    return q, k, None


def _has_windows(block: nn.Module) -> bool:
    size = attribute(block, "window_size")
    return bool((size if isinstance(size, int) else size[0]) > 0)


@dataclass(frozen=True)
class Layout:
    """What a library calls the parts of its blocks, in the order they run.

    Args:
        first_norm: What stands before the attention, on the whole map.
        heads: The attribute of the attention that says how many heads it has.
        after_attention: What stands behind it in each window.
        after_windows: The second half of a block.
        attention: The module that attends.
        project: Queries, keys and values (B, N, C) of tokens.
        place: Queries and keys with their positions, and what positions add to scores.
        query: What queries pass, and
        key: what keys do, inside of the attention.
        joined: What follows the attention once windows are a map again.
        dropout: What the attention calls the rate, or the module, for its scores in training.
        in_windows: Whether a block attends in windows.
    """

    first_norm: str
    heads: str
    after_attention: tuple[str, ...]
    after_windows: tuple[str, ...]
    attention: str = "attn"
    project: Callable[[nn.Module, Tensor], Projections] = one_projection
    place: Callable[[nn.Module, Tensor, Tensor, Standing], Placed] = by_tables
    query: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    joined: tuple[str, ...] = ()
    dropout: str | None = None
    in_windows: Callable[[nn.Module], bool] = _has_windows


def run_block(
    block: nn.Module, x: Tensor, cells: Cells, keywords: dict[str, Any], layout: Layout
) -> Tensor:
    """A block's output on a map of clusters (B, h, w, C)."""
    normed = through(block, (layout.first_norm,), x)
    if layout.in_windows(block):
        attended = _in_windows(block, normed, cells, layout)
    else:
        bias = None if cells.log_mass is None else cells.log_mass.flatten(1)
        attended = _attend(block, normed, Standing(cells, False, x.device), bias, layout)
    x = x + through(block, layout.joined, attended)
    return x + through(block, layout.after_windows, x)


def through(block: nn.Module, names: Iterable[str], x: Tensor) -> Tensor:
    """What submodules of a block make of x, one after the other."""
    for name in names:
        x = block.get_submodule(name)(x)
    return x


def _in_windows(block: nn.Module, x: Tensor, cells: Cells, layout: Layout) -> Tensor:
    """Attention in windows of clusters, padded with zeros as the windows of tokens are."""
    (h, w), (kh, kw) = cells.clusters, cells.cells
    bias = log_mass_in_windows(cells, x.device)
    standing = Standing(cells, True, x.device)
    attended = _attend(block, _padded_windows(x, cells), standing, bias, layout)
    return unpartition(attended, (-(-h // kh), -(-w // kw)))[:, :h, :w]


def _padded_windows(x: Tensor, cells: Cells) -> Tensor:
    """The windows (B·n·m, kh, kw, C) of a map of clusters that zeros fill up to whole ones."""
    (h, w), (kh, kw) = cells.clusters, cells.cells
    return partition(F.pad(x, (0, 0, 0, -w % kw, 0, -h % kh)), cells.cells)


def _attend(
    block: nn.Module, x: Tensor, standing: Standing, log_mass: Tensor | None, layout: Layout
) -> Tensor:
    """Attention among the cells of each window (B·n·m, h, w, C)."""
    attention = block.get_submodule(layout.attention)
    heads: int = attribute(attention, layout.heads)
    projected = layout.project(attention, x.flatten(1, 2))
    q, k, v = (split_heads(part, heads) for part in projected)  # (B·n·m, heads, h·w, d)
    q, k = through(attention, layout.query, q), through(attention, layout.key, k)
    q, k, bias = layout.place(block, q, k, standing)
    if log_mass is not None:
        keys = log_mass[:, None, None].to(q.dtype)
        # In place: what positions add is as large as all scores.
        bias = keys if bias is None else bias.add_(keys)
    dropout = dropout_rate(attention, layout.dropout)
    y = attend_under(q, k, v, bias, dropout)
    y = y.transpose(1, 2).flatten(2).unflatten(1, x.shape[1:3])  # type: ignore[no-untyped-call]
    return through(block, layout.after_attention, y)


@remembered
def _frames_of_windows(
    rows: Side, columns: Side, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Of n×m windows: their first tokens, the middles of their cells, whether these are of tokens.

    (n·m, 1, 1, 2), (n·m, kh, kw, 2) and (n·m, kh, kw, 1).
    """
    (down, is_row, high), (across, is_column, wide) = (
        places(*side, device) for side in (rows, columns)
    )
    starts = _pairs(high.cumsum(0) - high, wide.cumsum(0) - wide)
    there = is_row[:, None, :, None] & is_column[:, None]  # (n, m, kh, kw)
    return starts, _pairs(down, across), there.flatten(0, 1)[..., None]


def _pairs(rows: Tensor, columns: Tensor) -> Tensor:
    """Every pair (n·m, h, w, 2) of what rows (n, h) and columns (m, w) have, window by window."""
    n, m = len(rows), len(columns)
    size = n, m, rows.shape[1], columns.shape[1]
    pair = rows[:, None, :, None].expand(size), columns[:, None].expand(size)
    return torch.stack(pair, -1).flatten(0, 1)


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
