"""`mask2former:FILE`, a published checkpoint of Mask2Former with a Swin, and `mask2former:VARIANT`.

The model is Mask2FormerForUniversalSegmentation of transformers; a file says its own sizes.
"""

import re
from pathlib import Path

from torch import Tensor

from expedite.errors import ExpediteError
from expedite.loading.model import LoadedModel, State, Wanted
from expedite.loading.swin import (
    Sizes,
    backbone_part,
    fitting_together,
    library,
    loaded,
    named_as_in_transformers,
    sizes_of,
    unread,
    weights_for,
)
from expedite.models.files import load_weights, three

_CLASSES = 133  # of COCO's panoptic maps
# Deformable attention looks at so many for each query and head: 4 on each of 3 maps.
_POINTS = 12
_HEAD = "sem_seg_head."
_BACKBONE = "model.pixel_level_module.encoder."
_PIXELS = "model.pixel_level_module.decoder"
_MASKS = "model.transformer_module"
_LAYERS = f"{_MASKS}.decoder.layers"
# What names in files become; the first that fits counts.
_RULES = {
    r"predictor\.transformer_self_attention_layers\.(\d+)\.norm": (
        rf"{_LAYERS}.\1.self_attn_layer_norm"
    ),
    r"predictor\.transformer_self_attention_layers": _LAYERS,
    r"predictor\.transformer_cross_attention_layers\.(\d+)\.norm": (
        rf"{_LAYERS}.\1.cross_attn_layer_norm"
    ),
    r"predictor\.transformer_cross_attention_layers\.(\d+)\.multihead_attn": (
        rf"{_LAYERS}.\1.cross_attn"
    ),
    r"predictor\.transformer_ffn_layers\.(\d+)\.norm": rf"{_LAYERS}.\1.final_layer_norm",
    r"predictor\.transformer_ffn_layers\.(\d+)\.linear": rf"{_LAYERS}.\1.fc",
    r"predictor\.decoder_norm": f"{_MASKS}.decoder.layernorm",
    r"predictor\.mask_embed\.layers\.(\d+)": rf"{_MASKS}.decoder.mask_predictor.mask_embedder.\1.0",
    r"predictor\.query_embed": f"{_MASKS}.queries_embedder",
    r"predictor\.(query_feat|static_query)": f"{_MASKS}.queries_features",
    r"predictor\.level_embed": f"{_MASKS}.level_embed",
    r"predictor\.class_embed": "class_predictor",
    r"input_proj": f"{_PIXELS}.input_projections",
    r"mask_features": f"{_PIXELS}.mask_projection",
    r"(adapter|layer)_1\.norm": rf"{_PIXELS}.\1_1.1",
    r"(adapter|layer)_1": rf"{_PIXELS}.\1_1.0",
    r"transformer\.level_embed": f"{_PIXELS}.level_embed",
    r"transformer\.encoder\.layers\.(\d+)\.norm1": (
        rf"{_PIXELS}.encoder.layers.\1.self_attn_layer_norm"
    ),
    r"transformer\.encoder\.layers\.(\d+)\.norm2": (
        rf"{_PIXELS}.encoder.layers.\1.final_layer_norm"
    ),
    r"transformer\.encoder\.layers\.(\d+)\.linear": rf"{_PIXELS}.encoder.layers.\1.fc",
    r"transformer\.encoder": f"{_PIXELS}.encoder",
}


def build(wanted: Wanted) -> LoadedModel:
    transformers = library(wanted)
    state, origin = weights_for(wanted)
    part = None if state is None else backbone_part(state, origin)
    head = None if state is None else _head(state)
    with fitting_together(origin, "Mask2Former"):
        backbone = sizes_of(wanted, part, origin)
        sizes = _head_sizes(wanted, head, origin)
        config = transformers.Mask2FormerConfig(
            backbone_config=transformers.SwinConfig(**backbone), **sizes
        )
        model = transformers.Mask2FormerForUniversalSegmentation(config).eval()
    if part is not None and head is not None:
        load_weights(model, {**unread(model), **_named_as_in_transformers(part, head)}, origin)
    return loaded(wanted, model, backbone, trained=state is not None)


def _head(state: State) -> dict[str, Tensor]:
    """The weights behind the backbone; the pixel decoder's name stands before its own in some."""
    return {
        name.removeprefix(_HEAD).removeprefix("pixel_decoder."): tensor
        for name, tensor in state.items()
        if name.startswith((_HEAD, "criterion."))
    }


def _head_sizes(wanted: Wanted, head: State | None, origin: Path) -> Sizes:
    """What weights say of the part behind the backbone, as Mask2FormerConfig calls it."""
    if head is None:
        return {"num_labels": wanted.classes or _CLASSES}
    sizes = _sizes(head)
    if wanted.classes not in (None, sizes["num_labels"]):
        raise ExpediteError(
            f"{wanted.classes} classes were asked of '{wanted.spec}' with {origin}, which has "
            f"{sizes['num_labels']}"
        )
    return sizes


def _sizes(head: State) -> Sizes:
    queries, width = head["predictor.query_embed.weight"].shape
    masks, features = head["mask_features.weight"].shape[:2]
    pixels, predictor = "transformer.encoder.layers", "predictor.transformer_ffn_layers"
    points = len(head[f"{pixels}.0.self_attn.attention_weights.bias"])
    return {
        "num_labels": len(head["predictor.class_embed.bias"]) - 1,  # the last is for no object
        "num_queries": queries,
        "hidden_dim": width,
        "feature_size": features,
        "mask_feature_size": masks,
        "num_attention_heads": points // _POINTS,
        "encoder_layers": sum(f"{pixels}.{n}.norm1.bias" in head for n in range(len(head))),
        "encoder_feedforward_dim": len(head[f"{pixels}.0.linear1.bias"]),
        # The prediction before the first layer counts as one.
        "decoder_layers": 1 + sum(f"{predictor}.{n}.norm.bias" in head for n in range(len(head))),
        "dim_feedforward": len(head[f"{predictor}.0.linear1.bias"]),
    }


def _named_as_in_transformers(part: State, head: State) -> dict[str, Tensor]:
    backbone = named_as_in_transformers(part).items()
    found = {f"{_BACKBONE}{name}": tensor for name, tensor in backbone}
    for name, tensor in head.items():
        new = _name(name)
        is_three = ".self_attn.in_proj_" in new
        found |= three(new, tensor, ".in_proj_") if is_three else {new: tensor}
    return found


def _name(name: str) -> str:
    for pattern, new in _RULES.items():
        if found := re.match(pattern, name):
            return found.expand(new) + name[found.end() :]
    return name
