"""META, the memory efficient transformer adapter (Zhang et al.), from its poster alone.

The poster gives the block (Eqs. 1 to 5), what asks and what answers, and the cascade of heads.
Nothing else of it is published, so the rest is chosen here:

- All but injectors and extractors is the ViT-Adapter's: spatial prior, four interactions, the map
  at a 4th by transposed convolution, the ViT's tokens added to the pyramid, its norms.
- A block works on the grid at a 16th. The spatial features come to it as the mean of their three
  maps, the finer one averaged and the coarser one interpolated to its size; what an extractor makes
  is added to all three, interpolated to their sizes.
- It works in few channels, d = 3/32 of the width: 1×1 convolutions bring both inputs to d and the
  result back. The poster's parameter counts leave room for no more: with Mask R-CNN META-B has
  114.8 M here and 115.3 M there, ViT-Adapter-B 120.2 M.
- Cross-shaped windows are a row for the first half of the heads and a column for the others.
- The norm that attention and perceptron share is one scale and shift: the perceptron norms all d
  channels, a head its own with its part of them.
- Each head takes its share of the channels; what it puts out is added to what the next one takes,
  on both sides.
- GLUs halve channels: the first depthwise convolution of the convolutional branch keeps 2·d, the
  second makes 2·d of d, the third keeps d.
- Convolutions of blocks start as PyTorch's own.
- The result is added to what asked, weighed channel by channel by γ, which starts at 0 in injectors
  as in the ViT-Adapter, and at 1 in extractors.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.models.adapter_config import AdapterConfig
from expedite.models.adapter_interactions import Interaction, Pyramid, split_maps
from expedite.models.vit_adapter import ViTAdapter
from expedite.operators.windows import as_map


class META(ViTAdapter):
    """Images (B, 3, H, W) to four maps (B, D, ·, ·), at a 4th, 8th, 16th and 32nd of their size.

    The configuration is that of a ViT-Adapter whose attention works in `value_ratio` of the width,
    and whose perceptrons in `ffn_ratio` of it; see `adapter_config.for_meta`.

    Raises:
        ExpediteError: The number of heads is odd, or perceptrons have no channel.

    Example:
        >>> from expedite.models.adapter_config import SIZES, for_meta
        >>> with torch.device("meta"):
        ...     maps = META(for_meta(SIZES["tiny"]))(torch.zeros(2, 3, 64, 96))
        >>> [tuple(one.shape[1:]) for one in maps]
        [(192, 16, 24), (192, 8, 12), (192, 4, 6), (192, 2, 3)]
    """

    def _interaction(self, config: AdapterConfig, extra: int) -> Interaction:
        return MetaInteraction(config)

    def _initialize(self) -> None:
        super()._initialize()
        # The ViT-Adapter's way would magnify what a block takes in, which no norm stands before.
        for module in self.interactions.modules():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()


class MetaInteraction(Interaction):
    """An injector and an extractor, each of which is a block."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.injector = MetaInjector(config)
        self.extractor = MetaExtractor(config)

    def inject(self, tokens: Tensor, spatial: Tensor, grids: Pyramid) -> Tensor:
        injected: Tensor = self.injector(tokens, spatial, grids)
        return injected

    def extract(self, spatial: Tensor, tokens: Tensor, grids: Pyramid) -> Tensor:
        extracted: Tensor = self.extractor(spatial, tokens, grids)
        return extracted


class MetaInjector(nn.Module):
    """Tokens (B, prefix + N, D) ask for spatial features (B, S, D)."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.block = MetaBlock(config)
        self.gamma = nn.Parameter(torch.zeros(config.width, 1, 1))
        self.prefix_tokens = config.prefix_tokens

    def forward(self, tokens: Tensor, spatial: Tensor, grids: Pyramid) -> Tensor:
        asking = as_map(tokens[:, self.prefix_tokens :], grids[1]).movedim(-1, 1)
        found = self.gamma * self.block(asking, gather(spatial, grids))  # (B, D, H, W)
        return tokens + F.pad(cells(found), (0, 0, self.prefix_tokens, 0))


class MetaExtractor(nn.Module):
    """Spatial features (B, S, D) ask for tokens (B, N, D)."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.block = MetaBlock(config)
        self.gamma = nn.Parameter(torch.ones(config.width, 1, 1))

    def forward(self, spatial: Tensor, tokens: Tensor, grids: Pyramid) -> Tensor:
        answering = as_map(tokens, grids[1]).movedim(-1, 1)
        found = self.gamma * self.block(gather(spatial, grids), answering)  # (B, D, H, W)
        resized = [F.interpolate(found, size=grid, mode="bilinear") for grid in grids]
        return spatial + torch.cat([cells(one) for one in resized], dim=1)


class MetaBlock(nn.Module):
    """Eq. 1: one map of what three branches make of two (B, D, H, W), and of these themselves."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        width, heads = config.width, config.adapter_heads
        inner, hidden = int(width * config.value_ratio), int(width * (config.ffn_ratio or 0))
        if heads % 2 or hidden < 1:
            raise ExpediteError(
                f"{heads} heads, and perceptrons of {hidden} channels, were asked of a META; half "
                "of the heads work in rows and half in columns, and perceptrons have a channel"
            )
        self.asking = nn.Conv2d(width, inner, 1)
        self.answering = nn.Conv2d(width, inner, 1)
        self.norm = nn.LayerNorm(inner)
        self.attention = CascadedAttention(inner, heads)
        self.mix = nn.Conv2d(2 * inner, inner, 3, padding=1)
        self.mlp = nn.Sequential(nn.Linear(inner, hidden), nn.GELU(), nn.Linear(hidden, inner))
        self.convolutions = GatedConvolutions(inner)
        self.join = nn.Conv2d(5 * inner, inner, 3, padding=1)
        self.expand = nn.Conv2d(inner, width, 1)

    def forward(self, asking: Tensor, answering: Tensor) -> Tensor:
        asking, answering = self.asking(asking), self.answering(answering)  # (B, d, H, W)
        both = torch.cat([asking, answering], dim=1)
        mixed = self.norm(self.mix(both).movedim(1, -1))  # Eq. 3, (B, H, W, d)
        branches = (
            self.attention(asking, answering, self.norm),
            self.mlp(mixed).movedim(-1, 1),  # Eq. 4
            self.convolutions(both),
        )
        out: Tensor = self.expand(self.join(torch.cat([*branches, asking, answering], dim=1)))
        return out


class CascadedAttention(nn.Module):
    """Eq. 2: heads one after the other, in rows or in columns of two maps (B, d, H, W)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        share = width // heads
        self.queries = nn.ModuleList(nn.Linear(share, share) for _ in range(heads))
        self.keys_and_values = nn.ModuleList(nn.Linear(share, 2 * share) for _ in range(heads))

    def forward(self, asking: Tensor, answering: Tensor, norm: nn.LayerNorm) -> Tensor:
        heads = len(self.queries)
        asks, answers = (x.movedim(1, -1).chunk(heads, dim=-1) for x in (asking, answering))
        scales = zip(norm.weight.chunk(heads), norm.bias.chunk(heads), strict=True)
        found, outputs = torch.zeros_like(asks[0]), []
        for index, (weight, bias) in enumerate(scales):
            query = self.queries[index](asks[index] + found)  # (B, H, W, d / heads)
            key, value = self.keys_and_values[index](answers[index] + found).chunk(2, dim=-1)
            query, key, value = (
                F.layer_norm(x, weight.shape, weight, bias, norm.eps) for x in (query, key, value)
            )
            found = attend_along(query, key, value, rows=index < heads // 2)
            outputs.append(found)
        return torch.cat(outputs, dim=-1).movedim(-1, 1)


class GatedConvolutions(nn.Module):
    """Eq. 5: three depthwise convolutions (B, 2·d, H, W) → (B, d, H, W) with GLUs between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        double = 2 * width
        self.first = nn.Conv2d(double, double, 3, padding=1, groups=double)
        self.second = nn.Conv2d(width, double, 3, padding=1, groups=width)
        self.third = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        x = F.glu(self.first(x), dim=1)
        x = F.glu(self.second(x), dim=1)
        out: Tensor = self.third(x)
        return out


def attend_along(query: Tensor, key: Tensor, value: Tensor, rows: bool) -> Tensor:
    """Attention (B, H, W, C) of every cell to those of its row, or of its column.

    Example:
        >>> x = torch.randn(2, 3, 4, 8)
        >>> row = F.scaled_dot_product_attention(x[:, 1], x[:, 1], x[:, 1])
        >>> torch.allclose(attend_along(x, x, x, rows=True)[:, 1], row, atol=1e-6)
        True
    """
    if rows:
        return F.scaled_dot_product_attention(query, key, value)
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)


def gather(spatial: Tensor, grids: Pyramid) -> Tensor:
    """The mean (B, D, H, W), on the grid at a 16th, of three maps' cells (B, S, D)."""
    finer, same, coarser = split_maps(spatial, grids)
    finer = F.adaptive_avg_pool2d(finer, grids[1])
    return (finer + same + F.interpolate(coarser, size=grids[1], mode="bilinear")) / 3


def cells(one_map: Tensor) -> Tensor:
    """The cells (B, H·W, D) of a map (B, D, H, W)."""
    return one_map.flatten(2).transpose(1, 2)
