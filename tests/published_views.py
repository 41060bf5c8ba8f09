"""VGGT's aggregator and Depth Anything 3's ViT laid out as they were published, for tests.

Names of parts, what calls are given and how tokens are laid out between blocks are the published
ones; the arithmetic is written for tests.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.hosts import randomized
from tests.published_dino import Attention, DinoVisionTransformer, Mlp, PatchEmbed, Scale

Size = tuple[int, int, int]  # width, heads, and how much wider MLPs are

WIDTH = 32
SMALL: Size = (WIDTH, 2, 2)
LARGE: Size = (1024, 16, 4)


class Rope(nn.Module):
    """Turns queries and keys by whole rows and columns, whose sines and cosines are looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.base_frequency = 100.0

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        assert not positions.is_floating_point()
        halves = zip(tokens.chunk(2, -1), positions.unbind(-1), strict=True)
        return torch.cat([self.along(half, at) for half, at in halves], -1)

    def along(self, x: Tensor, at: Tensor) -> Tensor:
        """x (B, heads, N, d/2) turned by at (B, N): channel i goes with i + d/4."""
        pairs = x.shape[-1] // 2
        frequencies = [self.base_frequency ** (-i / pairs) for i in range(pairs)]
        angles = torch.outer(torch.arange(128.0), torch.tensor(2 * frequencies)).to(x.device)
        tables = (angles.sin(), angles.cos())
        sin, cos = (table.to(x.dtype)[at][:, None] for table in tables)
        return x * cos + torch.cat([-x[..., pairs:], x[..., :pairs]], -1) * sin


class ViewAttention(Attention):
    """Norms of queries and keys, then the turn."""

    def __init__(self, width: int, heads: int, rope: Rope | None, has_norms: bool) -> None:
        super().__init__(width, heads)
        norms = (nn.LayerNorm(width // heads) if has_norms else nn.Identity() for _ in range(2))
        self.q_norm, self.k_norm = norms
        self.rope = rope

    def forward(self, x: Tensor, pos: Any = None, attn_mask: Any = None) -> Tensor:
        q, k, v = self.heads(x)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.rope is not None and pos is not None:
            q, k = self.rope(q, pos), self.rope(k, pos)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask)
        output: Tensor = self.proj(x.transpose(1, 2).flatten(2))
        return output


class ViewBlock(nn.Module):
    def __init__(self, rope: Rope | None, has_norms: bool = True, size: Size = SMALL) -> None:
        super().__init__()
        width, heads, ratio = size
        self.norm1 = nn.LayerNorm(width)
        self.attn = ViewAttention(width, heads, rope, has_norms)
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width, ratio)
        self.ls1, self.ls2 = Scale(width), Scale(width)

    def forward(self, x: Tensor, pos: Any = None, **more: Any) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), pos=pos, **more))
        output: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return output


def grid_places(views: int, height: int, width: int, special: int) -> Tensor:
    """Rows and columns from 1 on, behind zeros for special tokens, (views, special + H·W, 2)."""
    rows, columns = torch.arange(1, height + 1), torch.arange(1, width + 1)
    of_grid = torch.cartesian_prod(rows, columns)
    places = torch.cat([torch.zeros(special, 2, dtype=of_grid.dtype), of_grid])
    return places.expand(views, -1, -1).clone()


class Aggregator(nn.Module):
    """VGGT's: (B, S, 3, H, W) to a list of (B, S, prefix + N, 2·C), and the prefix."""

    def __init__(
        self, depth: int = 3, in_a_row: int = 1, size: Size = SMALL, patch: int = 4
    ) -> None:
        super().__init__()
        width = size[0]
        self.patch_size = patch
        self.patch_embed: nn.Module = PatchEmbed(8 * patch, patch, width, is_flat=True)
        self.rope: Rope | None = Rope()
        kinds = [
            nn.ModuleList(ViewBlock(self.rope, size=size) for _ in range(depth)) for _ in range(2)
        ]
        self.frame_blocks, self.global_blocks = kinds
        self.aa_order, self.aa_block_size = ["frame", "global"], in_a_row
        self.aa_block_num = depth // in_a_row
        self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, width))
        self.register_token = nn.Parameter(torch.zeros(1, 2, 4, width))
        self.patch_start_idx = 5

    def forward(self, images: Tensor) -> tuple[list[Tensor], int]:
        B, S, _, H, W = images.shape
        patches = self.patch_embed(images.flatten(0, 1))
        patches = patches["x_norm_patchtokens"] if isinstance(patches, dict) else patches
        special = torch.cat([self.camera_token, self.register_token], 2)  # (1, 2, 5, C)
        special = special[:, [0] + [1] * (S - 1)].expand(B, -1, -1, -1).flatten(0, 1)
        tokens = torch.cat([special, patches], 1)
        places = grid_places(B * S, H // self.patch_size, W // self.patch_size, 5).to(tokens.device)
        pos = None if self.rope is None else places
        P, C = tokens.shape[1:]
        frame_idx = global_idx = 0
        outputs = []
        for _ in range(self.aa_block_num):
            tokens, frame_idx, of_frames = self._process_frame_attention(
                tokens, B, S, P, C, frame_idx, pos=pos
            )
            tokens, global_idx, of_all = self._process_global_attention(
                tokens, B, S, P, C, global_idx, pos=pos
            )
            outputs += [torch.cat(pair, -1) for pair in zip(of_frames, of_all, strict=True)]
        return outputs, self.patch_start_idx

    def _process_frame_attention(
        self, tokens: Any, B: int, S: int, P: int, C: int, frame_idx: int, pos: Any = None
    ) -> Any:
        tokens = tokens.view(B, S, P, C).view(B * S, P, C)
        return self._process(self.frame_blocks, tokens, frame_idx, pos, (B, S, P, C))

    def _process_global_attention(
        self, tokens: Any, B: int, S: int, P: int, C: int, global_idx: int, pos: Any = None
    ) -> Any:
        tokens = tokens.view(B, S, P, C).view(B, S * P, C)
        pos = None if pos is None else pos.view(B, S * P, 2)
        return self._process(self.global_blocks, tokens, global_idx, pos, (B, S, P, C))

    def _process(
        self, blocks: nn.ModuleList, tokens: Any, index: int, pos: Any, shape: tuple[int, ...]
    ) -> Any:
        outputs = []
        for _ in range(self.aa_block_size):
            if self.training:
                tokens = checkpoint(blocks[index], tokens, pos, use_reentrant=False)
            else:
                tokens = blocks[index](tokens, pos=pos)
            index += 1
            outputs.append(tokens.view(shape))
        return tokens, index, outputs


class DepthAnything3ViT(nn.Module):
    """Depth Anything 3's: from block `alt_start` on, every other block attends to all views."""

    def __init__(self, depth: int = 6, alt_start: int = 2, cat_token: bool = True) -> None:
        super().__init__()
        self.alt_start, self.cat_token = alt_start, cat_token
        self.patch_size, self.num_register_tokens = 4, 0
        self.patch_embed = PatchEmbed(32, 4, WIDTH, is_flat=True)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        if alt_start != -1:
            self.camera_token = nn.Parameter(torch.zeros(1, 2, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + 64, WIDTH))
        self.rope: Rope | None = Rope() if alt_start != -1 else None
        self.blocks = nn.ModuleList(
            ViewBlock(self.rope if i >= alt_start else None, alt_start != -1) for i in range(depth)
        )
        self.norm = nn.LayerNorm(WIDTH)

    def tokens(self, x: Tensor) -> Tensor:
        """(B, S, 1 + N, C) of images."""
        patches = self.patch_embed(x.flatten(0, 1))
        first = self.cls_token.expand(len(patches), -1, -1)
        tokens = torch.cat([first, patches], 1) + self.pos_embed
        return tokens.reshape(*x.shape[:2], -1, WIDTH)

    def outputs(self, x: Tensor, n: Any, export_feat_layers: Any, **kwargs: Any) -> Any:
        B, S, _, H, W = x.shape
        places = grid_places(S, H // 4, W // 4, 1).expand(B, -1, -1, -1)
        flat = places.clamp_max(1)  # of blocks that attend to all views
        x, outputs, more = self.tokens(x), [], []
        taken = range(len(self.blocks) - n, len(self.blocks)) if isinstance(n, int) else n
        local = x
        for i, block in enumerate(self.blocks):
            turns = self.rope is not None and i >= self.alt_start
            if i == self.alt_start - 1 and S >= 3:  # the view that others refer to comes first
                order = x[:, :, 0].square().sum(-1).argsort(-1, descending=True)
                scene = torch.arange(B)[:, None]
                x, local = x[scene, order], local[scene, order]
            if i == self.alt_start:
                x[:, :, 0] = self.camera_token[:, [0] + [1] * (S - 1)]
            if self.alt_start != -1 and i >= self.alt_start and i % 2 == 1:
                at = flat.flatten(1, 2) if turns else None
                x = block(x.flatten(1, 2), pos=at, attn_mask=None).unflatten(1, (S, -1))
            else:
                at = places.flatten(0, 1) if turns else None
                x = block(x.flatten(0, 1), pos=at, attn_mask=None).unflatten(0, (B, S))
                local = x
            if i in taken:
                outputs.append(torch.cat([local, x], -1) if self.cat_token else x)
            if i in export_feat_layers:
                more.append(x)
        return outputs, more

    def get_intermediate_layers(
        self, x: Tensor, n: int | Sequence[int] = 1, export_feat_layers: Any = (), **kwargs: Any
    ) -> Any:
        outputs, more = self.outputs(x, n, export_feat_layers, **kwargs)
        normed = [torch.cat([o[..., :-WIDTH], self.norm(o[..., -WIDTH:])], -1) for o in outputs]
        taps = [(n[:, :, 1:], o[:, :, 0]) for n, o in zip(normed, outputs, strict=True)]
        return tuple(taps), [self.norm(one)[:, :, 1:] for one in more]


class PatchDino(DinoVisionTransformer):
    """The DINOv2 that makes VGGT's patches, whose blocks could norm queries and keys."""

    def __init__(self) -> None:
        super().__init__(depth=2)
        self.blocks = nn.ModuleList(ViewBlock(None, has_norms=False) for _ in range(2))

    def forward(self, *args: Any, is_training: bool = True, **kwargs: Any) -> Any:
        return super().forward(*args, is_training=is_training, **kwargs)


def aggregator(**changes: Any) -> Any:
    """Patches of 4 pixels, from a DINOv2."""
    torch.manual_seed(0)
    model = Aggregator(**changes)
    model.patch_embed = PatchDino()
    return randomized(model)


def depth_anything_3(**changes: Any) -> Any:
    torch.manual_seed(0)
    return randomized(DepthAnything3ViT(**changes))


def scenes(batch: int = 2, views: int = 3, height: int = 32, width: int = 32) -> Tensor:
    """(B, S, 3, H, W)."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, views, 3, height, width, generator=generator)
