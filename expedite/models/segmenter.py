"""Segmenter (Strudel et al., ICCV 2021): a ViT encoder with a linear or mask-transformer decoder.

The modules only; reading and writing the published files is `segmenter_files`, running one over an
image of any size is `sliding`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from expedite.errors import ExpediteError
from expedite.models.vit import Block, embed_patches, resize_positions


@dataclass(frozen=True)
class SegmenterConfig:
    """What the published `net_kwargs` say of an architecture.

    `image_size` is the (height, width) in pixels at which the position embedding is stored; other
    sizes interpolate it.
    """

    image_size: tuple[int, int]
    patch_size: int
    d_model: int
    n_heads: int
    n_layers: int
    n_cls: int
    distilled: bool = False
    decoder: Literal["mask_transformer", "linear"] = "mask_transformer"
    decoder_layers: int = 2
    dropout: float = 0.0
    drop_path_rate: float = 0.0
    decoder_dropout: float = 0.0
    decoder_drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        if any(side <= 0 or side % self.patch_size for side in self.image_size):
            raise ExpediteError(
                f"a Segmenter for images of {self.image_size} was asked with patches of "
                f"{self.patch_size}; both sides must be positive multiples of the patch size"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches at `image_size`."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size


class Segmenter(nn.Module):
    """Per-pixel class scores for images of any size.

    State-dict keys are those of the published checkpoints, rstrudel/segmenter.

    Example:
        >>> config = SegmenterConfig((32, 32), 16, d_model=64, n_heads=1, n_layers=2, n_cls=5)
        >>> Segmenter(config).eval()(torch.zeros(1, 3, 40, 30)).shape
        torch.Size([1, 5, 40, 30])
    """

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = VisionTransformer(config)
        decoders = {"mask_transformer": MaskTransformer, "linear": LinearDecoder}
        self.decoder = decoders[config.decoder](config)
        self.apply(_init_weights)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to scores (B, n_cls, H, W)."""
        height, width = images.shape[-2:]
        images = pad_to_multiple(images, self.config.patch_size)
        padded = images.shape[-2:]
        rows = padded[0] // self.config.patch_size
        tokens = self.encoder(images)[:, self.encoder.prefix_tokens :]  # (B, N, D)
        scores = self.decoder(tokens).transpose(1, 2).unflatten(2, (rows, -1))  # (B, n_cls, H', W')
        scores = (
            scores.contiguous()
        )  # or resizing takes several times as long, on CPU and GPU alike
        scores = F.interpolate(scores, size=padded, mode="bilinear")
        return scores[..., :height, :width]


class VisionTransformer(nn.Module):
    """The encoder: images (B, 3, H, W) to normalised tokens (B, prefix + N, D)."""

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config = config
        self.prefix_tokens = 1 + config.distilled
        width, grid = config.d_model, config.grid
        self.patch_embed = PatchEmbedding(config.patch_size, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        if config.distilled:
            self.dist_token = nn.Parameter(torch.zeros(1, 1, width))
        positions = grid[0] * grid[1] + self.prefix_tokens
        self.pos_embed = nn.Parameter(torch.zeros(1, positions, width))
        self.dropout = nn.Dropout(config.dropout)
        rates = _rising(config.drop_path_rate, config.n_layers)
        self.blocks = nn.ModuleList(
            Block(width, config.n_heads, config.dropout, rate) for rate in rates
        )
        self.norm = nn.LayerNorm(width)
        # The ImageNet classifier is unused here but stored in every published checkpoint.
        self.head = nn.Linear(width, 1000)
        if config.distilled:
            self.head_dist = nn.Linear(width, 1000)
            trunc_normal_(self.dist_token, std=0.02)
        trunc_normal_(self.pos_embed, std=0.02)
        trunc_normal_(self.cls_token, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embed(images)  # (B, D, H, W)
        grid = (patches.shape[-2], patches.shape[-1])
        learned = [self.cls_token, self.dist_token] if self.config.distilled else [self.cls_token]
        prefix = [token.expand(images.shape[0], -1, -1) for token in learned]
        tokens = torch.cat([*prefix, patches.flatten(2).transpose(1, 2)], dim=1)  # (B, P + N, D)
        positions: Tensor = self.pos_embed
        # As published, which looks at how many patches there are, and not at how they lie.
        if tokens.shape[1] != positions.shape[1]:
            positions = resize_positions(positions, self.config.grid, grid)
        tokens = self.dropout(tokens + positions)
        for block in self.blocks:
            tokens = block(tokens)
        normed: Tensor = self.norm(tokens)
        return normed


class PatchEmbedding(nn.Module):
    """Images (B, 3, H, W) to a map of patch features (B, D, H / patch, W / patch)."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return embed_patches(images, self.proj)


class MaskTransformer(nn.Module):
    """Class embeddings attend with the tokens; scores are cosines between the two.

    Maps tokens (B, N, D) to scores (B, N, n_cls).
    """

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        width = config.d_model
        scale = width**-0.5
        rates = _rising(config.decoder_drop_path_rate, config.decoder_layers)
        # The published decoder ties its heads to a width of 64, whatever the encoder has.
        self.blocks = nn.ModuleList(
            Block(width, width // 64, config.decoder_dropout, rate) for rate in rates
        )
        self.cls_emb = nn.Parameter(torch.zeros(1, config.n_cls, width))
        self.proj_dec = nn.Linear(width, width)
        self.proj_patch = nn.Parameter(scale * torch.randn(width, width))
        self.proj_classes = nn.Parameter(scale * torch.randn(width, width))
        self.decoder_norm = nn.LayerNorm(width)
        self.mask_norm = nn.LayerNorm(config.n_cls)
        trunc_normal_(self.cls_emb, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        classes = self.cls_emb.shape[1]
        x = torch.cat([self.proj_dec(tokens), self.cls_emb.expand(tokens.shape[0], -1, -1)], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.decoder_norm(x)
        patches = F.normalize(x[:, :-classes] @ self.proj_patch, dim=-1)
        queries = F.normalize(x[:, -classes:] @ self.proj_classes, dim=-1)
        scores: Tensor = self.mask_norm(patches @ queries.transpose(1, 2))
        return scores


class LinearDecoder(nn.Module):
    """Tokens (B, N, D) to scores (B, N, n_cls), each token alone."""

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.head = nn.Linear(config.d_model, config.n_cls)

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.head(tokens)
        return scores


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Zero-pad images (B, C, H, W) at the bottom and right to multiples of `multiple`."""
    height, width = images.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    return F.pad(images, (0, right, 0, bottom)) if bottom or right else images


def _rising(rate: float, layers: int) -> list[float]:
    """Stochastic depth: from 0 in the first block to `rate` in the last."""
    return [rate * layer / max(1, layers - 1) for layer in range(layers)]


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
