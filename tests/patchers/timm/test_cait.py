"""CaiT of timm: talking heads under clusters' masses, class attention on the full grid."""

from typing import Any

import pytest
import torch
from timm.models.cait import Cait

import expedite
from expedite.operators import clustering
from expedite.patchers.timm.cait import find_host
from tests.hosts import images, randomized, without_positions
from tests.patching.test_oracles import HARD, blocky

pytestmark = pytest.mark.usefixtures("no_gradients")


def cait() -> Any:
    """Four blocks of width 32 on 8×8 tokens of 4 pixels, and one of the class token."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "img_size": 32,
        "patch_size": 4,
        "embed_dim": 32,
        "depth": 4,
        "num_heads": 2,
    }
    return randomized(Cait(**sizes, depth_token_only=1, init_values=1.0, num_classes=10))


def test_patches_and_returns_to_what_it_was() -> None:
    model, x = cait(), images()
    plain, maps = model(x), model.forward_intermediates(x)[1]
    expedite.patch(model, alpha=1, clusters=4)
    assert not torch.allclose(model(x), plain, rtol=1e-3, atol=1e-3)
    assert [m.shape for m in model.forward_intermediates(x)[1]] == [m.shape for m in maps]
    assert torch.equal(expedite.unpatch(model)(x), plain)


@pytest.mark.parametrize("log_mass", [True, False])
def test_the_full_grid_without_the_shortcut_equals_the_plain_model(
    log_mass: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = cait(), images()
    plain = model(x)
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    expedite.patch(model, alpha=1, clusters=8, log_mass=log_mass, **HARD)
    torch.testing.assert_close(model(x), plain, rtol=1e-3, atol=1e-3)


def test_cells_of_equal_tokens_cluster_without_loss() -> None:
    model, x = without_positions(cait()), blocky(images(), 4)
    plain, features = model(x), model.forward_features(x)
    expedite.patch(model, alpha=1, clusters=4, **HARD)
    torch.testing.assert_close(model(x), plain, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(model.forward_features(x), features, rtol=1e-3, atol=1e-3)


def test_a_key_of_twice_the_mass_counts_as_two() -> None:
    model = cait()
    host = find_host(model)
    assert host is not None and host.attention is not None
    attention = host.attention.module(host.blocks[0])
    tokens = torch.randn(2, 5, 32)
    twice = torch.cat([tokens, tokens[:, 3:]], 1)
    mask = torch.tensor([1.0, 1, 1, 2, 2]).log()[None, None, None]
    expected = attention(twice)[:, :5]
    torch.testing.assert_close(host.attention.attend(attention, mask, tokens), expected)
