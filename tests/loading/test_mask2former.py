"""Published files of Mask2Former, made here under their names at a small size."""

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import expedite
from expedite import ExpediteError
from expedite.loading import load_model, swin
from tests.hosts import images, randomized
from tests.patchers.transformers.test_swin import mask2former

pytestmark = pytest.mark.usefixtures("no_gradients")

HEAD, PIXELS, MASKS = "sem_seg_head.", "model.pixel_level_module.", "model.transformer_module."
# From the names of transformers to those in files; most published ones have older ones of some.
NAMES = {
    f"{PIXELS}encoder.swin.embeddings.patch_embeddings.projection": "backbone.patch_embed.proj",
    f"{PIXELS}encoder.swin.embeddings.norm": "backbone.patch_embed.norm",
    f"{PIXELS}encoder.swin.encoder.layers": "backbone.layers",
    f"{PIXELS}encoder.hidden_states_norms.stage": "backbone.norm",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.relative_position_bias.": "attn.",
    "attention.o_proj": "attn.proj",
    f"{PIXELS}decoder.input_projections": f"{HEAD}pixel_decoder.input_proj",
    f"{PIXELS}decoder.mask_projection": f"{HEAD}pixel_decoder.mask_features",
    f"{PIXELS}decoder.adapter_1.0": f"{HEAD}pixel_decoder.adapter_1",
    f"{PIXELS}decoder.adapter_1.1": f"{HEAD}pixel_decoder.adapter_1.norm",
    f"{PIXELS}decoder.layer_1.0": f"{HEAD}pixel_decoder.layer_1",
    f"{PIXELS}decoder.layer_1.1": f"{HEAD}pixel_decoder.layer_1.norm",
    f"{PIXELS}decoder.": f"{HEAD}pixel_decoder.transformer.",
    f"{MASKS}queries_embedder": f"{HEAD}predictor.query_embed",
    f"{MASKS}queries_features": f"{HEAD}predictor.query_feat",
    f"{MASKS}level_embed": f"{HEAD}predictor.level_embed",
    f"{MASKS}decoder.layernorm": f"{HEAD}predictor.decoder_norm",
    "class_predictor": f"{HEAD}predictor.class_embed",
}
OF_DECODER = {
    "self_attn.": "self_attention_layers.{}.self_attn.",
    "self_attn_layer_norm.": "self_attention_layers.{}.norm.",
    "cross_attn.": "cross_attention_layers.{}.multihead_attn.",
    "cross_attn_layer_norm.": "cross_attention_layers.{}.norm.",
    "fc1.": "ffn_layers.{}.linear1.",
    "fc2.": "ffn_layers.{}.linear2.",
    "final_layer_norm.": "ffn_layers.{}.norm.",
}
OF_PIXELS = {
    "self_attn_layer_norm": "norm1",
    "final_layer_norm": "norm2",
    ".fc1": ".linear1",
    ".fc2": ".linear2",
}


def published_name(name: str) -> str:
    if found := re.match(rf"{MASKS}decoder\.layers\.(\d+)\.([a-z_12]+\.)(.*)", name):
        number, part, rest = found.groups()
        return f"{HEAD}predictor.transformer_{OF_DECODER[part].format(number)}{rest}"
    if found := re.match(rf"{MASKS}decoder\.mask_predictor\.mask_embedder\.(\d)\.0(.*)", name):
        return f"{HEAD}predictor.mask_embed.layers.{found[1]}{found[2]}"
    if found := re.match(rf"{PIXELS}encoder\.hidden_states_norms\.stage(\d)(.*)", name):
        return f"backbone.norm{int(found[1]) - 1}{found[2]}"
    rules = {**NAMES, **(OF_PIXELS if "decoder.encoder" in name else {})}
    for old, new in rules.items():
        name = name.replace(old, new)
    return name


def published(model: Any) -> dict[str, Tensor]:
    """The weights of a model of transformers under the names that files have."""
    parts: dict[str, dict[str, Tensor]] = {}
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        three = re.match(
            r"(.*attention\.|.*decoder\.layers\.\d+\.self_attn\.)([qkv])_proj\.(.*)", name
        )
        if "swin.layernorm" in name:
            continue
        if three is None:
            state[published_name(name)] = tensor
            continue
        of_swin = three[1].endswith("attention.")
        one = (
            f"{three[1].removesuffix('attention.')}attn.qkv." if of_swin else f"{three[1]}in_proj_"
        )
        parts.setdefault(published_name(f"{one}{three[3]}"), {})[three[2]] = tensor
    return state | {name: torch.cat([part[x] for x in "qkv"]) for name, part in parts.items()}


@pytest.fixture(scope="module")
def model() -> Any:
    found = mask2former()
    return randomized(found)


@pytest.fixture(scope="module")
def state(model: Any) -> dict[str, Tensor]:
    return published(model)


def older(state: dict[str, Tensor]) -> dict[str, Any]:
    """As most published files have it: arrays, and another name for the queries."""
    arrays = {name.replace("query_feat", "static_query"): t.numpy() for name, t in state.items()}
    return {"model": arrays, "__author__": "nobody"}


def oldest(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("pixel_decoder.", ""): tensor for name, tensor in state.items()}


def trained(state: dict[str, Tensor]) -> dict[str, Any]:
    return {"model": state, "optimizer": {"lr": 0.1}, "iteration": 7}


def without_a_loss(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if "criterion" not in name}


def test_files_here_have_the_names_of_published_ones(state: dict[str, Tensor]) -> None:
    for name in (
        "backbone.layers.2.blocks.3.attn.relative_position_bias_table",
        "backbone.layers.0.downsample.reduction.weight",
        "backbone.norm3.bias",
        "sem_seg_head.pixel_decoder.adapter_1.norm.weight",
        "sem_seg_head.pixel_decoder.input_proj.0.1.bias",
        "sem_seg_head.pixel_decoder.transformer.level_embed",
        "sem_seg_head.pixel_decoder.transformer.encoder.layers.0.self_attn.value_proj.weight",
        "sem_seg_head.pixel_decoder.transformer.encoder.layers.0.linear2.bias",
        "sem_seg_head.predictor.transformer_self_attention_layers.0.self_attn.in_proj_weight",
        "sem_seg_head.predictor.transformer_cross_attention_layers.0.multihead_attn.in_proj_bias",
        "sem_seg_head.predictor.transformer_ffn_layers.0.norm.weight",
        "sem_seg_head.predictor.mask_embed.layers.2.weight",
        "sem_seg_head.predictor.class_embed.bias",
        "criterion.empty_weight",
    ):
        assert name in state
    assert not [name for name in state if not name.startswith(("backbone.", HEAD, "criterion."))]


@pytest.mark.parametrize("change", [older, oldest, trained, without_a_loss])
def test_published_files(change: Any, model: Any, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / ("model_final.pkl" if change is older else "model_final.pth")
    content = change(state)
    path.write_bytes(pickle.dumps(content)) if change is older else torch.save(content, path)
    loaded = load_model(f"mask2former:{path}")
    x = images(1, 64, 96)
    found, expected = loaded.model(x), model(x)
    assert torch.equal(found.masks_queries_logits, expected.masks_queries_logits)
    assert torch.equal(found.class_queries_logits, expected.class_queries_logits)
    assert loaded.trained
    assert not loaded.model.training
    assert loaded.image_size == (128, 128)
    assert loaded.mean == (0.485, 0.456, 0.406)


def test_a_variant_with_and_without_a_checkpoint(
    state: dict[str, Tensor], model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(state, tmp_path / "weights.pth")
    config = model.config.backbone_config
    sizes = {name: getattr(config, name) for name in swin.VARIANTS["swin_tiny"]}
    monkeypatch.setitem(swin.VARIANTS, "swin_tiny", sizes)
    plain = load_model("mask2former:swin_tiny", classes=9)
    assert not plain.trained
    assert plain.model(images(1, 64, 64)).class_queries_logits.shape == (1, 100, 10)
    with pytest.raises(ExpediteError, match="which has 4"):
        load_model("mask2former:swin_tiny", classes=9, checkpoint=tmp_path / "weights.pth")
    with pytest.raises(ExpediteError, match="which has a Swin of 16 channels"):
        load_model("mask2former:swin_large", checkpoint=tmp_path / "weights.pth")


def backbone_alone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name.startswith("backbone.")}


def numbers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.sum() if name.startswith(HEAD) else t for name, t in state.items()}


def one_number(state: dict[str, Tensor]) -> dict[str, Tensor]:
    name = "sem_seg_head.predictor.transformer_self_attention_layers.0.self_attn.in_proj_bias"
    return {**state, name: torch.tensor(1.0)}


def more(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "sem_seg_head.predictor.input_proj.0.weight": torch.zeros(1)}


def without_a_norm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t for name, t in state.items() if name != f"{HEAD}predictor.decoder_norm.bias"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (backbone_alone, "do not fit together to a Mask2Former: KeyError: 'predictor.query"),
        (numbers, "do not fit together to a Mask2Former: ValueError"),
        (
            one_number,
            r"unexpected \(model\.transformer_module\.decoder\.layers\.0\.self",
        ),
        (more, r"1 unexpected \(predictor\.input_proj\.0\.weight\)"),
        (without_a_norm, r"1 missing \(model\.transformer_module\.decoder\.layernorm\.bias\)"),
    ],
)
def test_weights_of_something_else(
    change: Any, message: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(change(state), tmp_path / "weights.pth")
    with pytest.raises(ExpediteError, match=message):
        expedite.load(f"mask2former:{tmp_path / 'weights.pth'}")
