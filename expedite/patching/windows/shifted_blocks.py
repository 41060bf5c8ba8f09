"""Running blocks with shifted windows, Swin's and SwinV2's, on a map of clusters.

A span makes of its stage an ordinary Swin on a smaller map: windows of clusters, shifted by half of
one, their masks, and padding as the library itself has it. The blocks' own submodules do the work.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expedite.geometry.constants import remembered
from expedite.operators.windows import as_map, partition, unpartition
from expedite.patching.heads import Projections, dropout_rate, split_heads
from expedite.patching.host import Cells, attribute
from expedite.patching.key_bias import attend_under
from expedite.patching.windows.window_blocks import log_mass_of_padding, through

Size = tuple[int, int]

# What keeps tokens apart that only the shift has brought together.
_APART = -100.0
_LARGEST_LOGIT = log(100.0)


def _as_it_is(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Layout:
    """What a library calls the parts of its blocks, in the order they run.

    Args:
        attention: The module with the projections; of SwinV2 it has `logit_scale`.
        heads: The attribute that says how many heads it has.
        project: Queries, keys and values (B, N, C) of tokens.
        positions: The bias (heads, h·w, h·w) of an attention among the cells of a window.
        is_shifted: Whether a block shifts its windows along each side, given also the keywords of
            its call.
        before: What stands before the attention, on the whole map.
        after_attention: What stands behind it in each window.
        after_windows: What follows once windows are a map again.
        mlp: The second half of a block.
        last: What its output passes at last.
        dropout: What the attention calls the rate, or the module, for its scores in training.
        output_dropout: The same for its result, where that is no module in `after_attention`.
        pads_first: Whether a map is padded before it is shifted.
        result: What a block returns.
    """

    attention: str
    heads: str
    project: Callable[[nn.Module, Tensor], Projections]
    positions: Callable[[nn.Module, Cells], Tensor]
    is_shifted: Callable[[nn.Module, Cells, dict[str, Any]], tuple[bool, bool]]
    before: tuple[str, ...]
    after_attention: tuple[str, ...]
    after_windows: tuple[str, ...]
    mlp: tuple[str, ...]
    dropout: str | None = None
    output_dropout: str | None = None
    last: tuple[str, ...] = ()
    pads_first: bool = True
    result: Callable[[Tensor], Any] = _as_it_is


def run_block(
    block: nn.Module, x: Tensor, cells: Cells, keywords: dict[str, Any], layout: Layout
) -> Any:
    """What a block returns for a map of clusters (B, h, w, C), or (B, h·w, C)."""
    short = x if x.dim() == 4 else as_map(x, cells.clusters)
    is_shifted = layout.is_shifted(block, cells, keywords)
    down, right = (k // 2 * there for k, there in zip(cells.cells, is_shifted, strict=True))
    attended = _attend(block, through(block, layout.before, short), cells, (down, right), layout)
    x = x + through(block, layout.after_windows, attended).reshape(x.shape)
    return layout.result(through(block, layout.last, x + through(block, layout.mlp, x)))


def _attend(block: nn.Module, x: Tensor, cells: Cells, shift: Size, layout: Layout) -> Tensor:
    """Attention in shifted windows of a map (B, h, w, C)."""
    (h, w), (kh, kw) = cells.clusters, cells.cells
    count = -(-h // kh), -(-w // kw)
    moved = _moved(x, cells, shift, layout.pads_first)
    attention = block.get_submodule(layout.attention)
    q, k, v = _heads(attention, partition(moved, cells.cells).flatten(1, 2), layout)
    bias = _bias(layout.positions(attention, cells), cells, shift, layout.pads_first, x, q.dtype)
    dropout = dropout_rate(attention, layout.dropout)
    scale = 1.0 if hasattr(attention, "logit_scale") else getattr(attention, "scale", None)
    y = attend_under(q, k, v, bias, dropout, scale)
    y = through(block, layout.after_attention, y.transpose(1, 2).flatten(2))
    y = F.dropout(y, dropout_rate(attention, layout.output_dropout), block.training)
    windows = unpartition(as_map(y, cells.cells), count)
    return _moved_back(windows, cells.clusters, shift, layout.pads_first)


def _heads(attention: nn.Module, windows: Tensor, layout: Layout) -> Projections:
    """Queries, keys and values, each (B·n·m, heads, kh·kw, d); for cosines, of length one."""
    heads: int = attribute(attention, layout.heads)
    q, k, v = (split_heads(part, heads) for part in layout.project(attention, windows))
    if not hasattr(attention, "logit_scale"):
        return q, k, v
    logits: Tensor = attribute(attention, "logit_scale")
    scale = logits.reshape(-1, 1, 1).clamp(max=_LARGEST_LOGIT).exp()  # (heads, 1, 1)
    q, k = F.normalize(q, dim=-1) * scale, F.normalize(k, dim=-1)
    return q.to(v.dtype), k.to(v.dtype), v


def _bias(
    positions: Tensor, cells: Cells, shift: Size, pads_first: bool, x: Tensor, dtype: torch.dtype
) -> Tensor:
    """What is added to scores: positions (heads, kh·kw, kh·kw), masks of windows, log masses.

    What the images of x (B, h, w, C) share is added before each has a bias of its own, which is as
    large as all scores.
    """
    (h, w), (kh, kw) = cells.clusters, cells.cells
    count = -(-h // kh), -(-w // kw)
    bias = positions[None]
    if any(shift):
        kept = [k // 2 if there else 0 for k, there in zip(cells.window, shift, strict=True)]
        (mask,) = shift_mask(*count, kh, kw, *(kept if cells.keeps_shift else shift), x.device)
        bias = bias + mask[:, None]  # (n·m, heads, kh·kw, kh·kw)
    bias = bias.to(dtype)[None]
    if cells.log_mass is not None:
        (of_padding,) = log_mass_of_padding(*cells.sides, x.device)
        mass = _moved(cells.log_mass[..., None], cells, shift, pads_first, of_padding[..., None])
        keys = partition(mass, cells.cells).reshape(x.shape[0], count[0] * count[1], 1, 1, kh * kw)
        bias = bias + keys.to(dtype)  # (B, n·m, heads, kh·kw, kh·kw)
    elif not any(shift):
        return bias[0]  # one for all windows
    return bias.expand(x.shape[0], -1, -1, -1, -1).flatten(0, 1)


def _moved(
    x: Tensor, cells: Cells, shift: Size, pads_first: bool, fill: Tensor | None = None
) -> Tensor:
    """A map (B, h, w, C) filled up to whole windows and shifted, in the library's order."""
    (h, w), (kh, kw) = cells.clusters, cells.cells
    if not pads_first:
        x = _rolled(x, (-shift[0], -shift[1]))
    if -h % kh or -w % kw:
        x = F.pad(x, (0, 0, 0, -w % kw, 0, -h % kh))
    if fill is not None:
        x = x + fill
    return _rolled(x, (-shift[0], -shift[1])) if pads_first else x


def _moved_back(x: Tensor, size: Size, shift: Size, pads_first: bool) -> Tensor:
    if pads_first:
        return _rolled(x, shift)[:, : size[0], : size[1]]
    return _rolled(x[:, : size[0], : size[1]], shift)


def _rolled(x: Tensor, shift: Size) -> Tensor:
    return x.roll(shift, (1, 2)) if any(shift) else x


@remembered
def shift_mask(
    n: int, m: int, h: int, w: int, down: int, right: int, device: torch.device
) -> tuple[Tensor]:
    """What n×m shifted windows of h×w cells add to the scores of every two (n·m, h·w, h·w).

    Along each side the last window holds what the shift has brought from the map's other end.
    """
    rows = _regions(n, h, down, device)  # (n, h)
    columns = _regions(m, w, right, device)  # (m, w)
    regions = rows[:, None, :, None] + 2 * columns[:, None]  # (n, m, h, w)
    region = regions.flatten(2).flatten(0, 1)
    return (_APART * (region[:, :, None] != region[:, None]),)


def _regions(count: int, size: int, shift: int, device: torch.device) -> Tensor:
    """Which cells of the windows along a side, (count, size), came from its other end."""
    cell = torch.arange(count * size, device=device)
    return (cell >= count * size - shift).long().reshape(count, size)
