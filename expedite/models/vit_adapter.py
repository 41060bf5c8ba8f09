"""ViT-Adapter (Chen et al., ICLR 2023): a pyramid of maps from a plain ViT.

The modules only, under the names of the published weights (czczup/ViT-Adapter). Heads are
`pyramid_heads`, reading the published files is `adapter_files`.
"""

import torch
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from expedite.errors import ExpediteError
from expedite.models.adapter_blocks import BeitBlock, ScaledBlock
from expedite.models.adapter_config import COARSEST, PATCH_SIZE, AdapterConfig
from expedite.models.adapter_interactions import (
    DeformableInteraction,
    Interaction,
    Pyramid,
    split_maps,
)
from expedite.models.deformable import DeformableAttention, Grid
from expedite.models.spatial_prior import SpatialPrior
from expedite.models.vit import resize_positions, resized_like
from expedite.operators.windows import as_map


class ViTAdapter(nn.Module):
    """Images (B, 3, H, W) to four maps (B, D, ·, ·), at a 4th, 8th, 16th and 32nd of their size.

    The sides of images are multiples of 32.

    Example:
        >>> config = AdapterConfig(32, heads=2, layers=4, adapter_heads=2, planes=8)
        >>> maps = ViTAdapter(config).eval()(torch.zeros(2, 3, 64, 96))
        >>> [tuple(one.shape) for one in maps]
        [(2, 32, 16, 24), (2, 32, 8, 12), (2, 32, 4, 6), (2, 32, 2, 3)]
    """

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.config = config
        width, count = config.width, config.interactions
        self.patch_embed = PatchEmbedding(width)
        if config.prefix_tokens:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        elif not config.beit:
            # The row of the class token comes first, though there is no such token.
            positions = 1 + config.grid[0] * config.grid[1]
            self.pos_embed = nn.Parameter(torch.zeros(1, positions, width))
        self.blocks = nn.ModuleList(_block(config, index) for index in range(config.layers))
        self.level_embed = nn.Parameter(torch.zeros(3, width))
        self.spm = SpatialPrior(width, config.planes)
        extra = [0] * (count - 1) + [config.extra_extractors]
        self.interactions = nn.ModuleList(self._interaction(config, more) for more in extra)
        self.up = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.norm3, self.norm4 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self._initialize()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        grids = _grids(images)
        first, spatial = self._prior(images)
        tokens = self._embed(images)
        read = []
        size, prefix = self.config.layers // len(self.interactions), self.config.prefix_tokens
        for index, interaction in enumerate(self.interactions):
            assert isinstance(interaction, Interaction)
            tokens = interaction.inject(tokens, spatial, grids)
            for block in self.blocks[index * size : (index + 1) * size]:
                tokens = block(tokens, grid=grids[1])  # (B, prefix + N, D)
            read.append(tokens[:, prefix:])
            spatial = interaction.extract(spatial, read[-1], grids)
        maps = split_maps(spatial, grids)
        return self._pyramid([self.up(maps[0]) + first, *maps], read, grids[1])

    def _interaction(self, config: AdapterConfig, extra: int) -> Interaction:
        return DeformableInteraction(config, extra)

    def _prior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The map at a 4th, and the cells (B, S, D) of the three others, one after the other."""
        first, *others = self.spm(images)
        cells = [
            one.flatten(2).transpose(1, 2) + level
            for one, level in zip(others, self.level_embed, strict=True)
        ]
        return first, torch.cat(cells, dim=1)

    def _embed(self, images: Tensor) -> Tensor:
        """Tokens (B, prefix + N, D) before the first block."""
        patches = self.patch_embed(images)
        grid = (patches.shape[-2], patches.shape[-1])
        tokens: Tensor = patches.flatten(2).transpose(1, 2)
        if self.config.prefix_tokens:
            cls = self.cls_token.expand(images.shape[0], -1, -1)  # a symbol where graphs are traced
            return torch.cat([cls, tokens], dim=1)
        if self.config.beit:
            return tokens
        positions = resize_positions(self.pos_embed, self.config.grid, grid, mode="bicubic")
        return tokens + positions[:, 1:]

    def _pyramid(
        self, maps: list[Tensor], read: list[Tensor], grid: Grid
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Add the ViT's own features to the maps, where it is so, and norm them."""
        if self.config.vit_features != "none":
            added = read if self.config.vit_features == "each" else read[-1:] * len(maps)
            features = [as_map(tokens, grid).movedim(-1, 1) for tokens in added]  # (B, D, H, W)
            pairs = zip(maps, features, strict=True)
            maps = [one + resized_like(feature, one) for one, feature in pairs]
        one, two, three, four = maps
        return self.norm1(one), self.norm2(two), self.norm3(three), self.norm4(four)

    def _initialize(self) -> None:
        """As published, and γ of the injectors is 0: training begins at the pretrained ViT."""
        self.apply(_initialize)
        for module in self.modules():  # after their linear layers were
            if isinstance(module, DeformableAttention):
                module.reset_parameters()
        nn.init.normal_(self.level_embed)


class PatchEmbedding(nn.Module):
    """Images (B, 3, H, W) to a map of tokens (B, D, H / 16, W / 16)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH_SIZE, stride=PATCH_SIZE)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.proj(images)
        return out


def _block(config: AdapterConfig, index: int) -> ScaledBlock:
    rate = config.drop_path_rate * index / max(1, config.layers - 1)
    window = config.window_of(index)
    if config.beit:
        grid = config.grid if window is None else (window, window)
        in_windows = window is not None
        return BeitBlock(config.width, config.heads, rate, grid, in_windows, config.layer_scale)
    return ScaledBlock(config.width, config.heads, rate, window, config.layer_scale)


def _grids(images: Tensor) -> Pyramid:
    """The maps at an 8th, 16th and 32nd of the images' size."""
    height, width = images.shape[-2:]
    if height % COARSEST or width % COARSEST:
        raise ExpediteError(
            f"a ViT-Adapter was asked to run on images of {height}×{width}; both sides must be "
            f"multiples of {COARSEST}"
        )
    eighth, sixteenth, coarsest = ((height // step, width // step) for step in (8, 16, COARSEST))
    return eighth, sixteenth, coarsest


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2 / out) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
