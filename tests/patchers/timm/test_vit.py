"""timm VisionTransformers of every kind, with all their ways of being called."""

from typing import Any

import pytest
import timm
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import (
    DiffParallelScalingBlock,
    ParallelScalingBlock,
    ParallelThingsBlock,
    ResPostBlock,
    VisionTransformer,
)
from torch import Tensor

import expedite
from expedite.operators.clustering import cluster
from expedite.operators.reconstruction import reconstruct
from expedite.patching.hooks import find_sessions
from tests.hosts import counted_reconstructions, images, open_frames, randomized, timm_vit
from tests.oracles import RELOCATED, normalized

KINDS: dict[str, dict[str, Any]] = {
    "class token": {},
    "registers": {"reg_tokens": 4},
    "registers, positions on the grid alone": {"reg_tokens": 4, "no_embed_class": True},
    "no class token": {"class_token": False, "global_pool": "avg"},
    "average pooling": {"global_pool": "avg"},
    "average pooling with the prefix": {"global_pool": "avg", "pool_include_prefix": True},
    "average and maximum pooling": {"global_pool": "avgmax"},
    "maximum pooling": {"global_pool": "max"},
    "map pooling": {"global_pool": "map"},
    "map pooling, no class token": {"global_pool": "map", "class_token": False},
    "no pooling": {"global_pool": "", "num_classes": 0},
    "no positions": {"pos_embed": "none"},
    "norm before the blocks": {"pre_norm": True},
    "layer scale and q, k norms": {"init_values": 1.0, "qk_norm": True},
    "any size": {"dynamic_img_size": True},
    "any size, padded": {"dynamic_img_size": True, "dynamic_img_pad": True},
    "post-norm blocks": {"block_fn": ResPostBlock},
    "parallel blocks": {"block_fn": ParallelScalingBlock},
    "differential attention": {"block_fn": DiffParallelScalingBlock},
    "parallel attentions": {"block_fn": ParallelThingsBlock},
    "not square": {"img_size": (24, 40)},
}


pytestmark = pytest.mark.usefixtures("no_gradients")


def input_for(kind: str) -> Tensor:
    sizes = {"not square": (24, 40), "any size": (40, 28), "any size, padded": (37, 30)}
    return images(2, *sizes.get(kind, (32, 32)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_patched_and_unpatched(kind: str) -> None:
    model, x = timm_vit(**KINDS[kind]), input_for(kind)
    plain, features = model(x), model.forward_features(x)
    expedite.patch(model, alpha=1, clusters=(4, 5))
    patched = model(x)
    assert patched.shape == plain.shape
    assert patched.isfinite().all()
    assert not torch.allclose(patched, plain)
    assert model.forward_features(x).shape == features.shape
    assert open_frames(model) == 0
    assert torch.equal(expedite.unpatch(model)(x), plain)


def test_the_distilled_kind_keeps_both_its_tokens() -> None:
    torch.manual_seed(0)
    make: Any = VisionTransformerDistilled
    size = {"img_size": 32, "patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2}
    model = randomized(make(**size, num_classes=10))
    assert expedite.describe(model).prefix_tokens == 2
    expedite.patch(model, alpha=2, clusters=4)
    with counted_reconstructions(model) as calls:
        model(images())
    assert calls == []


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "deit3_small_patch16_224",
        "deit_tiny_distilled_patch16_224",
        "vit_small_patch14_reg4_dinov2",
        "vit_base_patch16_clip_224",
        "vit_base_patch16_siglip_224",
        "vit_base_patch16_siglip_gap_224",
        "vit_small_patch8_224",
        "flexivit_small",
        "vit_medium_patch16_gap_240",
        "vit_base_patch32_plus_256",
        "vit_small_r26_s32_224",
        "vit_wee_patch16_reg1_gap_256",
        "vit_pwee_patch16_reg1_gap_256",
    ],
)
def test_models_that_timm_names(name: str) -> None:
    torch.manual_seed(0)
    smallest: Any = timm.create_model(name, depth=1)
    patch_size = smallest.patch_embed.patch_size[0]
    model: Any = timm.create_model(name, depth=4, num_classes=3, img_size=4 * patch_size).eval()
    x = images(1, *model.patch_embed.img_size)
    grid = expedite.describe(model).grid
    plain = model(x)
    cells = (max(1, grid[0] - 1), max(1, grid[1] - 1))
    expedite.patch(model, alpha=2, clusters=cells)
    assert model(x).shape == plain.shape
    assert model.forward_features(x).shape[1] == model.num_prefix_tokens + grid[0] * grid[1]
    assert torch.equal(expedite.unpatch(model)(x), plain)


def by_hand(model: Any, x: Tensor, alpha: int, end: int, **settings: Any) -> list[Tensor]:
    """Every block's output at full resolution, from the operators and the blocks themselves."""
    tokens = model.norm_pre(model._pos_embed(model.patch_embed(x)))
    outputs = []
    for block in model.blocks[:alpha]:
        tokens = block(tokens)
        outputs.append(tokens)
    prefix, body = tokens[:, :1], tokens[:, 1:]
    centroids, record = cluster(body, (8, 8), (4, 5), features=normalized(body), **RELOCATED)
    mask = torch.cat([torch.zeros(len(x), 1), record.mass.log()], 1)[:, None, None]
    short = torch.cat([prefix, centroids], 1)
    for block in model.blocks[alpha:end]:
        short = block(short, attn_mask=mask)
        full = reconstruct(short[:, 1:], record)
        outputs.append(torch.cat([short[:, :1], full], 1))
    tokens = outputs[-1]
    for block in model.blocks[end:]:
        tokens = block(tokens)
        outputs.append(tokens)
    return outputs


@pytest.mark.parametrize("beta", [None, 2])
def test_all_outputs_equal_the_operators_applied_by_hand(beta: int | None) -> None:
    model, x = timm_vit(), images()
    expected = by_hand(model, x, alpha=1, end=4 if beta is None else 1 + beta)
    expedite.patch(model, alpha=1, beta=beta, clusters=(4, 5))
    last, taps = model.forward_intermediates(x, output_fmt="NLC", return_prefix_tokens=True)
    torch.testing.assert_close(last, model.norm(expected[-1]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        model.forward_features(x), model.norm(expected[-1]), rtol=1e-4, atol=1e-4
    )
    for (body, prefix), wanted in zip(taps, expected, strict=True):
        torch.testing.assert_close(torch.cat([prefix, body], 1), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("indices", "options", "grids"),
    [
        ([0], {}, 1),  # the result alone
        ([0], {"intermediates_only": True}, 0),
        ([0], {"intermediates_only": True, "stop_early": True}, 0),
        ([2], {"intermediates_only": True}, 1),
        ([1, 2, 3], {}, 3),
        ([1, 2, 3], {"intermediates_only": True}, 3),
        ([2], {"stop_early": True, "intermediates_only": True}, 1),
        (2, {"norm": True, "intermediates_only": True}, 2),
    ],
)
def test_only_taps_that_are_read_are_reconstructed(
    indices: Any, options: dict[str, Any], grids: int
) -> None:
    model = expedite.patch(timm_vit(), alpha=1, clusters=4)
    with counted_reconstructions(model) as calls:
        model.forward_intermediates(images(), indices=indices, **options)
    assert calls == [16] * grids
    assert open_frames(model) == 0


def test_all_taps_share_one_set_of_weights() -> None:
    model = expedite.patch(timm_vit(), alpha=1, clusters=4)
    (session,) = find_sessions(model)
    calls: list[int] = []
    session.reconstruction.weigh.register_forward_hook(lambda *_: calls.append(1))
    model.forward_intermediates(images(), indices=[1, 2, 3])
    assert calls == [1]


def test_features_only_models_give_full_grids() -> None:
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", features_only=True, out_indices=[1, 4, 11], img_size=128
    ).eval()
    x = images(1, 128, 128)
    expected = [tap.shape for tap in model(x)]
    plain = model(x)
    expedite.patch(model, alpha=3, clusters=5)
    assert expedite.describe(model).path == "model"
    with counted_reconstructions(model) as calls:
        patched = model(x)
    assert [tap.shape for tap in patched] == expected
    assert calls == [25, 25]
    assert torch.equal(patched[0], plain[0])  # before the span
    assert not torch.equal(patched[2], plain[2])


def test_intermediate_layers_in_the_manner_of_dino() -> None:
    model = expedite.patch(timm_vit(), alpha=1, clusters=4)
    taps = model.get_intermediate_layers(images(), n=2, reshape=True)
    assert [tap.shape for tap in taps] == [(2, 32, 8, 8)] * 2


@pytest.mark.parametrize(
    ("kind", "grids"),
    [
        ("class token", 0),
        ("registers", 0),
        ("average pooling", 0),
        ("no class token", 0),
        ("average pooling with the prefix", 1),
        ("average and maximum pooling", 1),
        ("maximum pooling", 1),
        ("map pooling", 1),
        ("no pooling", 1),
    ],
)
def test_classifiers_reconstruct_only_what_their_pooling_reads(kind: str, grids: int) -> None:
    model = expedite.patch(timm_vit(**KINDS[kind]), alpha=2, clusters=4)
    with counted_reconstructions(model) as calls:
        model(images())
    assert len(calls) == grids


def test_average_pooling_gets_the_mass_weighted_mean() -> None:
    model, x = timm_vit(class_token=False, global_pool="avg"), images()
    expedite.patch(model, alpha=3, clusters=(4, 5), log_mass=False)
    found = model(x)
    expedite.unpatch(model)
    tokens = model._pos_embed(model.patch_embed(x))
    for block in model.blocks[:3]:
        tokens = block(tokens)
    centroids, record = cluster(tokens, (8, 8), (4, 5), features=normalized(tokens), **RELOCATED)
    weights = record.mass / 64
    pooled = (weights[..., None] * model.blocks[3](centroids)).sum(1)
    torch.testing.assert_close(found, model.head(model.fc_norm(pooled)), rtol=1e-4, atol=1e-4)


def test_a_head_that_is_exchanged_later_still_gets_what_it_reads() -> None:
    model = expedite.patch(timm_vit(), alpha=2, clusters=4)
    model.reset_classifier(0, global_pool="")
    assert model(images()).shape == (2, 65, 32)


def test_an_exception_in_forward_features_leaves_nothing_behind() -> None:
    model = expedite.patch(timm_vit(), alpha=1, clusters=4)
    with pytest.raises(AssertionError):
        model.forward_features(images(2, 36, 32))  # the model takes 32×32
    assert open_frames(model) == 0


def test_keep_follows_the_size_of_the_image() -> None:
    model = expedite.patch(timm_vit(dynamic_img_size=True), alpha=1, keep=0.25)
    (session,) = find_sessions(model)
    counts: list[int] = []
    session.clusterings[1].register_forward_hook(
        lambda module, args, output: counts.append(output[0].shape[1])
    )
    for size in ((32, 32), (64, 32), (28, 60)):
        model.forward_features(images(1, *size))
    assert counts == [16, 32, 4 * 8]


def test_a_method_overridden_on_the_instance_is_called_and_restored() -> None:
    model = timm_vit()
    calls: list[int] = []

    def features(x: Tensor) -> Tensor:
        calls.append(1)
        return VisionTransformer.forward_features(model, x)

    model.forward_features = features
    expedite.patch(model, alpha=1, clusters=4)
    model.forward_features(images())
    expedite.unpatch(model)
    assert calls == [1]
    assert model.forward_features is features
