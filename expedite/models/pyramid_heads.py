"""Segmentation heads on a pyramid of four maps: Semantic FPN and UperNet.

Layers and names of weights are those of mmsegmentation 0.x (`FPN`, `FPNHead`, `UPerHead`,
`FCNHead`), whose synchronised batch norms are plain ones here.
"""

import torch
from torch import Tensor, nn

from expedite.models.vit import resized_like

_POOL_SIZES = (1, 2, 3, 6)


class ConvNorm(nn.Sequential):
    """A convolution, batch norm and ReLU, of an odd kernel that keeps the size."""

    def __init__(self, channels: int, to: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, to, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(to)
        self.activate = nn.ReLU(inplace=True)


class FeaturePyramid(nn.Module):
    """Maps of one width, finest first, to as many of `channels`, each with what coarser ones know.

    The neck of Semantic FPN and of the detectors.
    """

    def __init__(self, width: int, channels: int = 256, levels: int = 4) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(_plain(width, channels, 1) for _ in range(levels))
        self.fpn_convs = nn.ModuleList(_plain(channels, channels, 3) for _ in range(levels))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        laterals = _apply_each(self.lateral_convs, maps)
        return _apply_each(self.fpn_convs, _add_down(laterals, mode="nearest"))


class SemanticFPN(nn.Module):
    """Scores (B, n_cls, H / 4, W / 4) from the maps of a `FeaturePyramid`.

    Every map is convolved and doubled in turn until it has the finest one's size; then all are
    added.

    Args:
        n_cls: Classes.
        channels: Of the maps.
        hidden: Of the maps that are added.
    """

    def __init__(self, n_cls: int, channels: int = 256, hidden: int = 128, levels: int = 4) -> None:
        super().__init__()
        self.scale_heads = nn.ModuleList(
            _enlarging(channels, hidden, doublings) for doublings in range(levels)
        )
        self.dropout = nn.Dropout2d(0.1)
        self.conv_seg = nn.Conv2d(hidden, n_cls, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        scaled = torch.stack(_apply_each(self.scale_heads, maps))
        scores: Tensor = self.conv_seg(self.dropout(scaled.sum(0)))
        return scores


class UperNet(nn.Module):
    """Scores (B, n_cls, H / 4, W / 4) from four maps of one width, finest first.

    Args:
        n_cls: Classes.
        width: Of the maps.
        hidden: Of the maps inside.
    """

    def __init__(self, n_cls: int, width: int, hidden: int = 512, levels: int = 4) -> None:
        super().__init__()
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), ConvNorm(width, hidden, 1))
            for size in _POOL_SIZES
        )
        self.bottleneck = ConvNorm(width + len(_POOL_SIZES) * hidden, hidden, 3)
        finer = range(levels - 1)
        self.lateral_convs = nn.ModuleList(ConvNorm(width, hidden, 1) for _ in finer)
        self.fpn_convs = nn.ModuleList(ConvNorm(hidden, hidden, 3) for _ in finer)
        self.fpn_bottleneck = ConvNorm(levels * hidden, hidden, 3)
        self.dropout = nn.Dropout2d(0.1)
        self.conv_seg = nn.Conv2d(hidden, n_cls, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        laterals = [*_apply_each(self.lateral_convs, maps[:-1]), self._pooled(maps[-1])]
        laterals = _add_down(laterals, mode="bilinear")
        maps = [*_apply_each(self.fpn_convs, laterals[:-1]), laterals[-1]]
        joined = torch.cat([resized_like(one, maps[0]) for one in maps], dim=1)
        scores: Tensor = self.conv_seg(self.dropout(self.fpn_bottleneck(joined)))
        return scores

    def _pooled(self, x: Tensor) -> Tensor:
        """The coarsest map with what its means over larger and larger parts know."""
        means = [resized_like(part(x), x) for part in self.psp_modules]
        out: Tensor = self.bottleneck(torch.cat([x, *means], dim=1))
        return out


class AuxiliaryHead(nn.Module):
    """Scores from one map; for training alone, but stored in the published files."""

    def __init__(self, n_cls: int, width: int, hidden: int = 256) -> None:
        super().__init__()
        self.convs = nn.Sequential(ConvNorm(width, hidden, 3))
        self.dropout = nn.Dropout2d(0.1)
        self.conv_seg = nn.Conv2d(hidden, n_cls, 1)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.conv_seg(self.dropout(self.convs(x)))
        return scores


def _plain(channels: int, to: int, kernel: int) -> nn.Sequential:
    layer = nn.Sequential()
    layer.add_module("conv", nn.Conv2d(channels, to, kernel, padding=kernel // 2))
    return layer


def _enlarging(channels: int, hidden: int, doublings: int) -> nn.Sequential:
    """A convolution for every doubling, one where there is none."""
    layers: list[nn.Module] = [ConvNorm(channels, hidden, 3)]
    for index in range(doublings):
        if index > 0:
            layers.append(ConvNorm(hidden, hidden, 3))
        layers.append(nn.Upsample(scale_factor=2, mode="bilinear"))
    return nn.Sequential(*layers)


def _apply_each(layers: nn.ModuleList, maps: list[Tensor]) -> list[Tensor]:
    return [layer(one) for layer, one in zip(layers, maps, strict=True)]


def _add_down(maps: list[Tensor], mode: str) -> list[Tensor]:
    """Add to every map, from the coarsest on, what became of the next coarser one."""
    added = [maps[-1]]
    for finer in maps[-2::-1]:
        added.append(finer + resized_like(added[-1], finer, mode))
    return added[::-1]
