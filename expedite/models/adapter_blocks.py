"""The blocks of the ViTs inside ViT-Adapters: DeiT's and AugReg's, with windows, and BEiT's."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.geometry.offsets import offset_index, offset_index_with_class
from expedite.models.vit import Attention, Block
from expedite.operators.windows import as_map, partition, unpartition

Grid = tuple[int, int]
_NORM_EPS = 1e-6


class ScaledBlock(Block):
    """A block whose branches may be scaled channel by channel, some of which attend in windows.

    Args:
        width: Of the tokens.
        heads: Of its attention.
        drop_path: How often a branch is left out in training.
        window: Side of the windows; None to attend to everything.
        layer_scale: Whether its branches are scaled.
    """

    scales = ("gamma1", "gamma2")

    def __init__(
        self,
        width: int,
        heads: int,
        drop_path: float = 0.0,
        window: int | None = None,
        layer_scale: bool = True,
    ) -> None:
        super().__init__(width, heads, drop_path=drop_path, norm_eps=_NORM_EPS)
        self.window = None if window is None else (window, window)
        if window is not None:
            self.attn = WindowAttention(width, heads, dropout=0.0)
        for name in self.scales:
            scale = nn.Parameter(torch.ones(width)) if layer_scale else None
            self.register_parameter(name, scale)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        grid: Grid | None = None,
        window: Grid | None = None,
    ) -> Tensor:
        """Map tokens (B, prefix + N, D) to the same.

        Args:
            x: (B, prefix + N, D).
            mask: What is added to attention scores, one row of scores a window where there are
                windows.
            grid: (H, W) of the tokens; blocks with windows need it.
            window: Other windows than the block's own; clusters have them.
        """
        attend: Any = self.attn
        normed = self.norm1(x)
        if self.window is None:
            attended = attend(normed, mask)
        else:
            attended = attend(normed, grid, window or self.window, mask)
        first, second = self.scales
        x = x + self.drop_path(self._scaled(first, attended))
        out: Tensor = x + self.drop_path(self._scaled(second, self.mlp(self.norm2(x))))
        return out

    def _scaled(self, name: str, branch: Tensor) -> Tensor:
        scale: Tensor | None = getattr(self, name)
        return branch if scale is None else scale * branch


class WindowAttention(Attention):
    """Self-attention inside windows, those at the border filled up with keys and values of zero.

    Source: `WindowedAttention` of czczup/ViT-Adapter, which pads after the projection.
    """

    def forward(  # type: ignore[override]
        self, x: Tensor, grid: Grid, window: Grid, mask: Tensor | None = None
    ) -> Tensor:
        """Map tokens (B, H·W, D) to the same; `mask` is (B · windows, 1, 1, tokens of a window)."""
        (height, width), (rows, columns) = grid, window
        qkv = as_map(self.qkv(x), grid)  # (B, H, W, 3·D)
        qkv = F.pad(qkv, (0, 0, 0, -width % columns, 0, -height % rows))
        count = qkv.shape[1] // rows, qkv.shape[2] // columns
        windows = partition(qkv, window).flatten(1, 2)  # (B·n·m, rows·columns, 3·D)
        q, k, v = torch.unflatten(windows, 2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (B·n·m, heads, N, d)
        x = unpartition(as_map(x.transpose(1, 2).flatten(2), window), count)
        out: Tensor = self.proj(x[:, :height, :width].flatten(1, 2))
        return out


class BeitBlock(ScaledBlock):
    """A block of BEiT: queries and values have biases, scores those of relative positions.

    Args:
        width: Of the tokens.
        heads: Of its attention.
        drop_path: How often a branch is left out in training.
        grid: (H, W) of the tokens, or of a window of them.
        in_windows: Whether it attends in windows, without a class token.
        layer_scale: Whether its branches are scaled.
    """

    scales = ("gamma_1", "gamma_2")

    def __init__(
        self,
        width: int,
        heads: int,
        drop_path: float,
        grid: Grid,
        in_windows: bool = False,
        layer_scale: bool = True,
    ) -> None:
        super().__init__(width, heads, drop_path, layer_scale=layer_scale)
        self.window = grid if in_windows else None
        kind = BeitWindowAttention if in_windows else BeitAttention
        self.attn = kind(width, heads, grid)


class BeitAttention(Attention):
    """Self-attention among a class token and a grid, with a learned bias for every offset."""

    prefix_tokens = 1

    def __init__(self, width: int, heads: int, grid: Grid) -> None:
        super().__init__(width, heads, dropout=0.0)
        self.grid = grid
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        rows = (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3 * self.prefix_tokens
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, heads))
        index = offset_index_with_class(*grid) if self.prefix_tokens else offset_index(*grid)
        self.register_buffer("relative_position_index", index)

    def position_bias(self) -> Tensor:
        """What is added to the scores, (1, heads, prefix + H·W, prefix + H·W)."""
        index = self.get_buffer("relative_position_index")
        return self.relative_position_bias_table.mT[:, index][None]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        positions = self.position_bias()
        if positions.shape[-1] != x.shape[1]:
            raise ExpediteError(
                f"{x.shape[1] - 1} tokens were met by relative position biases of a grid of "
                f"{self.grid[0]}×{self.grid[1]}; images of the size they were trained for fit"
            )
        return self.attend(x, positions if mask is None else positions + mask)

    def attend(self, x: Tensor, scores: Tensor) -> Tensor:
        """Map tokens (B, N, D) to the same; `scores` is what is added to theirs."""
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = torch.unflatten(F.linear(x, self.qkv.weight, bias), 2, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, N, d)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=scores.to(q.dtype))
        out: Tensor = self.proj(x.transpose(1, 2).flatten(2))
        return out


class BeitWindowAttention(BeitAttention):
    """The same inside windows without a class token, those at the border filled up with zeros.

    Source: `Attention` of detection's `beit.py` in czczup/ViT-Adapter, which pads before the
    projection, so that what fills up answers with the bias of the values.
    """

    prefix_tokens = 0

    def forward(  # type: ignore[override]
        self, x: Tensor, grid: Grid, window: Grid, mask: Tensor | None = None
    ) -> Tensor:
        """Map tokens (B, H·W, D) to the same.

        Args:
            x: (B, H·W, D).
            grid: (H, W).
            window: The module's own, unless there is a mask.
            mask: What is added to scores, (B · windows or 1, heads or 1, N, N) for windows of N, in
                place of the module's own biases.
        """
        (height, width), (rows, columns) = grid, window
        as_a_map = F.pad(as_map(x, grid), (0, 0, 0, -width % columns, 0, -height % rows))
        count = as_a_map.shape[1] // rows, as_a_map.shape[2] // columns
        windows = partition(as_a_map, window).flatten(1, 2)  # (B·n·m, N, D)
        attended = self.attend(windows, self.position_bias() if mask is None else mask)
        out = unpartition(as_map(attended, window), count)
        return out[:, :height, :width].flatten(1, 2)
