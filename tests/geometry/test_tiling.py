import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expedite.geometry.tiling import Axis, Tiles, make_one_tile, make_tiles

CPU = torch.device("cpu")
sides = st.integers(1, 40)


@st.composite
def tilings(draw: st.DrawFn) -> Tiles:
    grid = draw(st.tuples(sides, sides))
    clusters = tuple(draw(st.integers(1, side)) for side in grid)
    reach = draw(st.integers(0, 5))
    return make_tiles(grid, clusters, reach, CPU, nearest=draw(st.booleans()))  # type: ignore[arg-type]


@given(tilings())
def test_every_token_has_one_slot_and_comes_back_in_order(tiles: Tiles) -> None:
    count = tiles.rows.tokens * tiles.columns.tokens
    assert sorted(tiles.token[tiles.filled].tolist()) == list(range(count))
    tokens = torch.arange(count)[None, :, None]
    assert torch.equal(tiles.join(tiles.split(tokens)), tokens)


@given(tilings())
def test_bands_show_the_same_windows_and_are_one_stretch_of_tokens_each(tiles: Tiles) -> None:
    cells = torch.randn(2, tiles.rows.cells * tiles.columns.cells, 1)
    tiled = torch.randn(2, *tiles.token.shape, 1)
    windows, tokens, end = [], [], 0
    for band, rows, stretch in tiles.bands():
        assert stretch.start == end < stretch.stop
        end = stretch.stop
        windows.append(band.windows(cells))
        tokens.append(band.join(tiled[:, rows]))
    assert torch.equal(torch.cat(windows, 1), tiles.windows(cells))
    assert torch.equal(torch.cat(tokens, 1), tiles.join(tiled))


@given(tilings())
def test_each_token_reaches_exactly_the_cells_around_its_first(tiles: Tiles) -> None:
    rows, columns = tiles.rows, tiles.columns
    for tile in range(len(tiles.token)):
        for slot in range(tiles.token.shape[1]):
            if not tiles.filled[tile, slot]:
                continue
            y, x = divmod(int(tiles.token[tile, slot]), columns.tokens)
            top, left = int(rows.first_cell(y)), int(columns.first_cell(x))
            expected = {
                i * columns.cells + j
                for i in range(max(0, top - rows.reach), min(rows.cells, top + rows.reach + 1))
                for j in range(
                    max(0, left - columns.reach), min(columns.cells, left + columns.reach + 1)
                )
            }
            found = tiles.cell[tile][tiles.reachable[tile, slot]].tolist()
            assert sorted(found) == sorted(expected)


@given(tilings())
def test_no_slot_is_out_of_reach_of_every_cell(tiles: Tiles) -> None:
    assert tiles.reachable.any(2).all()  # or its weights would be those of nothing, NaN


@given(tilings())
def test_adding_windows_is_the_transpose_of_showing_them(tiles: Tiles) -> None:
    cells = torch.randn(1, tiles.rows.cells * tiles.columns.cells, 2, dtype=torch.float64)
    windows = torch.randn(1, *tiles.cell.shape, 2, dtype=torch.float64)
    # Places of a window outside the grid show a clamped cell that no token reaches.
    windows = windows * tiles.reachable.any(1)[None, :, :, None]
    shown = (tiles.windows(cells) * windows).sum()
    torch.testing.assert_close((cells * tiles.add_windows(windows)).sum(), shown)


@given(tokens=st.integers(1, 300), cells=st.integers(1, 300))
def test_first_cells_follow_the_formula(tokens: int, cells: int) -> None:
    cells = min(cells, tokens)
    centred, nearest = Axis(tokens, cells, 0, 4), Axis(tokens, cells, 0, 4, nearest=True)
    for i in range(tokens):
        assert centred.first_cell(i) == math.floor((i + 0.5) * cells / tokens + 1e-9)
        assert nearest.first_cell(i) == i * cells // tokens


def test_nearest_cells_are_those_of_interpolating_indices() -> None:
    # The published code interpolates the cells' indices with mode "nearest".
    index = torch.arange(28.0).view(1, 1, 28)
    interpolated = torch.nn.functional.interpolate(index, size=40, mode="nearest").flatten()
    found = [Axis(40, 28, 2, 4, nearest=True).first_cell(i) for i in range(40)]
    assert found == interpolated.int().tolist()


def test_one_tile_holds_everything() -> None:
    tiles = make_one_tile((3, 4), (2, 2), CPU)
    assert tiles.token.shape == (1, 12)
    assert tiles.cell.shape == (1, 4)
    cells = torch.randn(2, 4, 5)
    assert torch.equal(tiles.add_windows(tiles.windows(cells)), cells)


@pytest.mark.parametrize("reach", [0, 1, 2, 3])
def test_work_grows_linearly(reach: int) -> None:
    def pairs(side: int) -> int:
        return make_tiles((2 * side, 2 * side), (side, side), reach, CPU).reachable.numel()

    assert pairs(64) / pairs(32) < 4.3


@pytest.mark.parametrize("cells", [1, 3, 9, 14])
def test_no_reach_is_wider_than_the_grid(cells: int) -> None:
    grid, clusters = (2 * cells, 3 * cells), (cells, cells)
    wide = make_tiles(grid, clusters, 499, CPU)
    assert wide.is_one
    assert wide.reachable.all()
    assert wide.reachable.numel() == grid[0] * grid[1] * cells**2
