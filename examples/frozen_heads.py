"""Heads on a frozen DINOv2-S, each with it as a whole model that `load_model` takes.

    expedite sweep examples/frozen_heads.py:upernet --data CAMVID --ignore-index 11 \
        --alpha 3 --keep 0.5,0.25 --out OUT

`linear` and `mask_transformer` read the last block's tokens, `upernet` and `depth` those after
blocks 3, 6, 9 and 12. `train_heads.py` and `train_depth_head.py` write the heads' weights and
`python -m benchmarks.real_weights` the backbone's, all below `~/.cache/expedite-bench` or
$EXPEDITE_BENCH.
"""

import os
from pathlib import Path
from typing import Any

import timm
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DepthAnythingConfig, Dinov2Config
from transformers.models.depth_anything.modeling_depth_anything import (
    DepthAnythingDepthEstimationHead,
    DepthAnythingNeck,
)

from expedite.models.files import load_weights, read_state_dict
from expedite.models.pyramid_heads import UperNet
from expedite.models.segmenter import MaskTransformer, SegmenterConfig

ARCHITECTURE, PATCH, WIDTH = "vit_small_patch14_dinov2", 14, 384
TAPS = (3, 6, 9, 12)  # blocks that have run where tokens are taken
CLASSES = 11  # of CamVid
STREET, SCENE = (504, 672), (518, 518)  # what CamVid's frames are resized to; generated scenes
_FINE = 4  # scores a token has along each side: poles are thinner than tokens
_CACHE = Path(os.environ.get("EXPEDITE_BENCH", Path.home() / ".cache" / "expedite-bench"))


class Head(nn.Module):
    """Says something from normalised maps (B, C, h, w) of the blocks it reads.

    Heads for classes give scores (B, classes, 4 h, 4 w).
    """

    taps: tuple[int, ...] = TAPS[-1:]

    def forward(self, maps: list[Tensor]) -> Tensor:
        raise NotImplementedError

    def at_size(self, maps: list[Tensor], size: tuple[int, int]) -> Tensor:
        """What it says of every pixel of images of a size."""
        return F.interpolate(self(maps), size, mode="bilinear")


class Linear(Head):
    """Every token alone, to 4×4 scores of each class."""

    def __init__(self, width: int = WIDTH, classes: int = CLASSES) -> None:
        super().__init__()
        self.head = nn.Conv2d(width, classes * _FINE**2, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        return F.pixel_shuffle(self.head(maps[-1]), _FINE)


class Masks(Head):
    """Segmenter's decoder, with an embedding for each class in each of 4×4 parts of a token."""

    def __init__(
        self, width: int = WIDTH, classes: int = CLASSES, inner: int = 192, layers: int = 1
    ) -> None:
        super().__init__()
        config = SegmenterConfig(
            image_size=(PATCH, PATCH),
            patch_size=PATCH,
            d_model=inner,
            n_heads=inner // 64,
            n_layers=0,
            n_cls=classes * _FINE**2,
            decoder_layers=layers,
        )
        self.narrow = nn.Linear(width, inner)
        self.decoder = MaskTransformer(config)

    def forward(self, maps: list[Tensor]) -> Tensor:
        rows = maps[-1].shape[2]
        tokens = self.narrow(maps[-1].flatten(2).transpose(1, 2))
        scores = self.decoder(tokens).transpose(1, 2)
        return F.pixel_shuffle(scores.unflatten(2, (rows, -1)), _FINE)


class Pyramid(Head):
    """UperNet over the four maps, made 2, 1, 0.5 and 0.25 times as large; 2×2 scores a cell."""

    taps = TAPS

    def __init__(
        self, width: int = WIDTH, classes: int = CLASSES, inner: int = 96, hidden: int = 64
    ) -> None:
        super().__init__()
        self.resizing = nn.ModuleList(
            [
                nn.ConvTranspose2d(width, inner, 2, 2),
                *(nn.Conv2d(width, inner, side, side) for side in (1, 2, 4)),
            ]
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(inner) for _ in TAPS)
        self.decoder = UperNet(4 * classes, inner, hidden)

    def forward(self, maps: list[Tensor]) -> Tensor:
        layers = zip(self.norms, self.resizing, maps, strict=True)
        scores: Tensor = self.decoder([norm(resize(one)) for norm, resize, one in layers])
        return F.pixel_shuffle(scores, 2)


class DepthAnything(Head):
    """Depth Anything's neck and head: metres (B, 14 h, 14 w)."""

    taps = TAPS

    def __init__(self, width: int = WIDTH, inner: tuple[int, ...] = (48, 96, 192, 384)) -> None:
        super().__init__()
        config = DepthAnythingConfig(
            backbone_config=Dinov2Config(hidden_size=width),
            patch_size=PATCH,
            reassemble_hidden_size=width,
            neck_hidden_sizes=list(inner),
            fusion_hidden_size=64,
            depth_estimation_type="metric",
            max_depth=80,
        )
        make: tuple[Any, Any] = (DepthAnythingNeck, DepthAnythingDepthEstimationHead)
        self.neck, self.head = (part(config) for part in make)

    def forward(self, maps: list[Tensor]) -> Tensor:
        rows, columns = maps[-1].shape[2:]
        # The neck takes a class token off.
        states = [F.pad(one.flatten(2).transpose(1, 2), (0, 0, 1, 0)) for one in maps]
        depth: Tensor = self.head(self.neck(states, rows, columns), rows, columns)
        return depth

    def at_size(self, maps: list[Tensor], size: tuple[int, int]) -> Tensor:
        return F.interpolate(self(maps)[:, None], size, mode="bilinear")[:, 0]


class Reading(nn.Module):
    """What a head says of images (B, 3, H, W): scores (B, classes, H, W), or depth (B, H, W).

    Args:
        backbone: A plain ViT of timm's.
        head: What reads it.
        size: Height and width of images.
        task: What for.
    """

    def __init__(self, backbone: Any, head: Head, size: tuple[int, int], task: str) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.pretrained_cfg = {"input_size": (3, *size), "task": task}

    def forward(self, images: Tensor) -> Tensor:
        maps = maps_of(self.backbone, images, self.head.taps)
        return self.head.at_size(maps, (images.shape[2], images.shape[3]))


def maps_of(backbone: Any, images: Tensor, taps: tuple[int, ...]) -> list[Tensor]:
    """Normalised maps (B, C, h, w) after so many blocks each."""
    indices = [tap - 1 for tap in taps]
    maps: list[Tensor] = backbone.forward_intermediates(
        images, indices=indices, norm=True, intermediates_only=True
    )
    return maps


def head_file(name: str) -> Path:
    """Where a head's weights are kept."""
    return _CACHE / "heads" / f"{name}.safetensors"


# What gives classes.
HEADS: dict[str, type[Head]] = {"linear": Linear, "mask_transformer": Masks, "upernet": Pyramid}


def load_backbone(weights: Path = _CACHE / "dinov2-s" / "timm.safetensors") -> nn.Module:
    """The DINOv2-S of a file, for images whose sides are multiples of 14."""
    model: nn.Module = timm.create_model(ARCHITECTURE, dynamic_img_size=True, num_classes=0)
    load_weights(model, read_state_dict(weights), weights)
    return model.eval()


def _trained(name: str, head: Head) -> Head:
    """The head with its weights."""
    load_weights(head, read_state_dict(head_file(name)), head_file(name))
    return head.eval()


def _segmenter(name: str) -> Reading:
    return Reading(load_backbone(), _trained(name, HEADS[name]()), STREET, "segmentation")


def linear() -> Reading:
    """The linear head on DINOv2-S, trained on CamVid."""
    return _segmenter("linear")


def mask_transformer() -> Reading:
    """Segmenter's decoder on DINOv2-S, trained on CamVid."""
    return _segmenter("mask_transformer")


def upernet() -> Reading:
    """UperNet on DINOv2-S, trained on CamVid."""
    return _segmenter("upernet")


def depth() -> Reading:
    """Depth Anything's head on DINOv2-S, trained on generated scenes."""
    return Reading(load_backbone(), _trained("depth", DepthAnything()), SCENE, "depth")
