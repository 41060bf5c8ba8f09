"""One file a model family, and the mechanism by which all are patched."""

from collections.abc import Callable, Iterator

from torch import nn

from expedite.patchers import (
    dpt,
    huggingface_swin,
    huggingface_vit,
    published_swin,
    sam,
    segmenter,
    timm_swin,
    timm_vit,
    torchvision_swin,
    torchvision_vit,
    vit_adapter,
)
from expedite.patchers.host import Host

FAMILIES: tuple[Callable[[nn.Module], Host | None], ...] = (
    segmenter.find_host,
    dpt.find_host,
    vit_adapter.find_host,
    timm_vit.find_host,
    torchvision_vit.find_host,
    huggingface_vit.find_host,
    sam.find_host,
    timm_swin.find_host,
    torchvision_swin.find_host,
    huggingface_swin.find_host,
    published_swin.find_host,
)
FAMILY_NAMES = (
    "Segmenter, DPT, ViT-Adapter and META (expedite.models)",
    "timm VisionTransformer, Eva and Beit",
    "torchvision VisionTransformer",
    "transformers ViT, DeiT, DINOv2, DINOv3, DPT and BEiT",
    "Swin and SwinV2 (timm, torchvision, transformers, and as published)",
    "Segment Anything's image encoder (segment_anything, timm, transformers)",
)


def find_hosts(model: nn.Module) -> Iterator[tuple[str, Host]]:
    """Every host inside `model` (in itself, in DDP, in a compiled wrapper), with its path."""
    claimed: list[str] = []
    for path, module in model.named_modules():
        if any(path.startswith(owner) for owner in claimed):
            continue
        for find in FAMILIES:
            if host := find(module):
                claimed.append(f"{path}." if path else "")
                yield path, host
                break
