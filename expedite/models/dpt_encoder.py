"""The encoder of DPT: a ViT, on patches of pixels or behind a ResNet, read at four depths."""

import torch
import torch.nn.functional as F
from timm.layers.padding import pad_same
from timm.layers.std_conv import StdConv2dSame
from timm.models.resnetv2 import ResNetV2
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from expedite.models.vit import Block, resize_positions

PATCH_SIZE = 16


class Encoder(nn.Module):
    """Images (B, 3, H, W) to four maps, at a 4th, 8th, 16th and 32nd of their size.

    Arguments are those of `dpt.DPTConfig`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        layers: int,
        taps: tuple[int, ...],
        features: tuple[int, int, int, int],
        image_size: tuple[int, int],
        stages: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.model = VisionTransformer(width, heads, layers, taps, image_size, stages)
        resizes = _resizes(features)
        for index in range(4 - len(taps), 4):
            part = Reassemble(width, features[index], resizes[index])
            self.add_module(f"act_postprocess{index + 1}", part)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps, taps, grid = self.model(images)
        for index, tokens in enumerate(taps, start=5 - len(taps)):
            maps = [*maps, self.get_submodule(f"act_postprocess{index}")(tokens, grid)]
        four: list[Tensor] = maps
        return four


class VisionTransformer(nn.Module):
    """Images (B, 3, H, W) to what is read of them on the way.

    Returns:
        A hybrid's first two maps, the tokens (B, 1 + N, D) of every tap, and their grid.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        layers: int,
        taps: tuple[int, ...],
        image_size: tuple[int, int],
        stages: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.taps = taps
        self.grid = image_size[0] // PATCH_SIZE, image_size[1] // PATCH_SIZE
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid[0] * self.grid[1], width))
        self.patch_embed = Embedding(width, stages)
        self.blocks = nn.ModuleList(Block(width, heads, norm_eps=1e-6) for _ in range(layers))
        # Nothing reads the last norm and the ImageNet classifier, but published files have them.
        self.norm = nn.LayerNorm(width, 1e-6)
        self.head = nn.Linear(width, 1000)
        trunc_normal_(self.cls_token, std=0.02)
        trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], tuple[int, int]]:
        maps, patches = self.patch_embed(images)
        grid = (patches.shape[-2], patches.shape[-1])
        first = self.cls_token.expand(images.shape[0], -1, -1)
        tokens = torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1)
        tokens = tokens + resize_positions(self.pos_embed, self.grid, grid)
        taps = []
        for index, block in enumerate(self.blocks):
            tokens = block(tokens)  # (B, 1 + N, D)
            if index in self.taps:
                taps.append(tokens)
        return maps, taps, grid


class Embedding(nn.Module):
    """Images (B, 3, H, W) to a ResNet's first two maps, where there is one, and a map of patches.

    The last has shape (B, D, H / 16, W / 16).
    """

    def __init__(self, width: int, stages: tuple[int, ...]) -> None:
        super().__init__()
        if stages:
            self.backbone = ResNet(stages)
            self.proj = nn.Conv2d(self.backbone.num_features, width, 1)
        else:
            self.proj = nn.Conv2d(3, width, PATCH_SIZE, stride=PATCH_SIZE)
        self.hybrid = bool(stages)

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        if not self.hybrid:
            return [], self.proj(images)
        maps = self.backbone.stage_maps(images)
        return maps[:2], self.proj(maps[-1])


class ResNet(ResNetV2):
    """timm's ResNet of BiT, with the weight standardisation that DPT was trained with."""

    def __init__(self, layers: tuple[int, ...]) -> None:
        super().__init__(
            list(layers),
            num_classes=0,
            global_pool="",
            preact=False,
            stem_type="same",
            conv_layer=StandardizedConv2d,
        )

    def stage_maps(self, images: Tensor) -> list[Tensor]:
        """The output of every stage: a 4th, 8th, 16th of the images' size and so on."""
        x = self.stem(images)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class StandardizedConv2d(StdConv2dSame):
    """Divides by the deviation plus ε, as timm did then; today's divides by √(variance + ε)."""

    def forward(self, x: Tensor) -> Tensor:
        deviation, mean = torch.std_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) / (deviation + 1e-5)
        if self.same_pad:
            x = pad_same(x, list(self.kernel_size), list(self.stride), list(self.dilation))
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation)


class Reassemble(nn.ModuleDict):
    """Tokens (B, 1 + N, D) and their grid to a map; named by places in the published sequence."""

    def __init__(self, width: int, channels: int, resize: nn.Module | None) -> None:
        super().__init__({"0": Readout(width), "3": nn.Conv2d(width, channels, 1)})
        if resize is not None:
            self["4"] = resize

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        x = self["0"](tokens).transpose(1, 2).unflatten(2, grid)  # (B, D, H, W)
        x = self["3"](x)
        out: Tensor = self["4"](x) if "4" in self else x
        return out


class Readout(nn.Module):
    """Lets every token know the class token: (B, 1 + N, D) to (B, N, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(2 * width, width), nn.GELU())

    def forward(self, tokens: Tensor) -> Tensor:
        body = tokens[:, 1:]
        out: Tensor = self.project(torch.cat([body, tokens[:, :1].expand_as(body)], dim=-1))
        return out


def _resizes(features: tuple[int, int, int, int]) -> list[nn.Module | None]:
    """From a 16th of the image's size to that of each map."""
    finest, fine, _, coarsest = features
    return [
        nn.ConvTranspose2d(finest, finest, 4, stride=4),
        nn.ConvTranspose2d(fine, fine, 2, stride=2),
        None,
        nn.Conv2d(coarsest, coarsest, 3, stride=2, padding=1),
    ]
