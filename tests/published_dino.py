"""DINOv2 and DINOv3 laid out as they were published, outside of any package, for tests.

Names of parts and what calls are given are those of Meta's `DinoVisionTransformer`; the arithmetic
is written for tests, which compare it with timm's for the same weights.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.hosts import randomized

Rope = tuple[Tensor, Tensor]


class Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Mlp(nn.Module):
    def __init__(self, width: int, ratio: int = 2) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, ratio * width), nn.Linear(ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return output


class Attention(nn.Module):
    """DINOv2's, without a mask."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.attn_drop, self.proj_drop = nn.Dropout(0.0), nn.Dropout(0.0)

    def heads(self, x: Tensor) -> Tensor:
        """(3, B, heads, N, d)."""
        qkv: Tensor = self.qkv(x)
        return qkv.reshape(*x.shape[:2], 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)

    def out(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q @ k.mT) * q.shape[-1] ** -0.5
        x = scores.softmax(-1) @ v
        output: Tensor = self.proj(x.transpose(1, 2).flatten(2))
        return output

    def forward(self, x: Tensor, attn_bias: None = None) -> Tensor:
        assert attn_bias is None
        return self.out(*self.heads(x))


class RotaryAttention(Attention):
    """DINOv3's, which leaves the first tokens as they are."""

    def apply_rope(self, q: Tensor, k: Tensor, rope: Rope) -> Rope:
        return self.turn(q, *rope), self.turn(k, *rope)

    def turn(self, x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
        kept = x.shape[-2] - sin.shape[-2]
        first, second = (body := x[:, :, kept:]).chunk(2, -1)
        turned = body * cos + torch.cat([-second, first], -1) * sin
        return torch.cat([x[:, :, :kept], turned.to(x.dtype)], -2)

    def forward(self, x: Tensor, attn_bias: None = None, rope: Rope | None = None) -> Tensor:
        assert attn_bias is None
        q, k, v = self.heads(x)
        if rope is not None:
            q, k = self.apply_rope(q, k, rope)
        return self.out(q, k, v)


class Block(nn.Module):
    def __init__(self, width: int, attention: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attn, self.ls1 = nn.LayerNorm(width), attention, Scale(width)
        self.norm2, self.mlp, self.ls2 = nn.LayerNorm(width), Mlp(width), Scale(width)

    def one(self, x: Tensor, **positions: Any) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), **positions))
        output: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return output

    def forward(self, x_or_x_list: Any) -> Any:
        if isinstance(x_or_x_list, list):
            return [self.one(x) for x in x_or_x_list]
        return self.one(x_or_x_list)


class RotaryBlock(Block):
    def forward(self, x_or_x_list: Any, rope_or_rope_list: Any = None) -> Any:
        if isinstance(x_or_x_list, list):
            pairs = zip(x_or_x_list, rope_or_rope_list, strict=True)
            return [self.one(x, rope=rope) for x, rope in pairs]
        return self.one(x_or_x_list, rope=rope_or_rope_list)


class PatchEmbed(nn.Module):
    def __init__(self, side: int, patch: int, width: int, is_flat: bool) -> None:
        super().__init__()
        self.patches_resolution, self.is_flat = (side // patch, side // patch), is_flat
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.proj(x)
        return maps.flatten(2).mT if self.is_flat else maps.movedim(1, -1)


class BlockChunk(nn.ModuleList):
    def forward(self, x: Any) -> Any:
        for block in self:
            x = block(x)
        return x


class DinoVisionTransformer(nn.Module):
    """DINOv2, with registers or without, in chunks or not."""

    def __init__(self, registers: int = 0, chunks: int = 0, depth: int = 4) -> None:
        super().__init__()
        width = self.embed_dim = 32
        self.patch_size, self.chunked_blocks = 4, chunks > 0
        self.patch_embed = PatchEmbed(32, 4, width, is_flat=True)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + 64, width))
        self.num_register_tokens = registers
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, width)) if registers else None
        blocks: list[nn.Module] = [Block(width, Attention(width, 2)) for _ in range(depth)]
        self.blocks = nn.ModuleList(self.chunked(blocks, chunks) if chunks else blocks)
        self.norm, self.head = nn.LayerNorm(width), nn.Identity()
        self.mask_token = nn.Parameter(torch.zeros(1, width))

    @staticmethod
    def chunked(blocks: list[nn.Module], chunks: int) -> list[nn.Module]:
        size = len(blocks) // chunks
        starts = range(0, len(blocks), size)
        gaps: list[list[nn.Module]] = [[nn.Identity() for _ in range(i)] for i in starts]
        return [BlockChunk(gap + blocks[i : i + size]) for gap, i in zip(gaps, starts, strict=True)]

    def positions(self, grid: tuple[int, int]) -> Tensor:
        own = self.pos_embed[:, 1:].mT.reshape(1, -1, 8, 8)
        own = F.interpolate(own, size=grid, mode="bicubic").flatten(2).mT
        return torch.cat([self.pos_embed[:, :1], own], 1)

    def prepare_tokens_with_masks(self, x: Tensor, masks: Tensor | None = None) -> Tensor:
        grid = x.shape[-2] // self.patch_size, x.shape[-1] // self.patch_size
        x = self.patch_embed(x)
        if masks is not None:
            x = torch.where(masks[..., None], self.mask_token[None], x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.positions(grid)
        if self.register_tokens is None:
            return x
        return torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], 1)

    def shown(self, x: Tensor, masks: Tensor | None) -> dict[str, Tensor | None]:
        normed, first = self.norm(x), 1 + self.num_register_tokens
        return {
            "x_norm_clstoken": normed[:, 0],
            "x_norm_regtokens": normed[:, 1:first],
            "x_norm_patchtokens": normed[:, first:],
            "x_prenorm": x,
            "masks": masks,
        }

    def forward_features_list(self, x_list: list[Tensor], masks_list: list[Any]) -> list[Any]:
        pairs = zip(x_list, masks_list, strict=True)
        tokens: Any = [self.prepare_tokens_with_masks(x, masks) for x, masks in pairs]
        for block in self.blocks:
            tokens = block(tokens)
        return [self.shown(x, masks) for x, masks in zip(tokens, masks_list, strict=True)]

    def forward_features(self, x: Any, masks: Any = None) -> Any:
        if isinstance(x, list):
            return self.forward_features_list(x, masks)
        x = self.prepare_tokens_with_masks(x, masks)
        for block in self.blocks:
            x = block(x)
        return self.shown(x, masks)

    def outputs(self, x: Tensor) -> list[Tensor]:
        """Of every block."""
        outputs: list[Tensor] = []
        x = self.prepare_tokens_with_masks(x)
        chunks = list(self.blocks) if self.chunked_blocks else [self.blocks]
        for chunk in chunks:
            for block in chunk[len(outputs) :]:  # type: ignore[index]
                x = block(x)
                outputs.append(x)
        return outputs

    def get_intermediate_layers(
        self,
        x: Tensor,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_class_token: bool = False,
        norm: bool = True,
    ) -> Any:
        grid = x.shape[-2] // self.patch_size, x.shape[-1] // self.patch_size
        outputs = self.outputs(x)
        taken = range(len(outputs) - n, len(outputs)) if isinstance(n, int) else n
        taps = [self.norm(outputs[index]) if norm else outputs[index] for index in taken]
        maps = [tap[:, 1 + self.num_register_tokens :] for tap in taps]
        maps = [one.mT.unflatten(2, grid) for one in maps] if reshape else maps
        classes = [tap[:, 0] for tap in taps]
        return tuple(zip(maps, classes, strict=True)) if return_class_token else tuple(maps)

    def forward(self, *args: Any, is_training: bool = False, **kwargs: Any) -> Any:
        found = self.forward_features(*args, **kwargs)
        return found if is_training else self.head(found["x_norm_clstoken"])


class RopeEmbed(nn.Module):
    """Sines and cosines (H·W, d) of places from -1 to 1 along each side."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.register_buffer("periods", 100.0 ** (torch.arange(d // 4) / (d // 4)))

    def forward(self, *, H: int, W: int) -> tuple[Tensor, Tensor]:
        device = self.get_buffer("periods").device
        sides = [2 * (torch.arange(side, device=device) + 0.5) / side - 1 for side in (H, W)]
        places = torch.stack(torch.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 2)
        angles = 2 * torch.pi * places[..., None] / self.get_buffer("periods")
        angles = angles.flatten(1).tile(2)
        return angles.sin(), angles.cos()


class RotaryDino(DinoVisionTransformer):
    """DINOv3, with two storage tokens."""

    def __init__(self) -> None:
        super().__init__()
        del self.pos_embed, self.register_tokens
        self.n_storage_tokens = self.num_register_tokens = 2
        self.storage_tokens = nn.Parameter(torch.zeros(1, 2, 32))
        self.patch_embed = PatchEmbed(32, 4, 32, is_flat=False)
        self.rope_embed = RopeEmbed(16)
        self.blocks = nn.ModuleList(RotaryBlock(32, RotaryAttention(32, 2)) for _ in range(4))

    def prepare_tokens_with_masks(self, x: Tensor, masks: Tensor | None = None) -> Any:
        maps = self.patch_embed(x)
        prefix = torch.cat([self.cls_token, self.storage_tokens], 1).expand(len(x), -1, -1)
        return torch.cat([prefix, maps.flatten(1, 2)], 1), maps.shape[1:3]

    def forward_features_list(self, x_list: list[Tensor], masks_list: list[Any]) -> list[Any]:
        found = [self.prepare_tokens_with_masks(x) for x in x_list]
        tokens = [x for x, _ in found]
        for block in self.blocks:
            tokens = block(tokens, [self.rope_embed(H=H, W=W) for _, (H, W) in found])
        return [self.shown(x, masks) for x, masks in zip(tokens, masks_list, strict=True)]

    def forward_features(self, x: Any, masks: Any = None) -> Any:
        if isinstance(x, Tensor):
            return self.forward_features_list([x], [masks])[0]
        return self.forward_features_list(x, masks)

    def outputs(self, x: Tensor) -> list[Tensor]:
        outputs: list[Tensor] = []
        x, (H, W) = self.prepare_tokens_with_masks(x)
        for block in self.blocks:
            x = block(x, self.rope_embed(H=H, W=W))
            outputs.append(x)
        return outputs


class DepthOfDino(nn.Module):
    """Depth Anything's way of calling: four blocks with their class tokens, to one map."""

    def __init__(self, pretrained: nn.Module) -> None:
        super().__init__()
        self.pretrained = pretrained
        self.depth_head = nn.Conv2d(4 * 32, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        grid = x.shape[-2] // 4, x.shape[-1] // 4
        layers: Any = self.pretrained.get_intermediate_layers
        features = layers(x, [0, 1, 2, 3], return_class_token=True)
        maps = [(tokens + token[:, None]).mT.unflatten(2, grid) for tokens, token in features]
        depth: Tensor = self.depth_head(torch.cat(maps, 1))
        return depth.relu()[:, 0]


def published_dino(**changes: Any) -> DinoVisionTransformer:
    """DINOv2: four blocks of width 32 on 8×8 tokens of 4 pixels."""
    torch.manual_seed(0)
    return randomized(DinoVisionTransformer(**changes))


def published_rotary_dino() -> RotaryDino:
    """DINOv3 of the same size."""
    torch.manual_seed(0)
    return randomized(RotaryDino())


def published_depth_anything() -> DepthOfDino:
    """Depth Anything's model around a DINOv2 with registers, in two chunks."""
    return randomized(DepthOfDino(published_dino(registers=3, chunks=2)))
