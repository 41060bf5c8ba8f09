"""Mask2Former's head on a pyramid of maps: transformers' modules, and its published weights.

Source: `Mask2FormerHead` and `MSDeformAttnPixelDecoder` of czczup/ViT-Adapter, and mmcv 1.x's
layers inside them. transformers' pixel decoder and masked decoder do the same on other names.
"""

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.models.files import count_modules, three

State = Mapping[str, Tensor]

# Deformable attention looks at so many places for each query and head: 4 on each of 3 maps.
_POINTS = 12
_PIXELS = "pixel_decoder.encoder.layers"
_LAYERS = "transformer_decoder.layers"
_NEW_LAYERS = "transformer.decoder.layers"
# What names behind `decode_head.` become; the first that fits counts.
_RULES = {
    r"pixel_decoder\.input_convs\.(\d)\.conv\.": r"pixel_decoder.input_projections.\1.0.",
    r"pixel_decoder\.input_convs\.(\d)\.gn\.": r"pixel_decoder.input_projections.\1.1.",
    r"pixel_decoder\.lateral_convs\.0\.conv\.": "pixel_decoder.adapter_1.0.",
    r"pixel_decoder\.lateral_convs\.0\.gn\.": "pixel_decoder.adapter_1.1.",
    r"pixel_decoder\.output_convs\.0\.conv\.": "pixel_decoder.layer_1.0.",
    r"pixel_decoder\.output_convs\.0\.gn\.": "pixel_decoder.layer_1.1.",
    r"pixel_decoder\.level_encoding\.weight": "pixel_decoder.level_embed",
    r"pixel_decoder\.mask_feature\.": "pixel_decoder.mask_projection.",
    rf"{_PIXELS}\.(\d+)\.attentions\.0\.": rf"{_PIXELS}.\1.self_attn.",
    rf"{_PIXELS}\.(\d+)\.norms\.0\.": rf"{_PIXELS}.\1.self_attn_layer_norm.",
    rf"{_PIXELS}\.(\d+)\.norms\.1\.": rf"{_PIXELS}.\1.final_layer_norm.",
    rf"{_PIXELS}\.(\d+)\.ffns\.0\.layers\.0\.0\.": rf"{_PIXELS}.\1.fc1.",
    rf"{_PIXELS}\.(\d+)\.ffns\.0\.layers\.1\.": rf"{_PIXELS}.\1.fc2.",
    rf"{_LAYERS}\.(\d+)\.attentions\.0\.attn\.": rf"{_NEW_LAYERS}.\1.cross_attn.",
    rf"{_LAYERS}\.(\d+)\.attentions\.1\.attn\.": rf"{_NEW_LAYERS}.\1.self_attn.",
    rf"{_LAYERS}\.(\d+)\.norms\.0\.": rf"{_NEW_LAYERS}.\1.cross_attn_layer_norm.",
    rf"{_LAYERS}\.(\d+)\.norms\.1\.": rf"{_NEW_LAYERS}.\1.self_attn_layer_norm.",
    rf"{_LAYERS}\.(\d+)\.norms\.2\.": rf"{_NEW_LAYERS}.\1.final_layer_norm.",
    rf"{_LAYERS}\.(\d+)\.ffns\.0\.layers\.0\.0\.": rf"{_NEW_LAYERS}.\1.fc1.",
    rf"{_LAYERS}\.(\d+)\.ffns\.0\.layers\.1\.": rf"{_NEW_LAYERS}.\1.fc2.",
    r"transformer_decoder\.post_norm\.": "transformer.decoder.layernorm.",
    r"query_embed\.": "transformer.queries_embedder.",
    r"query_feat\.": "transformer.queries_features.",
    r"level_embed\.": "transformer.level_embed.",
    r"cls_embed\.": "class_predictor.",
    r"mask_embed\.0\.": "transformer.decoder.mask_predictor.mask_embedder.0.0.",
    r"mask_embed\.2\.": "transformer.decoder.mask_predictor.mask_embedder.1.0.",
    r"mask_embed\.4\.": "transformer.decoder.mask_predictor.mask_embedder.2.0.",
}


@dataclass(frozen=True)
class QuerySizes:
    """How large a Mask2Former's head is, besides its channels.

    Args:
        queries: How many masks there are.
        heads: Of all attention.
        pixel_layers: Of the pixel decoder.
        pixel_hidden: Channels inside its perceptrons.
        layers: Of the decoder with masked attention.
        layer_hidden: Channels inside its perceptrons.
    """

    queries: int = 100
    heads: int = 8
    pixel_layers: int = 6
    pixel_hidden: int = 1024
    layers: int = 9
    layer_hidden: int = 2048


class QueryHead(nn.Module):
    """Scores (B, n_cls, H / 4, W / 4) from four maps of one width, finest first.

    Each query is a mask and the shares of classes in it, whose product is summed over all queries,
    as in the published semantic inference.

    Args:
        n_cls: Classes.
        width: Of the maps.
        hidden: Channels inside.
        sizes: All else.

    Raises:
        ExpediteError: transformers is not installed, or the channels cannot be shared out.
    """

    def __init__(self, n_cls: int, width: int, hidden: int, sizes: QuerySizes) -> None:
        super().__init__()
        library, config = _library(), _config(hidden, sizes)
        self.pixel_decoder = library.Mask2FormerPixelDecoder(config, [width] * 4)
        nn.init.normal_(self.pixel_decoder.level_embed)
        self.transformer = library.Mask2FormerTransformerModule(hidden, config)
        self.class_predictor = nn.Linear(hidden, n_cls + 1)  # the last is for no object

    def forward(self, maps: list[Tensor]) -> Tensor:
        pixels = self.pixel_decoder(maps)
        found = self.transformer(pixels.multi_scale_features, pixels.mask_features)
        queries = found.intermediate_hidden_states[-1].transpose(0, 1)  # (B, Q, hidden)
        shares = self.class_predictor(queries).softmax(-1)[..., :-1]
        masks = found.masks_queries_logits[-1].sigmoid()  # (B, Q, H / 4, W / 4)
        return torch.einsum("bqc,bqhw->bchw", shares, masks)


def sizes_of(state: State, prefix: str) -> QuerySizes:
    """What published weights, whose names begin with `prefix`, say of sizes.

    Raises:
        KeyError: They lack what says so.
    """
    points = state[f"{prefix}{_PIXELS}.0.attentions.0.attention_weights.bias"]
    fc1 = "ffns.0.layers.0.0.bias"
    return QuerySizes(
        queries=len(state[f"{prefix}query_embed.weight"]),
        heads=len(points) // _POINTS,
        pixel_layers=count_modules(state, f"{prefix}{_PIXELS}."),
        pixel_hidden=len(state[f"{prefix}{_PIXELS}.0.{fc1}"]),
        layers=count_modules(state, f"{prefix}{_LAYERS}."),
        layer_hidden=len(state[f"{prefix}{_LAYERS}.0.{fc1}"]),
    )


def translate(state: State, prefix: str) -> dict[str, Tensor]:
    """Published weights under the names of a `QueryHead`; other names are left alone.

    Args:
        state: A state dict.
        prefix: Of the head's names.

    Example:
        >>> list(translate({"decode_head.cls_embed.bias": torch.zeros(4)}, "decode_head."))
        ['decode_head.class_predictor.bias']
    """
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        inside = name.startswith(prefix)
        new = prefix + _renamed(name.removeprefix(prefix)) if inside else name
        is_three = inside and ".self_attn.in_proj_" in new
        found |= three(new, tensor, ".in_proj_") if is_three else {new: tensor}
    return found


def _renamed(name: str) -> str:
    for pattern, new in _RULES.items():
        if found := re.match(pattern, name):
            return found.expand(new) + name[found.end() :]
    return name


def _library() -> Any:
    if importlib.util.find_spec("transformers") is None:
        raise ExpediteError(
            "Mask2Former's head was asked, which needs transformers; pip install "
            "'expedite-vit[hf]' brings it"
        )
    return importlib.import_module("transformers.models.mask2former.modeling_mask2former")


def _config(hidden: int, sizes: QuerySizes) -> Any:
    if hidden < 1 or hidden % 32 or hidden % sizes.heads:
        raise ExpediteError(
            f"{hidden} channels and {sizes.heads} heads were asked of Mask2Former's head; a "
            "multiple of 32 channels, which the heads share evenly, is due"
        )
    return importlib.import_module("transformers").Mask2FormerConfig(
        feature_size=hidden,
        mask_feature_size=hidden,
        hidden_dim=hidden,
        num_queries=sizes.queries,
        num_attention_heads=sizes.heads,
        encoder_layers=sizes.pixel_layers,
        encoder_feedforward_dim=sizes.pixel_hidden,
        decoder_layers=1 + sizes.layers,  # the prediction before the first layer counts as one
        dim_feedforward=sizes.layer_hidden,
    )
