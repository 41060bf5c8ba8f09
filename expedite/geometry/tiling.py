"""Tiles of tokens and the few cells that their tokens can reach: what keeps the operators local.

Geometry only. Everything follows from integers by arithmetic on the device at hand, so nothing is
copied between devices and nothing depends on values.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from expedite.geometry.constants import remembered

Index = TypeVar("Index", int, Tensor)


class AxisTables(NamedTuple):
    """Where things lie along one axis, in T tiles of n token slots with windows of m cells."""

    token: Tensor  # (T, n) the token in each slot, the tile's last where the slot is empty
    filled: Tensor  # (T, n) bool
    cell: Tensor  # (T, m) the cell at each place of a window, clamped to the nearest cell
    reachable: Tensor  # (T, n, m) bool: the cell is there and within reach of the token
    tile: Tensor  # (tokens,) the tile that holds each token
    slot: Tensor  # (tokens,) its slot in that tile
    window: Tensor  # (parts, cells) the tiles whose windows may show a cell, clamped
    place: Tensor  # (parts, cells) where in those windows
    shown: Tensor  # (parts, cells) bool: whether there is such a tile


@dataclass(frozen=True)
class Axis:
    """One side of a grid: `tokens` positions above `cells` cells, cut into tiles of `tile` cells.

    A token begins in the cell ⌊(i+½)·cells/tokens⌋, or ⌊i·cells/tokens⌋ with `nearest`, which is
    what interpolating the cells' indices gives (published `cluster.py`). It reaches `reach` cells
    to either side, so the tokens of a tile reach no cell outside a window somewhat wider than it.
    """

    tokens: int
    cells: int
    reach: int
    tile: int
    nearest: bool = False

    @property
    def tiles(self) -> int:
        return -(-self.cells // self.tile)

    @property
    def margin(self) -> int:
        """Cells of a window on each side of its tile; a single tile has every cell inside."""
        return self.reach if self.tiles > 1 else 0

    @property
    def window(self) -> int:
        return self.tile + 2 * self.margin

    @property
    def parts(self) -> int:
        """The most windows that show one cell."""
        return -(-self.window // self.tile)

    @property
    def slots(self) -> int:
        """The most tokens that begin in one tile; tiles with fewer leave slots empty."""
        starts = [self.first_token(tile * self.tile) for tile in range(self.tiles)]
        ends = [*starts[1:], self.tokens]
        return max(end - start for start, end in zip(starts, ends, strict=True))

    def first_cell(self, token: Index) -> Index:
        """The cell in which a token begins."""
        return (2 * token + (0 if self.nearest else 1)) * self.cells // (2 * self.tokens)

    def first_token(self, cell: Index) -> Index:
        """The first token that begins in `cell`: the inverse of `first_cell`."""
        half = 0 if self.nearest else self.cells
        return (2 * self.tokens * cell + 2 * self.cells - 1 - half) // (2 * self.cells)

    def tables(self, device: torch.device) -> AxisTables:
        tile = torch.arange(self.tiles, device=device)
        start = self.first_token(tile * self.tile)  # (T,)
        end = self.first_token((tile + 1) * self.tile).clamp(max=self.tokens)
        place = start[:, None] + torch.arange(self.slots, device=device)  # (T, n)
        token = place.minimum(end[:, None] - 1)
        cell = (tile * self.tile - self.margin)[:, None] + torch.arange(self.window, device=device)
        inside = (cell >= 0) & (cell < self.cells)  # (T, m)
        near = (self.first_cell(token)[:, :, None] - cell[:, None]).abs() <= self.reach
        tokens = torch.arange(self.tokens, device=device)
        home = self.first_cell(tokens) // self.tile
        # Counted from where the first window begins, a cell in tile i is in window i and, as far as
        # they reach, in the windows before it.
        offset = torch.arange(self.cells, device=device) + self.margin  # (cells,)
        part = torch.arange(self.parts, device=device)[:, None]
        window = offset // self.tile - part  # (parts, cells)
        position = part * self.tile + offset % self.tile
        shown = (window >= 0) & (window < self.tiles) & (position < self.window)
        return AxisTables(
            token=token,
            filled=place < end[:, None],
            cell=cell.clamp(0, self.cells - 1),
            reachable=near & inside[:, None],
            tile=home,
            slot=tokens - start[home],
            window=window.clamp(0, self.tiles - 1),
            place=position.clamp(max=self.window - 1),
            shown=shown,
        )


class Band(NamedTuple):
    """A row of tiles, whose tokens are one stretch of the grid."""

    tiles: "Tiles"  # those of the row alone, for `windows` and `join`
    among_tiles: slice
    among_tokens: slice


class Tiles(NamedTuple):
    """A grid in T tiles of n token slots, each with a window of m cells around it."""

    rows: Axis
    columns: Axis
    token: Tensor  # (T, n) flat index of the token in each slot
    filled: Tensor  # (T, n) bool
    cell: Tensor  # (T, m) flat index of the cell at each place of the window
    reachable: Tensor  # (T, n, m) bool
    beyond: Tensor  # (T, n, m) of 0 and -inf: takes what cannot be reached out of comparisons
    within: Tensor  # (T, m) bool: whether any token reaches that place
    slot: Tensor  # (N,) flat index into (T, n) of each token
    first_cell: Tensor  # (N,) flat index of the cell in which each token begins
    place: Tensor  # (parts, h·w) flat indices into (T, m) of the windows' places that show a cell
    shown: Tensor  # (parts, h·w) bool: whether there is such a window

    @property
    def is_one(self) -> bool:
        """Whether one tile holds everything, in order, so that nothing needs to be copied."""
        return self.rows.tiles == self.columns.tiles == 1

    def split(self, tokens: Tensor) -> Tensor:
        """Lay tokens (B, N, C) out in tiles, (B, T, n, C); an empty slot repeats some token."""
        return tokens[:, None] if self.is_one else take_rows(tokens, self.token)

    def join(self, tiled: Tensor) -> Tensor:
        """Bring tiled tokens (B, T, n, C) back in order, (B, N, C)."""
        return tiled.squeeze(1) if self.is_one else take_rows(tiled.flatten(1, 2), self.slot)

    def windows(self, cells: Tensor) -> Tensor:
        """Copy cells (B, h·w, C) to every window that shows them, (B, T, m, C)."""
        return cells[:, None] if self.is_one else take_rows(cells, self.cell)

    def bands(self) -> Iterator[Band]:
        """The rows of tiles, from the top down."""
        across, wide = self.columns.tiles, self.columns.tokens
        for row in range(self.rows.tiles):
            tiles = slice(row * across, (row + 1) * across)
            first, last = (self.rows.first_token(i * self.rows.tile) for i in (row, row + 1))
            tokens = slice(first * wide, min(last, self.rows.tokens) * wide)
            slot = self.slot[tokens] - tiles.start * self.token.shape[1]
            yield Band(self._replace(cell=self.cell[tiles], slot=slot), tiles, tokens)

    def cells_at(self, place: Tensor) -> Tensor:
        """The cells (B, T, n, k) at places (B, T, n, k) of every token's window."""
        shown = self.cell[:, None].expand(*place.shape[:3], -1)  # (B, T, n, m)
        return shown.gather(3, place)

    def add_windows(self, windows: Tensor) -> Tensor:
        """Sum window contents (B, T, m, C) per cell, (B, h·w, C): the transpose of `windows`.

        Gathers, not a scatter: the result is the same on every run, and it compiles and exports.
        """
        if self.is_one:
            return windows.squeeze(1)
        found = take_rows(windows.flatten(1, 2), self.place)  # (B, parts, h·w, C)
        return (found * self.shown[:, :, None]).sum(1)


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """Rows (B, *index, C) of x (B, N, C) at an index of any shape.

    The same as `x[:, index]`, in a third of its time on a CPU.

    Example:
        >>> take_rows(torch.arange(6.0).view(1, 3, 2), torch.tensor([[2, 0]])).tolist()
        [[[[4.0, 5.0], [0.0, 1.0]]]]
    """
    rows = x.index_select(1, index.flatten())
    return rows.view(x.shape[0], *index.shape, x.shape[2])


def middle_tokens(grid: tuple[int, int], clusters: tuple[int, int], device: torch.device) -> Tensor:
    """The token in the middle of each cell, (h·w,).

    Example:
        >>> middle_tokens((4, 4), (1, 2), torch.device("cpu"))
        tensor([ 9, 11])
    """
    (middle,) = _middle_tokens(grid, clusters, device)
    return middle


@remembered
def _middle_tokens(
    grid: tuple[int, int], clusters: tuple[int, int], device: torch.device
) -> tuple[Tensor]:
    rows, columns = (
        (2 * torch.arange(cells, device=device) + 1) * size // (2 * cells)
        for size, cells in zip(grid, clusters, strict=True)
    )
    return ((rows[:, None] * grid[1] + columns).flatten(),)


def make_tiles(
    grid: tuple[int, int],
    clusters: tuple[int, int],
    reach: int,
    device: torch.device,
    *,
    nearest: bool = False,
    uncut: int = 0,
) -> Tiles:
    """Cut a grid of tokens into tiles whose tokens reach `reach` cells to every side.

    A side of at most `uncut` cells is not cut, nor is one whose tokens reach all of its cells:
    windows would show most of them several times over.
    """
    rows, columns = (
        Axis(
            tokens,
            cells,
            min(reach, cells - 1),
            cells if cells <= max(uncut, reach + 1) else _tile_side(cells),
            nearest,
        )
        for tokens, cells in zip(grid, clusters, strict=True)
    )
    return Tiles(rows, columns, *_combine(rows, columns, device))


def make_one_tile(grid: tuple[int, int], clusters: tuple[int, int], device: torch.device) -> Tiles:
    """One tile with every token and every cell, each in reach of each: the dense form."""
    rows, columns = (Axis(n, cells, 0, cells) for n, cells in zip(grid, clusters, strict=True))
    token = torch.arange(grid[0] * grid[1], device=device)
    return Tiles(
        rows=rows,
        columns=columns,
        token=token[None],
        filled=torch.ones_like(token, dtype=torch.bool)[None],
        cell=torch.arange(clusters[0] * clusters[1], device=device)[None],
        reachable=torch.ones(1, 1, 1, dtype=torch.bool, device=device),
        beyond=torch.zeros(1, 1, 1, device=device),
        within=torch.ones(1, 1, dtype=torch.bool, device=device),
        slot=token,
        first_cell=_first_cells(rows, columns, device),
        place=torch.arange(clusters[0] * clusters[1], device=device)[None],
        shown=torch.ones(1, 1, dtype=torch.bool, device=device),
    )


def _tile_side(cells: int) -> int:
    """Cells per tile, in equal tiles of 4 or a little more: there work and copies balance."""
    return -(-cells // max(1, cells // 4))


@remembered
def _combine(rows: Axis, columns: Axis, device: torch.device) -> tuple[Tensor, ...]:
    """The tensors of `Tiles`, in their order."""
    y, x = rows.tables(device), columns.tables(device)
    reachable = y.reachable[:, None, :, None, :, None] & x.reachable[None, :, None, :, None, :]
    reachable = reachable.flatten(4).flatten(2, 3).flatten(0, 1)
    return (
        _outer(y.token * columns.tokens, x.token),
        _outer_and(y.filled, x.filled),
        _outer(y.cell * columns.cells, x.cell),
        reachable,
        torch.where(reachable, 0.0, -torch.inf),
        reachable.any(1),
        _slots(y, x, columns),
        _first_cells(rows, columns, device),
        _places(y, x, rows, columns),
        _outer_and(y.shown, x.shown),
    )


def _outer(rows: Tensor, columns: Tensor) -> Tensor:
    """Sums of every (Ty, a) with every (Tx, b), as (Ty·Tx, a·b)."""
    return (rows[:, None, :, None] + columns[None, :, None, :]).flatten(2).flatten(0, 1)


def _outer_and(rows: Tensor, columns: Tensor) -> Tensor:
    return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(2).flatten(0, 1)


def _places(y: AxisTables, x: AxisTables, rows: Axis, columns: Axis) -> Tensor:
    window = _outer(y.window * columns.tiles, x.window)  # (parts, h·w)
    place = _outer(y.place * columns.window, x.place)
    return window * (rows.window * columns.window) + place


def _slots(y: AxisTables, x: AxisTables, columns: Axis) -> Tensor:
    tile = y.tile[:, None] * columns.tiles + x.tile  # (H, W)
    slot = y.slot[:, None] * x.token.shape[1] + x.slot
    return (tile * (y.token.shape[1] * x.token.shape[1]) + slot).flatten()


def _first_cells(rows: Axis, columns: Axis, device: torch.device) -> Tensor:
    y = rows.first_cell(torch.arange(rows.tokens, device=device))
    x = columns.first_cell(torch.arange(columns.tokens, device=device))
    return (y[:, None] * columns.cells + x).flatten()
