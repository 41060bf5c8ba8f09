"""Visformer and NesT of timm, whose blocks take tokens in shapes of their own."""

from collections.abc import Callable
from typing import Any

import pytest
from timm.models.nest import Nest
from timm.models.visformer import Visformer

import expedite
from tests.host_table import intermediates
from tests.hosts import images, randomized
from tests.patchers.promises import (
    clusters_without_loss,
    equals_the_plain_model,
    returns_to_what_it_was,
)
from tests.patching.test_oracles import blocky

pytestmark = pytest.mark.usefixtures("no_gradients")


def visformer(**changes: Any) -> Any:
    """A block of convolutions on 16×16 tokens, three of width 32 on 8×8 and two of 64 on 4×4."""
    sizes: dict[str, Any] = {"img_size": 128, "init_channels": 8, "embed_dim": 32, "num_heads": 2}
    stages: dict[str, Any] = {"depth": (1, 3, 2), "attn_stage": "011", "spatial_conv": "100"}
    return randomized(Visformer(**{**sizes, **stages, "num_classes": 10, **changes}))


def nest() -> Any:
    """A block of width 16 on four windows of 8×8 tokens, three of width 32 on 8×8."""
    sizes: dict[str, Any] = {"img_size": 64, "patch_size": 4, "num_levels": 2, "num_classes": 10}
    return randomized(Nest(**sizes, embed_dims=(16, 32), num_heads=(2, 2), depths=(1, 3)))


# With the side of its images, the first block of the span and the tokens along a side there.
KINDS: dict[str, tuple[Callable[[], Any], int, int, int]] = {
    "Visformer, second stage": (visformer, 128, 1, 8),
    "Visformer, third stage": (visformer, 128, 3, 4),
    "NesT": (nest, 64, 1, 8),
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
    model = visformer(vit_stem=False, init_channels=None, depth=(0, 3, 2), img_size=64)
    for name, parameter in model.named_parameters():
        if "pos_embed" in name:
            parameter.zero_()
    x = blocky(images(2, 64, 64), 16)
    clusters_without_loss(model, x, intermediates, alpha=0, clusters=2)


def test_stages_of_one_map_and_several_widths_are_refused() -> None:
    model = visformer(attn_stage="111", spatial_conv="111")
    with pytest.raises(expedite.ExpediteError, match="hold a convolution"):
        expedite.patch(model, alpha=1, clusters=2)
