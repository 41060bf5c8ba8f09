"""SAM 3's image encoder in the layout of its published code, small and written anew."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expedite.operators.windows import partition, unpartition

SIDE, WIDTH, HEADS, WINDOW, WHOLE = 16, 32, 2, 8, (1, 3)


def turns(side: int, depth: int) -> Tensor:
    """Of every token of a square, row by row: turns by its column, then its row, (N, depth/2)."""
    rates = 100.0 ** -(torch.arange(0, depth, 4) / depth)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = torch.cat([place.reshape(-1, 1) * rates for place in (column, row)], 1)
    return torch.polar(torch.ones_like(angles), angles)


class Attention(nn.Module):
    def __init__(self, side: int) -> None:
        super().__init__()
        self.num_heads, self.input_size = HEADS, (side, side)
        self.cls_token = self.use_rel_pos = False
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.freqs_cis = turns(side, WIDTH // HEADS)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        qkv = self.qkv(x).reshape(batch, height * width, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        q, k = (
            torch.view_as_real(
                torch.view_as_complex(part.unflatten(-1, (-1, 2)).contiguous()) * self.freqs_cis
            ).flatten(-2)
            for part in qkv[:2]
        )
        mixed = F.scaled_dot_product_attention(q, k, qkv[2]).transpose(1, 2)
        out: Tensor = self.proj(mixed.reshape(x.shape))
        return out


class Block(nn.Module):
    def __init__(self, window: int) -> None:
        super().__init__()
        self.window_size = window
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = Attention(window or SIDE)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, WIDTH))
        self.ls1, self.ls2 = nn.Identity(), nn.Identity()
        self.drop_path, self.dropout = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        if self.window_size:
            count = -(-x.shape[1] // self.window_size), -(-x.shape[2] // self.window_size)
            windows = partition(normed, (self.window_size, self.window_size))
            attended = unpartition(self.attn(windows), count)
        else:
            attended = self.attn(normed)
        x = x + attended
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Patches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, WIDTH, 2, 2)

    def forward(self, images: Tensor) -> Tensor:
        patches: Tensor = self.proj(images)
        return patches.movedim(1, -1)


class ViT(nn.Module):
    """Four blocks of width 32 on 16×16 tokens of 2 pixels, two of them with windows of 8×8."""

    def __init__(self, **changes: Any) -> None:
        super().__init__()
        self.full_attn_ids = list(WHOLE)
        self.retain_cls_token = self.return_interm_layers = False
        self.patch_embed = Patches()
        self.blocks = nn.ModuleList(Block(0 if i in WHOLE else WINDOW) for i in range(4))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.Identity()
        vars(self).update(changes)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.ln_pre(self.patch_embed(images))
        taken = self.full_attn_ids if self.return_interm_layers else self.full_attn_ids[-1:]
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in taken:
                maps.append(x.movedim(-1, 1))
        return maps
