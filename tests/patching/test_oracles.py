"""Oracles that a shortcut cannot pass (design section 6): what a right patch must reproduce."""

from typing import Any

import pytest
import torch
from torch import Tensor

import expedite
from expedite.operators import clustering
from tests.hosts import images, segmenter, timm_beit, timm_eva, timm_vit, without_positions

# Every token its own cluster, told apart by hard assignment after one step.
HARD: dict[str, Any] = {"temperature": 1e-12, "iterations": 1}


pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.mark.parametrize("make", [timm_vit, timm_eva, timm_beit, segmenter])
@pytest.mark.parametrize(
    "settings",
    [{}, {"delta": False}, {"space": "tokens"}, {"log_mass": False}, {"reconstruction": "knn"}],
)
def test_the_full_grid_without_the_shortcut_equals_the_plain_model(
    make: Any, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()
    plain = model(images())
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    for alpha, beta in ((1, None), (0, None), (1, 2)):
        expedite.patch(model, alpha=alpha, beta=beta, clusters=8, **HARD, **settings)
        torch.testing.assert_close(model(images()), plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("settings", [{}, {"delta": True}, {"delta": False}])
def test_the_full_grid_at_the_head_equals_the_plain_model(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = segmenter()
    plain = model(images())
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    expedite.patch(model, alpha=1, clusters=8, reconstruct_at="head", **HARD, **settings)
    torch.testing.assert_close(model(images()), plain, rtol=1e-3, atol=1e-3)


def blocky(image: Tensor, patch_size: int) -> Tensor:
    """An image whose tokens are constant over 2×2 cells: the same patch four times."""
    batch, channels, height, _ = image.shape
    patches = image.reshape(batch, channels, height // patch_size, patch_size, -1, patch_size)
    patches = patches[:, :, ::2, :, ::2].repeat_interleave(2, 2).repeat_interleave(2, 4)
    return patches.reshape(image.shape)


@pytest.mark.parametrize("delta", [True, False])
@pytest.mark.parametrize("log_mass", [True, False])
def test_cells_of_equal_tokens_cluster_without_loss(delta: bool, log_mass: bool) -> None:
    model = timm_vit(pos_embed="none", class_token=False, global_pool="avg")
    x = blocky(images(), 4)
    plain, features = model(x), model.forward_features(x)
    expedite.patch(model, alpha=0, clusters=4, delta=delta, log_mass=log_mass, **HARD)
    torch.testing.assert_close(model(x), plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.forward_features(x), features, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("exit_at", ["backbone", "head"])
def test_with_prefix_tokens_it_holds_under_log_mass_attention(exit_at: str) -> None:
    vit, x = timm_vit(pos_embed="none"), blocky(images(), 4)
    plain = vit(x)
    expedite.patch(vit, alpha=1, clusters=4, log_mass=True, **HARD)
    torch.testing.assert_close(vit(x), plain, rtol=1e-4, atol=1e-4)
    expedite.patch(vit, alpha=1, clusters=4, log_mass=False, **HARD)
    assert not torch.allclose(vit(x), plain, rtol=1e-3, atol=1e-3)

    model = without_positions(segmenter())
    plain = model(x)
    expedite.patch(model, alpha=1, clusters=4, reconstruct_at=exit_at, **HARD)
    torch.testing.assert_close(model(x), plain, rtol=1e-3, atol=1e-3)


def test_cells_of_equal_tokens_pass_a_chain_of_clusterings() -> None:
    model = timm_vit(pos_embed="none", depth=5, img_size=64)
    x = blocky(blocky(images(height=64, width=64), 8), 4)  # constant over 4×4 tokens
    plain = model.forward_features(x)
    chain = expedite.Plan((expedite.Span(0, clusters=8), expedite.Span(2, clusters=4)), **HARD)
    expedite.patch(model, chain)
    torch.testing.assert_close(model.forward_features(x), plain, rtol=1e-3, atol=1e-3)
