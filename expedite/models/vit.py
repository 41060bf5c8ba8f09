"""What the ViTs of our own models are made of, by the names that timm gave their weights."""

import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from torch import Tensor, nn

from expedite.errors import ExpediteError


class Block(nn.Module):
    """A pre-norm transformer block; `mask` is added to the attention scores."""

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, norm_eps)
        self.norm2 = nn.LayerNorm(width, norm_eps)
        self.attn = Attention(width, heads, dropout)
        self.mlp = FeedForward(width, 4 * width, dropout)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), mask))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out


class Attention(nn.Module):
    """Multi-head self-attention through PyTorch's fused kernel."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ExpediteError(
                f"attention of width {width} was asked with {heads} heads; the width must be a "
                "multiple of the heads (and at least 64 for a mask-transformer decoder)"
            )
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)  # (B, heads, N, D / heads)
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        out: Tensor = self.proj_drop(self.proj(x.transpose(1, 2).flatten(2)))  # (B, N, D)
        return out


class FeedForward(nn.Module):
    """The two-layer perceptron of a block."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))
        return out


def embed_patches(images: Tensor, proj: nn.Conv2d) -> Tensor:
    """A convolution of as wide a stride as its kernel, (B, D, H / patch, W / patch).

    As a product: on an H200 in bfloat16 cuDNN's convolution takes 16 times as long.

    Args:
        images: (B, 3, H, W), whole patches to each side.
        proj: The convolution.

    Example:
        >>> proj, images = nn.Conv2d(3, 8, 4, 4), torch.randn(2, 3, 8, 12)
        >>> torch.allclose(embed_patches(images, proj), proj(images), atol=1e-6)
        True
    """
    (batch, colors, height, width), (side, other) = images.shape, proj.stride
    patches = images.reshape(batch, colors, height // side, side, width // other, other)
    patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3)  # (B, h, w, 3·p·p)
    return F.linear(patches, proj.weight.flatten(1), proj.bias).permute(0, 3, 1, 2)


def resize_positions(
    embedding: Tensor, grid: tuple[int, int], to: tuple[int, int], mode: str = "bilinear"
) -> Tensor:
    """Interpolate the position embedding of a grid of tokens, those before the grid left alone.

    Args:
        embedding: (1, prefix + H·W, D).
        grid: (H, W).
        to: (h, w).
        mode: Of `torch.nn.functional.interpolate`.

    Returns:
        (1, prefix + h·w, D).
    """
    if to == grid:
        return embedding
    prefix = embedding.shape[1] - grid[0] * grid[1]
    as_map = embedding[:, prefix:].transpose(1, 2).reshape(1, -1, *grid)  # (1, D, H, W)
    resized = F.interpolate(as_map, size=to, mode=mode)
    return torch.cat([embedding[:, :prefix], resized.flatten(2).transpose(1, 2)], dim=1)


def resized_like(x: Tensor, like: Tensor, mode: str = "bilinear") -> Tensor:
    """A map (B, C, h, w) in the height and width of another.

    Example:
        >>> resized_like(torch.randn(1, 5, 4, 6), torch.zeros(1, 3, 8, 12)).shape
        torch.Size([1, 5, 8, 12])
    """
    return x if x.shape[-2:] == like.shape[-2:] else F.interpolate(x, like.shape[-2:], mode=mode)
