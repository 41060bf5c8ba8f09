"""VOLO, ConViT and LeViT of timm, whose attention to a whole map is done anew for clusters."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.models import levit as library
from timm.models.convit import ConVit
from timm.models.volo import VOLO
from torch import nn

import expedite
from expedite.patchers.timm.maps import find_host
from expedite.patching.host import Cells
from tests.host_table import intermediates
from tests.hosts import images, randomized
from tests.patchers.promises import (
    clusters_without_loss,
    equals_the_plain_model,
    returns_to_what_it_was,
)
from tests.patching.test_oracles import blocky

LeViT: Any = library.LevitDistilled  # whose arguments have no types
pytestmark = pytest.mark.usefixtures("no_gradients")


def volo() -> Any:
    """An outlooker on 16×16 tokens, four blocks of width 32 on 8×8, one of the class token."""
    stages: dict[str, Any] = {"layers": (1, 2, 2), "embed_dims": (16, 32, 32)}
    stages |= {"num_heads": (2, 2, 2), "mlp_ratio": (2.0, 2.0, 2.0), "post_layers": ("ca",)}
    stages |= {"downsamples": (True, False, False), "outlook_attention": (True, False, False)}
    sizes: dict[str, Any] = {"img_size": 64, "patch_size": 4, "stem_hidden_dim": 8}
    return randomized(VOLO(**stages, **sizes, num_classes=10))


def convit(**changes: Any) -> Any:
    """Two blocks of width 32 on 8×8 tokens, and two more with a class token."""
    sizes: dict[str, Any] = {"img_size": 32, "patch_size": 4, "embed_dim": 8, "num_heads": 4}
    rest: dict[str, Any] = {"depth": 4, "local_up_to_layer": 2, "num_classes": 10}
    return randomized(ConVit(**{**sizes, **rest, **changes}))


def levit(side: int) -> Any:
    """Three blocks of width 32 on tokens of 8 pixels, and two of width 48 on a quarter of them."""
    stages: dict[str, Any] = {"embed_dim": (32, 48), "depth": (3, 2), "num_heads": (2, 3)}
    sizes: dict[str, Any] = {"img_size": side, "stem_type": "s8", "key_dim": 8}
    return randomized(LeViT(**stages, **sizes, num_classes=10))


# With the side of its images, the first block of the span and the tokens along a side there.
KINDS: dict[str, tuple[Callable[[], Any], int, int, int]] = {
    "VOLO": (volo, 64, 1, 8),
    "ConViT": (convit, 32, 1, 8),
    "ConViT, behind the class token": (lambda: convit(global_pool="avg"), 32, 3, 8),
    "LeViT, first stage": (lambda: levit(56), 56, 1, 7),
    "LeViT, second stage": (lambda: levit(56), 56, 3, 4),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_patched_and_unpatched(kind: str) -> None:
    make, side, alpha, _ = KINDS[kind]
    x = images(2, side, side)
    returns_to_what_it_was(make(), x, intermediates, alpha=alpha, clusters=(2, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_the_full_grid_without_the_shortcut_equals_the_plain_model(kind: str) -> None:
    make, side, alpha, tokens = KINDS[kind]
    x = images(2, side, side)
    equals_the_plain_model(make(), x, intermediates, alpha=alpha, clusters=tokens)


def test_cells_of_equal_tokens_cluster_without_loss() -> None:
    """Where positions have no say, contents and masses alone decide."""
    model = convit()
    for name, parameter in model.named_parameters():
        if "pos_" in name:
            parameter.zero_()
    clusters_without_loss(model, blocky(images(), 4), intermediates, alpha=1, clusters=4)


@pytest.mark.parametrize("make", [convit, lambda: levit(64)])
def test_clusters_of_2x2_tokens_are_as_far_apart_as_two_tokens(make: Callable[[], Any]) -> None:
    """Ours for clusters is the library's own block on every second token of a larger map."""
    model = make()
    host = find_host(model)
    assert host is not None and host.run is not None
    block: nn.Module = host.blocks[0]
    chosen = torch.arange(64).reshape(8, 8)[::2, ::2].flatten()
    x = torch.randn(1, 16, 32)
    grids = (8, 8), (8, 8), (4, 4), (4, 4)
    cells = Cells(*grids, borders=True, keeps_shift=False, log_mass=None, resized=False)
    found = host.run(block, x, cells, {})
    attention: Any = block.get_submodule("attn")
    if hasattr(attention, "rel_indices"):
        attention.rel_indices = attention.get_rel_indices(64)[:, chosen][:, :, chosen]
    else:
        index = attention.attention_bias_idxs[chosen][:, chosen]
        attention.attention_bias_cache = {"cpu": attention.attention_biases[:, index]}
    torch.testing.assert_close(found, block(x), rtol=1e-3, atol=1e-3)


def test_levit_of_convolutions_is_refused() -> None:
    sizes = {"embed_dim": (32, 48), "key_dim": 8, "depth": (2, 2), "num_heads": (2, 3)}
    model = LeViT(img_size=32, **sizes, use_conv=True, stem_type="s8")
    with pytest.raises(expedite.ExpediteError, match="come in stages"):
        expedite.patch(model, alpha=1, clusters=2)
