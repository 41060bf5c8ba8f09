"""DPT (Ranftl et al., ICCV 2021): depth or classes from four depths of a ViT.

The modules only, under the names of the published weights (isl-org/DPT); the encoder is
`dpt_encoder`, reading the published files is `dpt_files`.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.models.dpt_encoder import Encoder

# The maps that are fused shrink from a quarter to a 32nd of the image, by halves.
_COARSEST = 32


@dataclass(frozen=True)
class DPTConfig:
    """An architecture, and how what it puts out becomes depth.

    Args:
        width: Of the tokens.
        heads: Of each block.
        layers: Blocks.
        taps: Indices of the blocks whose outputs are read, rising: four, or two behind a ResNet.
        features: Channels of the four maps made of them, finest first; a ResNet's first two have
            256 and 512.
        image_size: (height, width) in pixels at which the position embedding is stored.
        stages: Layers in the three stages of the ResNet before a hybrid's blocks, which the first
            two maps come from; none for patches of pixels.
        fused: Channels while maps are fused.
        n_cls: Classes; None for depth.
        scale: Depth is 1 / (scale · output + shift) in metres; None leaves relative inverse depth.
        shift: See `scale`.

    Raises:
        ExpediteError: Taps or stages that there are not, or sizes that are none.
    """

    width: int
    heads: int
    layers: int
    taps: tuple[int, ...]
    features: tuple[int, int, int, int]
    image_size: tuple[int, int] = (384, 384)
    stages: tuple[int, ...] = ()
    fused: int = 256
    n_cls: int | None = None
    scale: float | None = None
    shift: float = 0.0

    def __post_init__(self) -> None:
        self._check_types()
        due = 2 if self.stages else 4
        rising = all(first < second for first, second in pairwise(self.taps))
        if len(self.taps) != due or not rising or self.taps[-1] >= self.layers:
            raise ExpediteError(
                f"taps at the blocks {self.taps} were asked of {self.layers}; {due} from 0 to "
                f"{self.layers - 1} are due, in rising order"
            )
        if self.stages and (len(self.stages) != 3 or self.features[:2] != (256, 512)):
            raise ExpediteError(
                f"a ResNet of {len(self.stages)} stages with maps of {self.features[:2]} channels "
                "was asked; DPT's has three, and maps of 256 and 512"
            )
        if self.width % self.heads:
            raise ExpediteError(
                f"a width of {self.width} was asked for {self.heads} heads; a multiple is due"
            )

    def _check_types(self) -> None:
        classes = () if self.n_cls is None else ("n_cls",)
        for name in ("width", "heads", "layers", "fused", *classes):
            check_integers(name, (getattr(self, name),), 1)
        check_integers("features", self.features, 4)
        check_integers("image_size", self.image_size, 2)
        check_integers("stages", self.stages)
        check_integers("taps", self.taps, least=0)
        for name in ("scale", "shift"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, (int, float)):
                raise ExpediteError(f"{name}={value!r} was asked of a DPT; a number is due")


def check_integers(name: str, values: Any, count: int | None = None, least: int = 1) -> None:
    """Refuse what is not a tuple of integers from `least` on, `count` of them if that is given."""
    fit = isinstance(values, tuple) and count in (None, len(values))
    if not fit or not all(type(value) is int and value >= least for value in values):
        due = "integers" if count is None else f"{count} integer{'s' * (count > 1)}"
        raise ExpediteError(
            f"{name}={values!r} was asked of a DPT; {due} from {least} on must be given"
        )


class DPT(nn.Module):
    """Depth (B, H, W) or class scores (B, n_cls, H, W) of images whose sides are multiples of 32.

    Depth is in metres where the configuration has a scale, relative inverse depth elsewhere.

    Example:
        >>> import torch
        >>> config = DPTConfig(64, 1, 4, (0, 1, 2, 3), (8, 16, 32, 32), (64, 64), fused=16)
        >>> DPT(config).eval()(torch.zeros(1, 3, 64, 96)).shape
        torch.Size([1, 64, 96])
    """

    def __init__(self, config: DPTConfig) -> None:
        super().__init__()
        self.config = config
        self.pretrained = Encoder(
            config.width,
            config.heads,
            config.layers,
            config.taps,
            config.features,
            config.image_size,
            config.stages,
        )
        batch_norm = config.n_cls is not None
        self.scratch = Fusion(config.features, config.fused, batch_norm)
        if config.n_cls is None:
            self.scratch.output_conv = _depth_head(config.fused)
        else:
            self.scratch.output_conv = _class_head(config.fused, config.n_cls, upsample=True)
            # For training alone, but stored in the published files.
            self.auxlayer = _class_head(config.fused, config.n_cls, upsample=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to depth or class scores at their size."""
        height, width = images.shape[-2:]
        if height % _COARSEST or width % _COARSEST:
            raise ExpediteError(
                f"DPT was asked to run on images of {height}×{width}; both sides must be multiples "
                f"of {_COARSEST}"
            )
        output: Tensor = self.scratch.output_conv(self.scratch(self.pretrained(images)))
        if self.config.n_cls is not None:
            return output
        return self._to_depth(output.squeeze(1))

    def _to_depth(self, output: Tensor) -> Tensor:
        if self.config.scale is None:
            return output
        # As published: nothing is farther than 10^8 metres, and nothing behind the camera.
        inverse = (self.config.scale * output + self.config.shift).clamp_min(1e-8)
        return 1 / inverse


class Fusion(nn.Module):
    """Four maps, finest first, to one of `fused` channels at twice the finest's size."""

    output_conv: nn.Sequential  # the head, which the published weights keep here

    def __init__(self, features: tuple[int, ...], fused: int, batch_norm: bool) -> None:
        super().__init__()
        for index, channels in enumerate(features, start=1):
            conv = nn.Conv2d(channels, fused, 3, padding=1, bias=False)
            self.add_module(f"layer{index}_rn", conv)
            self.add_module(f"refinenet{index}", FusionBlock(fused, batch_norm))

    def forward(self, maps: list[Tensor]) -> Tensor:
        path: Tensor | None = None
        for index in range(len(maps), 0, -1):
            projected = self.get_submodule(f"layer{index}_rn")(maps[index - 1])
            path = self.get_submodule(f"refinenet{index}")(projected, path)
        assert path is not None  # there are maps
        return path


class FusionBlock(nn.Module):
    """Adds a map to what came from the coarser ones, and doubles its size."""

    def __init__(self, channels: int, batch_norm: bool) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(channels, channels, 1)
        self.resConfUnit1 = ResidualUnit(channels, batch_norm)  # the coarsest has one and no use
        self.resConfUnit2 = ResidualUnit(channels, batch_norm)

    def forward(self, x: Tensor, coarser: Tensor | None) -> Tensor:
        if coarser is not None:
            x = coarser + self.resConfUnit1(x)
        x = F.interpolate(self.resConfUnit2(x), scale_factor=2, mode="bilinear", align_corners=True)
        out: Tensor = self.out_conv(x)
        return out


class ResidualUnit(nn.Module):
    """Two convolutions, each after a ReLU, around which the map is carried."""

    def __init__(self, channels: int, batch_norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=not batch_norm)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=not batch_norm)
        if batch_norm:
            self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.batch_norm = batch_norm

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(x))
        y = self.bn1(y) if self.batch_norm else y
        y = self.conv2(F.relu(y))
        out: Tensor = x + (self.bn2(y) if self.batch_norm else y)
        return out


def _depth_head(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels // 2, 3, padding=1),
        nn.UpsamplingBilinear2d(scale_factor=2),
        nn.Conv2d(channels // 2, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 1, 1),
        nn.ReLU(),
    )


def _class_head(channels: int, n_cls: int, upsample: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Conv2d(channels, n_cls, 1),
        *([nn.UpsamplingBilinear2d(scale_factor=2)] if upsample else []),
    )
