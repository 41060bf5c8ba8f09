"""PiT and CrossViT of timm: rows of plain blocks between which something reads all tokens."""

from collections.abc import Callable
from typing import Any

import pytest
from timm.models.crossvit import CrossVit
from timm.models.pit import PoolingVisionTransformer

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


def pit(**changes: Any) -> Any:
    """Three blocks of width 16 on 15×15 tokens and three of width 32 on 8×8."""
    sizes: dict[str, Any] = {"img_size": 32, "patch_size": 4, "stride": 2, "num_classes": 10}
    stages: dict[str, Any] = {"base_dims": (8, 8), "depth": (3, 3), "heads": (2, 4)}
    return randomized(PoolingVisionTransformer(**{**sizes, **stages, **changes}))


def cross_vit(**changes: Any) -> Any:
    """Twice a block of width 16 on 4×4 tokens and three of width 32 on 8×8."""
    sizes: dict[str, Any] = {"img_size": 32, "patch_size": (8, 4), "embed_dim": (16, 32)}
    rows: dict[str, Any] = {"depth": ((1, 3, 0), (1, 3, 0)), "num_heads": (2, 2)}
    heads: dict[str, Any] = {"mlp_ratio": (2.0, 2.0, 1.0), "num_classes": 10}
    return randomized(CrossVit(**{**sizes, **rows, **heads, **changes}))


# With the first block of the span and the tokens along a side there.
KINDS: dict[str, tuple[Callable[[], Any], int, int]] = {
    "PiT, first stage": (pit, 1, 15),
    "PiT, second stage": (lambda: pit(distilled=True), 3, 8),
    "CrossViT, first row": (cross_vit, 1, 8),
    "CrossViT, second row": (lambda: cross_vit(multi_conv=False, global_pool="avg"), 3, 8),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_patched_and_unpatched(kind: str) -> None:
    make, alpha, _ = KINDS[kind]
    returns_to_what_it_was(make(), images(), intermediates, alpha=alpha, clusters=(4, 5))


@pytest.mark.parametrize("kind", KINDS)
def test_the_full_grid_without_the_shortcut_equals_the_plain_model(kind: str) -> None:
    make, alpha, side = KINDS[kind]
    equals_the_plain_model(make(), images(), intermediates, alpha=alpha, clusters=side)


def test_cells_of_equal_tokens_cluster_without_loss() -> None:
    model = cross_vit()
    for name, parameter in model.named_parameters():
        if name.startswith("pos_embed"):
            parameter.zero_()
    clusters_without_loss(model, blocky(images(), 4), intermediates, alpha=1, clusters=4)


def test_a_span_lies_within_a_stage_whose_map_it_clusters() -> None:
    model = expedite.patch(pit(), alpha=4, clusters=4)
    said = str(expedite.describe(model))
    assert "blocks 5 to 6 run on 4×4 clusters, 16 of 64 tokens" in said
    with pytest.raises(expedite.ExpediteError, match="stage"):
        expedite.patch(model, alpha=1, beta=3, clusters=4)
    with pytest.raises(expedite.ExpediteError, match="8×8 tokens; each side can have"):
        expedite.patch(model, alpha=4, clusters=9)
