"""timm's Beit with all its ways of being called; its attention is in test_bias.py."""

from typing import Any

import pytest
import timm
import torch
from torch import nn

import expedite
from expedite.measure.flops import count_flops
from expedite.operators.clustering import cluster
from tests.hosts import counted_reconstructions, images, open_frames, timm_beit
from tests.oracles import IN_PLACE, normalized
from tests.patching.test_oracles import HARD, blocky

pytestmark = pytest.mark.usefixtures("no_gradients")

# With the number of grids that a classifier reconstructs.
KINDS: dict[str, tuple[dict[str, Any], int]] = {
    "average pooling": ({}, 0),
    "average pooling behind the norm": ({"use_fc_norm": False}, 0),
    "class token": ({"global_pool": "token"}, 0),
    "no pooling": ({"global_pool": "", "num_classes": 0}, 1),
    "tables of blocks alone": ({"use_shared_rel_pos_bias": False}, 0),
    "a table for all alone": ({"use_rel_pos_bias": False}, 0),
    "no tables": ({"use_rel_pos_bias": False, "use_shared_rel_pos_bias": False}, 0),
    "not square": ({"img_size": (24, 40)}, 0),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("log_mass", [True, False])
def test_every_kind_is_patched_and_unpatched(kind: str, log_mass: bool) -> None:
    changes, grids = KINDS[kind]
    model, x = timm_beit(**changes), images(2, *changes.get("img_size", (32, 32)))
    plain, features = model(x), model.forward_features(x)
    expedite.patch(model, alpha=1, clusters=(4, 5), log_mass=log_mass)
    with counted_reconstructions(model) as calls:
        patched = model(x)
    assert calls == [20] * grids
    assert patched.shape == plain.shape
    assert not torch.allclose(patched, plain)
    assert model.forward_features(x).shape == features.shape
    assert open_frames(model) == 0
    assert torch.equal(expedite.unpatch(model)(x), plain)


@pytest.mark.parametrize("kind", ["average pooling", "class token"])
def test_cells_of_equal_tokens_cluster_without_loss_where_tables_are_zero(kind: str) -> None:
    model, x = timm_beit(**KINDS[kind][0]), blocky(images(), 4)
    for name, parameter in model.named_parameters():
        if name.endswith(("pos_embed", "relative_position_bias_table")):
            parameter.zero_()
    plain = model(x)
    expedite.patch(model, alpha=1, clusters=4, **HARD)
    torch.testing.assert_close(model(x), plain, rtol=1e-3, atol=1e-3)
    expedite.patch(model, alpha=1, clusters=4, log_mass=False, **HARD)
    assert not torch.allclose(model(x), plain, rtol=1e-3, atol=1e-3)


def test_average_pooling_gets_the_mass_weighted_mean() -> None:
    changes = {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": False}
    model, x = timm_beit(**changes), images()
    found = expedite.patch(model, alpha=3, clusters=(4, 5), log_mass=False)(x)
    expedite.unpatch(model)
    tokens = torch.cat([model.cls_token.expand(2, -1, -1), model.patch_embed(x)], 1)
    tokens = model.pos_embed + tokens
    for block in model.blocks[:3]:
        tokens = block(tokens)
    body, last = tokens[:, 1:], model.blocks[3]
    centroids, record = cluster(body, (8, 8), (4, 5), features=normalized(body), **IN_PLACE)
    after = last(torch.cat([tokens[:, :1], centroids], 1))[:, 1:]
    pooled = (record.mass[..., None] / 64 * after).sum(1)
    torch.testing.assert_close(found, model.head(model.fc_norm(pooled)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "grids"), [({"intermediates_only": True}, 2), ({"indices": [0]}, 1), ({}, 3)]
)
def test_intermediates_have_the_full_grid(options: dict[str, Any], grids: int) -> None:
    options = {"indices": [0, 1, 2], **options}
    model, x = timm_beit(), images()
    expected = model.forward_intermediates(x, **options)
    expedite.patch(model, alpha=1, clusters=4)
    with counted_reconstructions(model) as calls:
        found = model.forward_intermediates(x, **options)
    assert calls == [16] * grids
    taps, plain = (found, expected) if "intermediates_only" in options else (found[1], expected[1])
    assert [tap.shape for tap in taps] == [tap.shape for tap in plain]
    assert torch.equal(taps[0], plain[0])
    assert not any(map(torch.allclose, taps[1:], plain[1:]))


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "beitv2_base_patch16_224"])
def test_features_only(name: str) -> None:
    small: dict[str, Any] = {"depth": 4, "embed_dim": 32, "num_heads": 2, "img_size": 96}
    features = timm.create_model(name, features_only=True, out_indices=[1, 2, 3], **small).eval()
    x = images(1, 96, 96)
    plain = features(x)
    expedite.patch(features, alpha=2, clusters=4)
    with counted_reconstructions(features) as calls:
        found = features(x)
    assert [tap.shape for tap in found] == [tap.shape for tap in plain]
    assert calls == [16, 16]


@pytest.mark.filterwarnings("ignore::UserWarning:timm")  # as it resizes its tables
def test_another_size_set_on_a_patched_model() -> None:
    model = expedite.patch(timm_beit(), alpha=1, clusters=(4, 5))
    model.set_input_size((48, 40))
    fresh = timm_beit()
    fresh.set_input_size((48, 40))
    x = images(2, 48, 40)
    assert torch.equal(model(x), expedite.patch(fresh, alpha=1, clusters=(4, 5))(x))


def test_a_bias_that_somebody_else_makes_is_used_where_nothing_is_clustered() -> None:
    model, x = timm_beit(), images()
    attention = model.blocks[2].attn
    attention._get_rel_pos_bias = lambda: torch.zeros(1, 2, 65, 65)
    plain = model(x)
    assert torch.equal(expedite.patch(model, alpha=1, clusters=8)(x), plain)
    assert torch.equal(expedite.unpatch(model)(x), plain)


def test_nothing_goes_uncounted() -> None:
    model: nn.Module = expedite.patch(timm_beit(), alpha=1, clusters=4)
    assert count_flops(model, images(1)).unsupported == {}
