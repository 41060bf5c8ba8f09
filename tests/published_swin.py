"""Swins laid out as they were published, outside of any package, for tests.

Names of parts, what calls are given and what goes along with tokens are those of Microsoft's
classifiers and of the backbones of Mask2Former, OneFormer and DINO; the arithmetic is written for
tests, which compare it with timm's and that of transformers for the same weights.
"""

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from torch import Tensor, nn

from expedite.operators.windows import as_map, partition, unpartition
from tests.hosts import randomized

Size = tuple[int, int]


def offsets(side: int) -> Tensor:
    """From every place in a window to every other, (side², side², 2)."""
    ranges = torch.arange(side), torch.arange(side)
    places = torch.stack(torch.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 2)
    return places[:, None] - places


def mask_of_shift(size: Size, side: int, shift: int) -> Tensor:
    """(windows, side², side²): -100 between tokens that only the shift has brought together."""
    region = torch.zeros(1, *(-(-length // side) * side for length in size), 1)
    region[:, -side:-shift] += 1
    region[:, -shift:] += 2
    region[:, :, -side:-shift] += 3
    region[:, :, -shift:] += 6
    windows = partition(region, (side, side)).flatten(1)
    return -100.0 * (windows[:, None] != windows[:, :, None])


class Attention(nn.Module):
    """Swin's, in windows (B·n, side², C)."""

    def __init__(self, width: int, side: int, heads: int, drop: float = 0.0, **others: Any) -> None:
        super().__init__()
        self.window_size, self.num_heads = (side, side), heads
        self.scale = others.get("qk_scale") or (width // heads) ** -0.5
        index = offsets(side) + side - 1
        index = index[..., 0] * (2 * side - 1) + index[..., 1]
        self.register_buffer("relative_position_index", index)
        self.add_positions(width, side, heads, others.get("pretrained", 0))
        self.qkv = nn.Linear(width, 3 * width, bias=not hasattr(self, "logit_scale"))
        self.attn_drop, self.proj_drop = nn.Dropout(drop), nn.Dropout(drop)
        self.proj = nn.Linear(width, width)
        self.softmax = nn.Softmax(-1)

    def add_positions(self, width: int, side: int, heads: int, pretrained: int) -> None:
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * side - 1) ** 2, heads))

    def bias(self) -> Tensor:
        return self.spread(self.relative_position_bias_table)

    def spread(self, table: Tensor) -> Tensor:
        """One for every two places of a window, (heads, side², side²)."""
        return table[self.get_buffer("relative_position_index")].permute(2, 0, 1)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        scores: Tensor = self.scale * q @ k.mT
        return scores + self.bias()

    def projections(self, x: Tensor) -> Tensor:
        projected: Tensor = self.qkv(x)
        return projected

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        parts = self.projections(x).reshape(*x.shape[:2], 3, self.num_heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        scores = self.scores(q, k)
        if mask is not None:
            scores = scores + mask.repeat(x.shape[0] // mask.shape[0], 1, 1)[:, None]
        y = self.attn_drop(self.softmax(scores)) @ v
        output: Tensor = self.proj_drop(self.proj(y.transpose(1, 2).reshape(x.shape)))
        return output


class CosineAttention(Attention):
    """SwinV2's."""

    def add_positions(self, width: int, side: int, heads: int, pretrained: int) -> None:
        self.pretrained_window_size = (pretrained, pretrained)
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), 10.0).log())
        self.cpb_mlp = nn.Sequential(
            nn.Linear(2, 512), nn.ReLU(inplace=True), nn.Linear(512, heads, bias=False)
        )
        steps = torch.arange(1 - side, side) * 8 / ((pretrained or side) - 1)
        steps = steps.sign() * (steps.abs() + 1).log2() / 3
        table = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1)[None]
        self.register_buffer("relative_coords_table", table)
        self.q_bias, self.v_bias = (
            nn.Parameter(torch.zeros(width)),
            nn.Parameter(torch.zeros(width)),
        )

    def bias(self) -> Tensor:
        table = self.cpb_mlp(self.get_buffer("relative_coords_table")).flatten(0, 2)
        return 16 * self.spread(table).sigmoid()

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        scale = self.logit_scale.clamp(max=torch.tensor(100.0).log()).exp()
        cosines: Tensor = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT
        return cosines * scale + self.bias()

    def projections(self, x: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        return F.linear(x, self.qkv.weight, bias)


class Block(nn.Module):
    """Attention in shifted windows of a map, then an MLP; norms stand before either, or behind."""

    def __init__(
        self, width: int, heads: int, side: int, shift: int, kind: type[Attention], **more: Any
    ) -> None:
        super().__init__()
        self.window_size, self.shift_size = side, shift
        self.norms_last = kind is CosineAttention
        self.norm1 = nn.LayerNorm(width)
        self.attn = kind(width, side, heads, **more)
        self.drop_path = DropPath(more["drop_path"]) if more.get("drop_path") else nn.Identity()
        self.norm2 = nn.LayerNorm(width)
        layers = {"fc1": nn.Linear(width, 4 * width), "act": nn.GELU()}
        layers |= {"fc2": nn.Linear(4 * width, width), "drop": nn.Dropout(more.get("drop", 0.0))}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def run(self, x: Tensor, size: Size, mask: Tensor | None) -> Tensor:
        (height, width), side, shift = size, self.window_size, self.shift_size
        padding = -height % side, -width % side
        y = x if self.norms_last else self.norm1(x)
        y = F.pad(as_map(y, size), (0, 0, 0, padding[1], 0, padding[0]))
        if shift:
            y = y.roll((-shift, -shift), (1, 2))
        windows = partition(y, (side, side)).flatten(1, 2)
        windows = self.attn(windows, mask=mask if shift else None)
        count = (height + padding[0]) // side, (width + padding[1]) // side
        y = unpartition(as_map(windows, (side, side)), count)
        if shift:
            y = y.roll((shift, shift), (1, 2))
        y = y[:, :height, :width].flatten(1, 2)
        x = x + self.drop_path(self.norm1(y) if self.norms_last else y)
        y = self.norm2(self.mlp(x)) if self.norms_last else self.mlp(self.norm2(x))
        output: Tensor = x + self.drop_path(y)
        return output


class ClassifierBlock(Block):
    """Knows its map, and holds its mask."""

    def __init__(self, size: Size, width: int, heads: int, side: int, shift: int, **more: Any):
        if min(size) <= side:
            side, shift = min(size), 0
        super().__init__(width, heads, side, shift, **more)
        self.input_resolution = size
        self.register_buffer("attn_mask", mask_of_shift(size, side, shift) if shift else None)

    def forward(self, x: Tensor) -> Tensor:
        mask: Any = self.attn_mask
        return self.run(x, self.input_resolution, mask)


class BackboneBlock(Block):
    """Is told its map by its stage, and handed the mask."""

    def __init__(self, *sizes: Any, **more: Any) -> None:
        super().__init__(*sizes, **more)
        self.H: Any = None
        self.W: Any = None

    def forward(self, x: Tensor, mask_matrix: Tensor) -> Tensor:
        return self.run(x, (self.H, self.W), mask_matrix)


class Merging(nn.Module):
    """Four tokens become one of twice the width."""

    def __init__(self, width: int, norm_last: bool = False) -> None:
        super().__init__()
        self.norm_last = norm_last
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm((2 if norm_last else 4) * width)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = F.pad(as_map(x, (height, width)), (0, 0, 0, width % 2, 0, height % 2))
        four = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        x = torch.cat(four, -1).flatten(1, 2)
        output: Tensor = (
            self.norm(self.reduction(x)) if self.norm_last else self.reduction(self.norm(x))
        )
        return output


class ClassifierStage(nn.Module):
    def __init__(self, size: Size, is_last: bool, *block: Any, depth: int, **more: Any) -> None:
        super().__init__()
        self.input_resolution = size
        width, heads, side = block
        self.blocks = nn.ModuleList(
            ClassifierBlock(size, width, heads, side, number % 2 * (side // 2), **more)
            for number in range(depth)
        )
        norm_last = more["kind"] is CosineAttention
        self.downsample = None if is_last else Merging(width, norm_last)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x, *self.input_resolution)


class BackboneStage(nn.Module):
    def __init__(self, merges: bool, *block: Any, depth: int, **more: Any) -> None:
        super().__init__()
        width, heads, side = block
        self.window_size, self.shift_size = side, side // 2
        self.blocks: Any = nn.ModuleList(
            BackboneBlock(width, heads, side, number % 2 * (side // 2), **more)
            for number in range(depth)
        )
        self.downsample = Merging(width) if merges else None

    def forward(self, x: Tensor, height: int, width: int) -> tuple[Any, ...]:
        mask = mask_of_shift((height, width), self.window_size, self.shift_size).to(x)
        for block in self.blocks:
            block.H, block.W = height, width
            x = block(x, mask)
        if self.downsample is None:
            return x, height, width, x, height, width
        halved = self.downsample(x, height, width)
        return x, height, width, halved, (height + 1) // 2, (width + 1) // 2


class Embedding(nn.Module):
    def __init__(self, patch: int, width: int, size: int | None = None) -> None:
        super().__init__()
        self.patch_size = patch, patch
        if size is not None:
            self.patches_resolution = [size // patch, size // patch]
        self.proj = nn.Conv2d(3, width, patch, stride=patch)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "patches_resolution"):
            tokens: Tensor = self.norm(self.proj(x).flatten(2).mT)
            return tokens
        patch = self.patch_size[0]
        x = self.proj(F.pad(x, (0, -x.shape[3] % patch, 0, -x.shape[2] % patch)))
        tokens = self.norm(x.movedim(1, -1))
        return tokens.movedim(-1, 1)


class Classifier(nn.Module):
    """Microsoft's `SwinTransformer`, and `SwinTransformerV2` with `CosineAttention`."""

    def __init__(
        self,
        img_size: int = 32,
        patch_size: int = 2,
        embed_dim: int = 32,
        depths: Any = (4, 2),
        num_heads: Any = (2, 4),
        window_size: int = 8,
        num_classes: int = 10,
        kind: type[Attention] = Attention,
        **more: Any,
    ) -> None:
        super().__init__()
        self.patch_embed = Embedding(patch_size, embed_dim, img_size)
        self.pos_drop = nn.Dropout(0.0)
        side, last = img_size // patch_size, len(depths) - 1
        self.layers = nn.ModuleList(
            ClassifierStage(
                (side >> number, side >> number),
                number == last,
                embed_dim << number,
                heads,
                window_size,
                depth=depth,
                kind=kind,
                **more,
            )
            for number, (depth, heads) in enumerate(zip(depths, num_heads, strict=True))
        )
        self.norm = nn.LayerNorm(embed_dim << last)
        self.avgpool = nn.AdaptiveAvgPool1d(1)
        self.head = nn.Linear(embed_dim << last, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.pos_drop(self.patch_embed(x))
        for layer in self.layers:
            x = layer(x)
        pooled: Tensor = self.avgpool(self.norm(x).mT)
        return pooled.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.forward_features(x))
        return scores


class Backbone(nn.Module):
    """detectron2's `D2SwinTransformer` and its like: a map of each stage, normed."""

    def __init__(
        self,
        patch_size: int = 2,
        embed_dim: int = 32,
        depths: Any = (4, 2),
        num_heads: Any = (2, 4),
        window_size: int = 8,
        dilation: bool = False,
        **more: Any,
    ) -> None:
        super().__init__()
        self.pretrain_img_size = 32
        self.patch_embed = Embedding(patch_size, embed_dim)
        self.pos_drop = nn.Dropout(0.0)
        last = len(depths) - 1
        self.num_features = [embed_dim << number for number in range(len(depths))]
        if dilation:
            self.num_features[-1] //= 2
        more["kind"] = Attention
        stages = zip(self.num_features, num_heads, depths, strict=True)
        self.layers = nn.ModuleList(
            BackboneStage(number < last - dilation, width, heads, window_size, depth=depth, **more)
            for number, (width, heads, depth) in enumerate(stages)
        )
        for number, width in enumerate(self.num_features):
            self.add_module(f"norm{number}", nn.LayerNorm(width))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.patch_embed(x)
        height, width = x.shape[2:]
        x = self.pos_drop(x.flatten(2).mT)
        maps = {}
        for number, layer in enumerate(self.layers):
            output, rows, columns, x, height, width = layer(x, height, width)
            normed = self.get_submodule(f"norm{number}")(output)
            maps[f"res{number + 2}"] = normed.mT.unflatten(2, (rows, columns))
        return maps


class LastMap(nn.Module):
    """The last of a backbone's maps (B, C, H, W)."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        last: Tensor = list(self.backbone(images).values())[-1]
        return last


def published_swin(**changes: Any) -> Classifier:
    """Four blocks of width 32 on 16×16 tokens of 2 pixels and two on 8×8, with windows of 8×8."""
    torch.manual_seed(0)
    return randomized(Classifier(**changes))


def published_swinv2(**changes: Any) -> Classifier:
    """Four blocks of width 32 on 16×16 tokens of 2 pixels and two on 8×8, with windows of 8×8."""
    return published_swin(kind=CosineAttention, **changes)


def published_backbone(any_size: bool = True, **changes: Any) -> LastMap:
    """Four blocks of width 32 on 16×16 tokens of 2 pixels and two on 8×8, with windows of 8×8."""
    torch.manual_seed(0)
    return randomized(LastMap(Backbone(**changes)))
