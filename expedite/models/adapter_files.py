"""The published files of ViT-Adapters: weights alone, whose shapes tell the architecture.

Source: czczup/ViT-Adapter, checkpoints of mmsegmentation 0.x and mmdetection 2.x. Files of models
that `save_adapter` wrote have a `variant.yml` beside them, which is believed instead.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import isqrt
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from expedite.errors import ExpediteError
from expedite.models.adapter_config import PATCH_SIZE, SIZES, AdapterConfig, for_meta
from expedite.models.adapter_segmenter import HEADS, AdapterSegmenter, Head
from expedite.models.files import load_weights, read_state_dict, read_yaml
from expedite.models.meta import META
from expedite.models.segmenter_files import Normalization
from expedite.models.vit_adapter import ViTAdapter

State = Mapping[str, Tensor]

_HEAD_WIDTH = 64  # of every published ViT's attention


@dataclass(frozen=True)
class Variant:
    """An architecture for segmentation, and what it is fed.

    Args:
        config: Of the backbone.
        head: Which one.
        n_cls: Classes.
        hidden: Channels inside an UperNet.
        meta: Whether the adapter is META's.
        normalization: Of images: "deit" as for ImageNet, "vit" from -1 to 1 as for AugReg's ViTs.
        crop: Side in pixels of images, and of sliding windows.
    """

    config: AdapterConfig
    head: Head = "upernet"
    n_cls: int = 150
    hidden: int = 512
    meta: bool = False
    normalization: Normalization = "deit"
    crop: int = 512

    def build(self) -> AdapterSegmenter:
        """The model with random weights."""
        backbone = (META if self.meta else ViTAdapter)(self.config)
        return AdapterSegmenter(backbone, self.config.width, self.n_cls, self.head, self.hidden)


def _published(config: AdapterConfig, head: Head) -> Variant:
    # ViTs whose positions are of 384 pixels are AugReg's.
    normalization: Normalization = "vit" if config.image_size == (384, 384) else "deit"
    if config.beit:
        return Variant(config, head, hidden=1024, crop=config.image_size[0])
    return Variant(config, head, normalization=normalization)


_META_SIZES = ("tiny", "small", "base", "large")
VARIANTS = {
    **{f"{size}-{head}": _published(SIZES[size], head) for size in SIZES for head in HEADS},
    **{
        f"meta-{size}-{head}": replace(_published(for_meta(SIZES[size]), head), meta=True)
        for size in _META_SIZES
        for head in HEADS
    },
}


def build_adapter(name: str, n_cls: int | None = None) -> tuple[AdapterSegmenter, Variant]:
    """A published architecture with random weights, for so many classes; 150 if None.

    Raises:
        ExpediteError: There is no such architecture.

    Example:
        >>> with torch.device("meta"):
        ...     model, variant = build_adapter("base-upernet")
        >>> variant.config.width
        768
    """
    if name not in VARIANTS:
        raise ExpediteError(f"the ViT-Adapter '{name}' was asked; there are {', '.join(VARIANTS)}")
    variant = replace(VARIANTS[name], n_cls=n_cls or VARIANTS[name].n_cls)
    return variant.build(), variant


def load_adapter(path: Path) -> tuple[AdapterSegmenter, Variant]:
    """Load a published file for segmentation, or one that `save_adapter` wrote, in eval mode.

    Raises:
        ExpediteError: It is missing, damaged, of another architecture, or does not fit it.
    """
    state = read_state_dict(path)
    beside = path.with_name("variant.yml")
    variant = _read_variant(beside) if beside.is_file() else variant_of(state, path)
    model = variant.build()
    load_weights(model, state, path)
    return model.eval(), variant


def save_adapter(model: AdapterSegmenter, variant: Variant, folder: Path) -> Path:
    """Write `checkpoint.pth` in the published layout and the `variant.yml` that says the rest."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "checkpoint.pth"
    torch.save({"state_dict": model.state_dict()}, path)
    content = asdict(variant)
    content["config"]["image_size"] = list(variant.config.image_size)
    (folder / "variant.yml").write_text(yaml.safe_dump(content))
    return path


def variant_of(state: State, path: Path) -> Variant:
    """The architecture that the names and shapes of a published state dict show.

    Raises:
        ExpediteError: It is not one for segmentation; `path` names it.
    """
    if "backbone.level_embed" not in state or "decode_head.conv_seg.weight" not in state:
        raise ExpediteError(
            f"{path} holds no ViT-Adapter under one of the heads {' and '.join(HEADS)}: it lacks "
            "backbone.level_embed or decode_head.conv_seg"
        )
    n_cls = len(state["decode_head.conv_seg.weight"])
    config, hidden = config_of(state, "backbone."), state.get("decode_head.bottleneck.conv.weight")
    if hidden is None:
        return replace(_published(config, "semantic-fpn"), n_cls=n_cls)
    return replace(_published(config, "upernet"), n_cls=n_cls, hidden=len(hidden))


def config_of(state: State, prefix: str) -> AdapterConfig:
    """The configuration of a ViT-Adapter for segmentation with 64 channels in every head.

    Args:
        state: A state dict in the published layout.
        prefix: Of the backbone's names.

    Raises:
        ExpediteError: It is no such model.

    Example:
        >>> with torch.device("meta"):
        ...     state = ViTAdapter(SIZES["tiny"]).state_dict()
        >>> config_of(state, "") == SIZES["tiny"]
        True
    """
    names = [name.removeprefix(prefix) for name in state if name.startswith(prefix)]
    width = state[f"{prefix}level_embed"].shape[1]
    injector, extractor = (f"interactions.0.{part}" for part in ("injector", "extractor"))
    ffn = f"{extractor}.ffn.fc1.weight"
    has_ffn = ffn in names
    last = _count(names, "interactions.") - 1
    points = 3 * 4 * 2  # on three maps four places of two coordinates
    try:
        return AdapterConfig(
            width=width,
            heads=width // _HEAD_WIDTH,
            layers=_count(names, "blocks."),
            adapter_heads=len(state[f"{prefix}{injector}.attn.sampling_offsets.bias"]) // points,
            value_ratio=len(state[f"{prefix}{injector}.attn.value_proj.bias"]) / width,
            image_size=_image_size(state, prefix),
            planes=len(state[f"{prefix}spm.stem.0.weight"]),
            interactions=1 + last,
            ffn_ratio=len(state[prefix + ffn]) / width if has_ffn else None,
            extra_extractors=_count(names, f"interactions.{last}.extra_extractors."),
            vit_features="each" if last == 3 else "none",
            beit="cls_token" in names,
        )
    except KeyError as error:
        raise ExpediteError(
            f"a ViT-Adapter was asked from a state dict without {error}; those of "
            "czczup/ViT-Adapter have it"
        ) from error


def _count(names: list[str], prefix: str) -> int:
    """How many modules of a list there are."""
    rest = (name.removeprefix(prefix) for name in names if name.startswith(prefix))
    return len({name.partition(".")[0] for name in rest})


def _image_size(state: State, prefix: str) -> tuple[int, int]:
    """Of square images: from the rows of stored positions, or of BEiT's first table of biases."""
    positions = state.get(f"{prefix}pos_embed")
    if positions is not None:
        side = isqrt(positions.shape[1] - 1)
    else:
        rows = len(state[f"{prefix}blocks.0.attn.relative_position_bias_table"])
        side = (isqrt(rows - 3) + 1) // 2
    return side * PATCH_SIZE, side * PATCH_SIZE


def _read_variant(path: Path) -> Variant:
    content: dict[str, Any] = read_yaml(path)
    try:
        config = content.pop("config")
        config = AdapterConfig(**{**config, "image_size": tuple(config["image_size"])})
        return Variant(config, **content)
    except (KeyError, TypeError, AttributeError) as error:
        raise ExpediteError(f"{path} does not describe a ViT-Adapter: {error}") from error
