"""The published files of ViT-Adapters: weights alone, whose shapes tell the architecture.

Source: czczup/ViT-Adapter, checkpoints of mmsegmentation 0.x and mmdetection 2.x. Files of models
that `save_adapter` wrote have a `variant.yml` beside them, which is believed instead.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from math import isqrt
from pathlib import Path
from typing import Any, get_args

import yaml
from torch import Tensor

from expedite.errors import ExpediteError
from expedite.models.adapter_config import PATCH_SIZE, SIZES, AdapterConfig, for_meta
from expedite.models.adapter_segmenter import HEADS, HIDDEN, AdapterSegmenter, Head
from expedite.models.descriptions import describing, read_yaml, refuse_too_many
from expedite.models.files import (
    count_modules,
    filled,
    read_state_dict,
    write_checkpoint,
)
from expedite.models.meta import META
from expedite.models.query_head import QuerySizes, sizes_of, translate
from expedite.models.segmenter_files import Normalization
from expedite.models.vit_adapter import ViTAdapter

State = Mapping[str, Tensor]

_TABLE = "blocks.{}.attn.relative_position_bias_table"
_HEAD_WIDTH = 64  # of every published ViT's attention
# The weights whose rows are the channels inside a head.
_INSIDE: dict[Head, str] = {
    "semantic-fpn": "neck.lateral_convs.0.conv.weight",
    "upernet": "decode_head.bottleneck.conv.weight",
    "mask2former": "decode_head.mask_embed.0.bias",
}


@dataclass(frozen=True)
class Variant:
    """An architecture for segmentation, and what it is fed.

    Args:
        config: Of the backbone.
        head: Which one.
        n_cls: Classes.
        hidden: Channels inside the head; see `AdapterSegmenter`.
        queries: How large a Mask2Former's head is otherwise; None for other heads.
        meta: Whether the adapter is META's.
        normalization: Of images: "deit" as for ImageNet, "vit" from -1 to 1 as for AugReg's ViTs.
        crop: Side in pixels of images, and of sliding windows.
        dataset: Whose classes they are by its published name; "" where that is not known.
    """

    config: AdapterConfig
    head: Head = "upernet"
    n_cls: int = 150
    hidden: int | None = None
    queries: QuerySizes | None = None
    meta: bool = False
    normalization: Normalization = "deit"
    crop: int = 512
    dataset: str = ""

    def build(self) -> AdapterSegmenter:
        """The model with random weights."""
        backbone = (META if self.meta else ViTAdapter)(self.config)
        width = self.config.width
        return AdapterSegmenter(backbone, width, self.n_cls, self.head, self.hidden, self.queries)


def _published(config: AdapterConfig, head: Head) -> Variant:
    # ViTs whose positions are of 384 pixels are AugReg's.
    normalization: Normalization = "vit" if config.image_size == (384, 384) else "deit"
    queries = QuerySizes() if head == "mask2former" else None
    plain = Variant(config, head, 150, HIDDEN[head], queries, normalization=normalization)
    if not config.beit:
        return plain
    return replace(plain, crop=config.image_size[0], **_ON_BEIT.get(head, {}))


# What is larger in the published heads on BEiT-L.
_ON_BEIT: dict[Head, dict[str, Any]] = {
    "upernet": {"hidden": 1024},
    "mask2former": {
        "hidden": 1024,
        "queries": QuerySizes(heads=32, pixel_hidden=4096, layer_hidden=4096),
    },
}
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
        >>> import torch
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
    with describing(beside if beside.is_file() else path, "ViT-Adapter"):
        refuse_too_many(variant.config.layers, state, beside)
        model = filled(variant.build, translate(state, "decode_head."), path)
    return model.eval(), variant


def save_adapter(model: AdapterSegmenter, variant: Variant, folder: Path) -> Path:
    """Write `checkpoint.pth` in the published layout and the `variant.yml` that says the rest."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "checkpoint.pth"
    write_checkpoint({"state_dict": model.state_dict()}, path)
    content = asdict(variant)
    content["config"]["image_size"] = list(variant.config.image_size)
    (folder / "variant.yml").write_text(yaml.safe_dump(content))
    return path


def variant_of(state: State, path: Path) -> Variant:
    """The architecture that the names and shapes of a published state dict show.

    Raises:
        ExpediteError: It is not one for segmentation; `path` names it.
    """
    head = next((head for head, name in _INSIDE.items() if name in state), None)
    scores = "decode_head." + ("cls_embed.bias" if head == "mask2former" else "conv_seg.bias")
    if head is None or not {"backbone.level_embed", scores} <= state.keys():
        raise ExpediteError(
            f"{path} holds no ViT-Adapter under one of the heads {', '.join(HEADS)}: it lacks "
            f"backbone.level_embed, {scores} or {' and '.join(_INSIDE.values())}"
        )
    variant = _published(config_of(state, "backbone."), head)
    variant = replace(variant, n_cls=len(state[scores]), hidden=len(state[_INSIDE[head]]))
    if head != "mask2former":
        return variant
    with _names_due():  # the last class is for no object
        return replace(variant, n_cls=variant.n_cls - 1, queries=sizes_of(state, "decode_head."))


@contextmanager
def _names_due() -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise ExpediteError(
            f"a ViT-Adapter was asked from a state dict without {error}; those of "
            "czczup/ViT-Adapter have it"
        ) from error


def config_of(state: State, prefix: str) -> AdapterConfig:
    """The configuration of a ViT-Adapter with 64 channels in every head of its ViT.

    For segmentation, or for detection with BEiT, whose tables of biases tell the windows. Windows
    without biases leave no trace: see `for_detection`. Nor does what is added to the pyramid: of
    BEiT's for detection, it is the last tokens, which the oldest were trained without.

    Args:
        state: A state dict in the published layout.
        prefix: Of the backbone's names.

    Raises:
        ExpediteError: It is no such model.

    Example:
        >>> import torch
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
    last = count_modules(names, "interactions.") - 1
    points = 3 * 4 * 2  # on three maps four places of two coordinates
    beit = _TABLE.format(0) in names
    with _names_due():
        window, wide = _windows(state, prefix, names) if beit else (None, None)
        return AdapterConfig(
            width=width,
            heads=width // _HEAD_WIDTH,
            layers=count_modules(names, "blocks."),
            adapter_heads=len(state[f"{prefix}{injector}.attn.sampling_offsets.bias"]) // points,
            value_ratio=len(state[f"{prefix}{injector}.attn.value_proj.bias"]) / width,
            image_size=_image_size(state, prefix),
            planes=len(state[f"{prefix}spm.stem.0.weight"]),
            interactions=1 + last,
            ffn_ratio=len(state[prefix + ffn]) / width if has_ffn else None,
            extra_extractors=count_modules(names, f"interactions.{last}.extra_extractors."),
            vit_features="last" if window else "each" if last == 3 else "none",
            window=window,
            wide_window=wide,
            beit=beit,
            layer_scale=any(f"blocks.0.{name}" in names for name in ("gamma1", "gamma_1")),
        )


def _image_size(state: State, prefix: str) -> tuple[int, int]:
    """Of square images: from the rows of stored positions, or of BEiT's first table of biases."""
    positions = state.get(f"{prefix}pos_embed")
    if positions is not None:
        side = isqrt(positions.shape[1] - 1)
    else:
        side = _side_of_table(state, f"{prefix}{_TABLE.format(0)}")
    return side * PATCH_SIZE, side * PATCH_SIZE


def _windows(state: State, prefix: str, names: list[str]) -> tuple[int | None, int | None]:
    """The sides of a BEiT's windows and wide windows; none where there is a class token."""
    if "cls_token" in names:
        return None, None
    last_of_quarter = count_modules(names, "blocks.") // 4 - 1
    tables = (f"{prefix}{_TABLE.format(index)}" for index in (0, last_of_quarter))
    window, wide = (_side_of_table(state, table) for table in tables)
    return window, wide


def _side_of_table(state: State, name: str) -> int:
    """Tokens along the side of a square, from its table; a class token's three rows are ignored."""
    return (isqrt(len(state[name])) + 1) // 2


def _read_variant(path: Path) -> Variant:
    content: dict[str, Any] = read_yaml(path)
    with describing(path, "ViT-Adapter"):
        config = content.pop("config")
        config = AdapterConfig(**{**config, "image_size": tuple(config["image_size"])})
        queries = content.pop("queries", None)
        variant = Variant(config, queries=queries and QuerySizes(**queries), **content)
        _check(variant)
        return variant


def _check(variant: Variant) -> None:
    """Refuse what a model could be made with, and not be used."""
    if type(variant.crop) is not int or variant.crop < 1:
        raise ExpediteError(f"a crop of {variant.crop!r} was asked; a number of pixels is due")
    if variant.normalization not in get_args(Normalization):
        known = " and ".join(get_args(Normalization))
        raise ExpediteError(f"the normalization {variant.normalization!r} was asked; {known} work")
    if not isinstance(variant.dataset, str):
        raise ExpediteError(f"the dataset {variant.dataset!r} was given; its name is due")
