"""Swin and SwinV2 as published outside of packages; test_swin runs the backbone's too."""

from typing import Any

import pytest
import torch
from torch import nn

import expedite
from expedite import ExpediteError, Plan, Span
from expedite.loading.swin import named_as_in_transformers
from expedite.loading.timm import as_in_timm
from expedite.measure.flops import count_flops
from expedite.operators import clustering
from expedite.patching.families import find_hosts
from tests.hosts import (
    SWIN,
    counted_reconstructions,
    images,
    open_frames,
    randomized,
    timm_swin,
    timm_swinv2,
    without_positions,
)
from tests.patching.test_oracles import HARD, blocky
from tests.published_swin import (
    Backbone,
    published_backbone,
    published_swin,
    published_swinv2,
)

classifiers = pytest.mark.parametrize("make", [published_swin, published_swinv2])
# From all clusters of a window: between two that are equally near, rounding would decide.
# Soft to the end: where a token is as near to two clusters, libraries round it to different ones.
PLANS = (
    Plan((Span(1, clusters=3),), weights="linear", k=9, hard=False),
    Plan((Span(2, clusters=3), Span(4, clusters=(3, 3))), weights="linear", k=9, hard=False),
)

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.mark.parametrize("window", [4, 8])
@pytest.mark.parametrize(
    ("make", "library"), [(published_swin, timm_swin), (published_swinv2, timm_swinv2)]
)
def test_classifiers_equal_timms_plain_and_patched(make: Any, library: Any, window: int) -> None:
    one, other = make(window_size=window), library(window_size=window)
    other.load_state_dict(as_in_timm(one.state_dict()))
    torch.testing.assert_close(one(images()), other(images()), rtol=1e-4, atol=1e-4)
    for plan in PLANS:
        found, expected = (expedite.patch(model, plan)(images()) for model in (one, other))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(32, 32), (40, 24), (33, 47)])
@pytest.mark.parametrize("window", [4, 5])
def test_backbones_equal_that_of_transformers(window: int, size: tuple[int, int]) -> None:
    from transformers import SwinBackbone, SwinConfig

    one, x = published_backbone(window_size=window).backbone, images(3, *size)
    sizes = {**SWIN, "window_size": window, "out_features": ["stage1", "stage2"]}
    other: Any = randomized(SwinBackbone(SwinConfig(**sizes)))
    other.load_state_dict(named_as_in_transformers(one.state_dict()), strict=False)
    for plan in (None, *PLANS):
        if plan is not None:
            expedite.patch(one, plan)
            expedite.patch(other, plan)
        for found, expected in zip(one(x).values(), other(x).feature_maps, strict=True):
            torch.testing.assert_close(found, expected, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("window", [4, 8])
@classifiers
def test_full_windows_without_the_shortcut_equal_the_plain_model(
    make: Any, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(window_size=window)
    plain = model(images(3))
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    for alpha in (0, 1, 4):
        expedite.patch(model, alpha=alpha, clusters=window, **HARD)
        torch.testing.assert_close(model(images(3)), plain, rtol=2e-3, atol=2e-3)


@classifiers
def test_cells_of_equal_tokens_cluster_without_loss(make: Any) -> None:
    model, x = without_positions(make()), blocky(images(), 2)
    plain = model(x)
    expedite.patch(model, alpha=0, clusters=4, **HARD)
    torch.testing.assert_close(model(x), plain, rtol=1e-3, atol=1e-3)
    expedite.patch(model, alpha=0, clusters=3, **HARD)
    assert not torch.allclose(model(x), plain, rtol=1e-2, atol=1e-2)


def test_positions_of_another_window_in_pretraining(monkeypatch: pytest.MonkeyPatch) -> None:
    model = published_swinv2(pretrained=6)
    plain = model(images())
    assert not torch.allclose(plain, published_swinv2()(images()), rtol=1e-2, atol=1e-2)
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    expedite.patch(model, alpha=0, clusters=8, **HARD)
    torch.testing.assert_close(model(images()), plain, rtol=2e-3, atol=2e-3)


def test_a_scale_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model = published_swin(qk_scale=0.7)
    plain = model(images())
    assert not torch.allclose(plain, published_swin()(images()), rtol=1e-2, atol=1e-2)
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    expedite.patch(model, alpha=0, clusters=8, **HARD)
    torch.testing.assert_close(model(images()), plain, rtol=2e-3, atol=2e-3)


@classifiers
def test_dropout_and_stochastic_depth_are_those_of_training(make: Any) -> None:
    model = expedite.patch(make(drop=0.1, drop_path=0.1), alpha=0, clusters=4)
    assert torch.equal(model(images()), model(images()))
    assert not torch.equal(model.train()(images()), model(images()))


@classifiers
def test_nothing_of_a_classifier_is_left_uncounted(make: Any) -> None:
    model = expedite.patch(make(), alpha=1, clusters=4)
    assert count_flops(model, images(1)).unsupported == {}


def test_features_of_a_classifier_are_patched_too() -> None:
    model = published_swin()
    plain = model.forward_features(images())
    expedite.patch(model, alpha=1, clusters=4)
    with counted_reconstructions(model) as calls:
        found = model.forward_features(images())
    assert len(calls) == 1
    assert torch.equal(model.head(found), model(images()))
    assert torch.equal(expedite.unpatch(model).forward_features(images()), plain)


def test_a_stage_without_merging_has_the_map_of_the_one_before() -> None:
    # As DINO's dilated backbone: 16×16 tokens, then 8×8 in two stages.
    sizes: Any = {"depths": (2, 2, 2), "num_heads": (2, 4, 4), "window_size": 4}
    model = published_backbone(dilation=True, **sizes)
    assert model(images()).shape == (2, 64, 8, 8)
    expedite.patch(model, alpha=4, clusters=3)
    assert expedite.describe(model).kept == ((6, 6),)
    assert model(images()).shape == (2, 64, 8, 8)


def test_each_map_is_the_full_one() -> None:
    model = published_backbone().backbone
    x = images(1, 33, 47)
    plain = model(x)
    expedite.patch(model, alpha=1, clusters=5)
    with counted_reconstructions(model) as calls:
        found = model(x)
    assert {name: tap.shape for name, tap in found.items()} == {
        "res2": (1, 32, 17, 24),
        "res3": (1, 64, 9, 12),
    }
    assert len(calls) == 1
    assert not any(torch.allclose(found[name], plain[name]) for name in plain)


def test_describe() -> None:
    model = nn.ModuleDict({"backbone": expedite.patch(published_backbone(), alpha=4, keep=0.25)})
    assert str(expedite.describe(model)) == (
        "published Swin backbone at 'backbone.backbone': 6 blocks, grid any size, usually 16×16, "
        "windows of 8×8, 0 prefix tokens\n"
        "taps: outputs of stages, of the full map in any case; reconstruct_at: backbone\n"
        "blocks 5 to 6 run on 4×4 clusters in windows of 4×4, 16 of 64 tokens (25.0%)"
    )


def test_refusals() -> None:
    with pytest.raises(ExpediteError, match="9×9 clusters were asked where the published Swin cla"):
        expedite.patch(published_swin(), alpha=1, clusters=9)
    with pytest.raises(ExpediteError, match="that ends at block 4; beta can be at most 3"):
        expedite.patch(published_swin(), alpha=1, beta=4, clusters=4)
    model = expedite.patch(published_backbone(), alpha=4, clusters=4)
    with pytest.raises(ExpediteError, match="whose map there is 6×8, smaller than a window of 8×8"):
        model(images(1, 24, 32))
    assert open_frames(model) == 0
    assert model(images()).isfinite().all()


def of_experts(block: Any) -> None:
    block.router = nn.Linear(4, 4)


def of_video(block: Any) -> None:
    block.attn.window_size = (2, 8, 8)


def of_another_kind(block: Any) -> None:
    block.attn.window_size = 8


def without_windows(block: Any) -> None:
    del block.shift_size


@pytest.mark.parametrize("change", [of_experts, of_video, of_another_kind, without_windows])
def test_blocks_that_do_something_else_are_not_taken_for_swins(change: Any) -> None:
    model: Any = Backbone()
    assert len(list(find_hosts(model))) == 1
    change(model.layers[1].blocks[1])
    assert not list(find_hosts(model))
