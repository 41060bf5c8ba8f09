"""How the ViT-Adapter's spatial features and a ViT's tokens meet: injector and extractor."""

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from expedite.models.adapter_config import AdapterConfig
from expedite.models.deformable import DeformableAttention, Grid, grid_places
from expedite.operators.windows import as_map

Pyramid = tuple[Grid, Grid, Grid]  # the maps at an 8th, 16th and 32nd of the image's size
_NORM_EPS = 1e-6  # of every layer norm here and in the ViT


class Injector(nn.Module):
    """Tokens ask for spatial features and add what they find, weighed by γ, which starts at 0.

    Equation 1 of the paper. Tokens before the grid's are left alone.
    """

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(config.width, _NORM_EPS)
        self.feat_norm = nn.LayerNorm(config.width, _NORM_EPS)
        self.attn = _attention(config, levels=3)
        self.gamma = nn.Parameter(torch.zeros(config.width))
        self.prefix_tokens = config.prefix_tokens

    def forward(self, tokens: Tensor, places: Tensor, spatial: Tensor, grids: Pyramid) -> Tensor:
        """Map tokens (B, prefix + N, D), which stand at places (B or 1, N, 2), to the same."""
        body = tokens[:, self.prefix_tokens :]
        found = self.attn(self.query_norm(body), places, self.feat_norm(spatial), grids)
        injected: Tensor = body + self.gamma * found
        if self.prefix_tokens == 0:
            return injected
        return torch.cat([tokens[:, : self.prefix_tokens], injected], dim=1)


class Extractor(nn.Module):
    """Spatial features ask for tokens and add what they find, then what a perceptron makes of it.

    Equations 2 and 3 of the paper; the light variant has no perceptron.
    """

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        width, ratio, rate = config.width, config.ffn_ratio, config.drop_path_rate
        self.query_norm = nn.LayerNorm(width, _NORM_EPS)
        self.feat_norm = nn.LayerNorm(width, _NORM_EPS)
        self.attn = _attention(config, levels=1)
        self.has_ffn = ratio is not None
        if ratio is not None:
            self.ffn = ConvFeedForward(width, int(width * ratio))
            self.ffn_norm = nn.LayerNorm(width, _NORM_EPS)
            self.drop_path = DropPath(rate) if rate > 0 else nn.Identity()

    def forward(self, spatial: Tensor, places: Tensor, tokens: Tensor, grids: Pyramid) -> Tensor:
        """Map spatial features (B, S, D), which stand at places (1, S, 2), to the same.

        Args:
            spatial: (B, S, D) the cells of all maps, one map after the other.
            places: (1, S, 2).
            tokens: (B, N, D) of the grid at a 16th alone.
            grids: (H, W) of every map.
        """
        found = self.attn(self.query_norm(spatial), places, self.feat_norm(tokens), (grids[1],))
        spatial = spatial + found
        if not self.has_ffn:
            return spatial
        out: Tensor = spatial + self.drop_path(self.ffn(self.ffn_norm(spatial), grids))
        return out


class ConvFeedForward(nn.Module):
    """A perceptron with a depthwise 3×3 convolution inside, the same for every map."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.dwconv = nn.ModuleDict({"dwconv": conv})  # as the published names have it
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor, grids: Pyramid) -> Tensor:
        """Map the cells (B, S, D) of maps of `grids` to the same."""
        maps = split_maps(self.fc1(x), grids)
        convolved = [self.dwconv["dwconv"](one).flatten(2).transpose(1, 2) for one in maps]
        out: Tensor = self.fc2(self.act(torch.cat(convolved, dim=1)))
        return out


class Interaction(nn.Module):
    """What stands around a group of the ViT's blocks: an injector before, extractors behind it."""

    injector: nn.Module  # takes and returns tokens (B, prefix + N, D), its first argument

    def inject(self, tokens: Tensor, spatial: Tensor, grids: Pyramid) -> Tensor:
        """Map tokens (B, prefix + N, D) of the grid at a 16th to the same."""
        raise NotImplementedError

    def extract(self, spatial: Tensor, tokens: Tensor, grids: Pyramid) -> Tensor:
        """Map spatial features (B, S, D) to the same, given tokens (B, N, D) without a prefix."""
        raise NotImplementedError


class DeformableInteraction(Interaction):
    """The ViT-Adapter's, with so many extractors after the first."""

    def __init__(self, config: AdapterConfig, extra: int) -> None:
        super().__init__()
        self.injector = Injector(config)
        self.extractor = Extractor(config)
        self.extra_extractors = nn.ModuleList(Extractor(config) for _ in range(extra))

    def inject(self, tokens: Tensor, spatial: Tensor, grids: Pyramid) -> Tensor:
        at = grid_places((grids[1],), tokens.device)
        injected: Tensor = self.injector(tokens, at, spatial, grids)
        return injected

    def extract(self, spatial: Tensor, tokens: Tensor, grids: Pyramid) -> Tensor:
        at = grid_places(grids, tokens.device)
        for extractor in (self.extractor, *self.extra_extractors):
            spatial = extractor(spatial, at, tokens, grids)
        return spatial


def _attention(config: AdapterConfig, levels: int) -> DeformableAttention:
    return DeformableAttention(config.width, config.adapter_heads, levels, ratio=config.value_ratio)


def split_maps(x: Tensor, grids: tuple[Grid, ...]) -> list[Tensor]:
    """Maps (B, D, H, W) of cells (B, ΣH·W, D) that stand one map after the other.

    Example:
        >>> [tuple(x.shape) for x in split_maps(torch.zeros(2, 20, 8), ((4, 4), (2, 2)))]
        [(2, 8, 4, 4), (2, 8, 2, 2)]
    """
    bodies = torch.split_with_sizes(x, [height * width for height, width in grids], 1)
    pairs = zip(bodies, grids, strict=True)
    return [as_map(body, grid).movedim(-1, 1) for body, grid in pairs]
