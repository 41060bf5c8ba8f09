"""Swin and SwinV2 of transformers, alone and as the backbone of other models."""

import importlib
from typing import Any

import pytest
import torch
import transformers

import expedite
from expedite import ExpediteError
from expedite.measure.flops import count_flops
from expedite.operators import clustering
from tests.hosts import (
    SWIN,
    counted_reconstructions,
    huggingface_swin,
    huggingface_swinv2,
    images,
    open_frames,
    randomized,
)
from tests.patching.test_oracles import HARD

hf: Any = transformers  # its configs take what their annotations do not show
BACKBONES = {
    "Swin": ("SwinConfig", "SwinBackbone"),
    "V2": ("Swinv2Config", "Swinv2Backbone"),
    "MaskFormer": ("MaskFormerSwinConfig", "MaskFormerSwinBackbone"),
}
LIBRARY: Any = importlib.import_module("transformers.models.maskformer")
STAGES: dict[str, Any] = {"out_features": ["stage1", "stage2"]}

pytestmark = pytest.mark.usefixtures("no_gradients")


def backbone(kind: str, **changes: Any) -> Any:
    config, model = (getattr(LIBRARY, name, None) or getattr(hf, name) for name in BACKBONES[kind])
    torch.manual_seed(0)
    return randomized(model(config(**{**SWIN, **STAGES, **changes})))


@pytest.mark.parametrize("make", [huggingface_swin, huggingface_swinv2])
def test_hidden_states_have_the_full_map(make: Any) -> None:
    model = make().model
    plain = model(images(), output_hidden_states=True)
    expedite.patch(model, alpha=2, clusters=4)
    with counted_reconstructions(model) as calls:
        found = model(images(), output_hidden_states=True)
    for states in ("hidden_states", "reshaped_hidden_states"):
        pairs = list(zip(getattr(found, states), getattr(plain, states), strict=True))
        assert all(state.shape == before.shape for state, before in pairs)
        assert torch.equal(*pairs[0])
        assert not torch.allclose(*pairs[1], rtol=1e-3, atol=1e-3)
    assert len(calls) == 1


@pytest.mark.parametrize("kind", list(BACKBONES))
@pytest.mark.parametrize("window", [8, 5])
def test_backbones_without_the_shortcut_equal_the_plain_model(
    kind: str, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With windows of 8 the second stage has one alone, which Swin's backbone shifts all the same.
    model = backbone(kind, window_size=window)
    plain = model(images(3)).feature_maps
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    for alpha in (0, 4):
        expedite.patch(model, alpha=alpha, clusters=window, **HARD)
        for found, before in zip(model(images(3)).feature_maps, plain, strict=True):
            torch.testing.assert_close(found, before, rtol=2e-3, atol=2e-3)


def test_one_window_is_shifted_where_the_library_shifts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = huggingface_swin(depths=[2, 4])
    plain = model.model(images()).last_hidden_state
    always = model.model(images(), always_partition=True).last_hidden_state
    assert torch.equal(always, plain)  # the call before has put the library's shifts out of use
    fresh = huggingface_swin(depths=[2, 4]).model
    always = fresh(images(), always_partition=True).last_hidden_state
    assert not torch.allclose(always, plain, rtol=1e-2, atol=1e-2)
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    expedite.patch(fresh, alpha=2, clusters=8, **HARD)
    for keywords, expected in (({"always_partition": True}, always), ({}, plain)):
        found = fresh(images(), **keywords).last_hidden_state
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


def donut(**changes: Any) -> Any:
    torch.manual_seed(0)
    return randomized(hf.DonutSwinModel(hf.DonutSwinConfig(**{**SWIN, **changes})))


def swin2sr(**changes: Any) -> Any:
    """Two stages on one map of 16×16 tokens, each with a convolution at its end."""
    sizes: dict[str, Any] = {"image_size": 16, "patch_size": 1, "num_heads": [2, 2], "upscale": 2}
    torch.manual_seed(0)
    config = hf.Swin2SRConfig(**{**SWIN, **sizes, **changes})
    return randomized(hf.Swin2SRForImageSuperResolution(config))


@pytest.mark.parametrize(
    ("make", "side", "window"), [(donut, 32, 8), (donut, 32, 5), (swin2sr, 16, 8), (swin2sr, 15, 5)]
)
def test_copies_of_swin(make: Any, side: int, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # With windows of 8 the second stage has one alone, which Donut does not shift.
    model, x = make(window_size=window), images(2, side, side)
    plain = model(x, output_hidden_states=True)
    expedite.patch(model, alpha=1, clusters=3)
    found = model(x, output_hidden_states=True)
    assert not torch.allclose(found[0], plain[0], rtol=1e-3, atol=1e-3)
    for state, before in zip(found.hidden_states, plain.hidden_states, strict=True):
        assert state.shape == before.shape
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    for alpha in (0, 4):
        expedite.patch(model, alpha=alpha, clusters=window, **HARD)
        torch.testing.assert_close(model(x)[0], plain[0], rtol=2e-3, atol=2e-3)
    assert torch.equal(expedite.unpatch(model)(x)[0], plain[0])


@pytest.mark.parametrize("name", ["SwinForImageClassification", "SwinForMaskedImageModeling"])
@pytest.mark.parametrize("version", ["Swin", "Swinv2"])
def test_heads(name: str, version: str) -> None:
    config = getattr(hf, f"{version}Config")(**SWIN, num_labels=5, encoder_stride=4)
    torch.manual_seed(0)
    model = randomized(getattr(hf, name.replace("Swin", version))(config))
    plain = model(images())[0]
    assert expedite.describe(expedite.patch(model, alpha=1, clusters=4)).path == ""
    with counted_reconstructions(model) as calls:
        found = model(images())[0]
    assert found.shape == plain.shape
    assert not torch.allclose(found, plain, rtol=1e-3, atol=1e-3)
    assert len(calls) == 1
    assert torch.equal(expedite.unpatch(model)(images())[0], plain)


def mask2former(**changes: Any) -> Any:
    """Around a Swin of four stages, since its decoder reads as many."""
    swin = {**SWIN, "depths": [1, 1, 4, 1], "num_heads": [1, 2, 2, 2], "embed_dim": 16}
    features = ["stage1", "stage2", "stage3", "stage4"]
    config = hf.Mask2FormerConfig(
        backbone_config=hf.SwinConfig(**{**swin, "window_size": 4, "out_features": features}),
        hidden_dim=32,
        feature_size=32,
        mask_feature_size=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=5,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        num_labels=4,
        **changes,
    )
    torch.manual_seed(0)
    return randomized(hf.Mask2FormerForUniversalSegmentation(config))


def test_nothing_of_mask2former_is_left_uncounted() -> None:
    model = expedite.patch(mask2former(), alpha=2, clusters=3)
    assert count_flops(model, images(1, 64, 64)).unsupported == {}


def maskformer() -> Any:
    swin = hf.SwinConfig(**{**SWIN, "depths": [1, 1, 4, 1], "num_heads": [1, 2, 2, 2]})
    swin.window_size = 4
    detr: dict[str, Any] = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1}
    detr |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 5}
    detr |= {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    sizes = {"fpn_feature_size": 32, "mask_feature_size": 32}
    config = hf.MaskFormerConfig(
        backbone_config=swin, decoder_config=hf.DetrConfig(**detr), num_labels=4, **sizes
    )
    torch.manual_seed(0)
    return randomized(hf.MaskFormerForInstanceSegmentation(config))


def test_inside_oneformer() -> None:
    from transformers.models.oneformer.modeling_oneformer import OneFormerPixelLevelModule

    swin = mask2former().config.backbone_config
    sizes = {"conv_dim": 32, "mask_dim": 32, "hidden_dim": 32, "encoder_feedforward_dim": 32}
    config = hf.OneFormerConfig(
        backbone_config=swin, num_attention_heads=2, encoder_layers=1, **sizes
    )
    torch.manual_seed(0)
    model = randomized(OneFormerPixelLevelModule(config))
    plain = model(images(1, 64, 64))
    expedite.patch(model, alpha=2, clusters=3)
    found = model(images(1, 64, 64))
    pairs = list(zip(found.encoder_features, plain.encoder_features, strict=True))
    assert all(a.shape == b.shape for a, b in pairs)
    assert not all(torch.equal(a, b) for a, b in pairs)


def upernet() -> Any:
    swin = hf.SwinConfig(**{**SWIN, "depths": [1, 4], **STAGES})
    config = hf.UperNetConfig(
        backbone_config=swin,
        hidden_size=16,
        num_labels=4,
        use_auxiliary_head=False,
        pool_scales=[1, 2],
    )
    torch.manual_seed(0)
    return randomized(hf.UperNetForSemanticSegmentation(config))


@pytest.mark.parametrize(
    ("make", "alpha", "path", "output"),
    [
        (mask2former, 2, "model.pixel_level_module.encoder", "masks_queries_logits"),
        (maskformer, 2, "model.pixel_level_module.encoder", "masks_queries_logits"),
        (upernet, 1, "backbone", "logits"),
    ],
)
def test_inside_other_models(make: Any, alpha: int, path: str, output: str) -> None:
    model, x = make(), images(1, 64, 64)
    plain = model(x)[output]
    expedite.patch(model, alpha=alpha, clusters=3)
    assert expedite.describe(model).path == path
    with counted_reconstructions(model) as calls:
        found = model(x)[output]
    assert found.shape == plain.shape
    assert not torch.allclose(found, plain, rtol=1e-3, atol=1e-3)
    assert len(calls) == 1
    assert torch.equal(expedite.unpatch(model)(x)[output], plain)


def test_maskformers_copy_shows_every_block_where_it_is_asked_to() -> None:
    model = backbone("MaskFormer")
    plain = model(images(), output_hidden_states=True).hidden_states
    expedite.patch(model, alpha=1, clusters=4)
    with counted_reconstructions(model) as calls:
        found = model(images(), output_hidden_states=True).hidden_states
        assert len(calls) == 3
        model(images())
    assert len(calls) == 4
    assert found[0].shape == plain[0].shape
    for stage, before in zip(found[1:], plain[1:], strict=True):
        assert [state.shape for state in stage] == [state.shape for state in before]
    # Of each block what enters it and what leaves it.
    assert all(torch.equal(a, b) for a, b in zip(found[1][:3], plain[1][:3], strict=True))
    assert not torch.allclose(found[1][3], plain[1][3], rtol=1e-3, atol=1e-3)


def test_attention_of_clusters_is_not_shown() -> None:
    model = huggingface_swin().model
    expedite.patch(model, alpha=1, clusters=4)
    with pytest.raises(ExpediteError, match="unpatch it to see attention among tokens"):
        model(images(), output_attentions=True)
    assert open_frames(model) == 0
    assert model(images()).last_hidden_state.shape == (2, 64, 64)


def test_maps_smaller_than_a_window_are_refused() -> None:
    model = expedite.patch(huggingface_swinv2(), alpha=4, clusters=4)
    with pytest.raises(ExpediteError, match="whose map there is 6×8, smaller than a window of 8×8"):
        model(images(1, 24, 32))
