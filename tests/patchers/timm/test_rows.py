"""timm's rows of blocks with biases of offsets, of patches in dictionaries, of language models."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.models.deepseek_vit import DeepseekVitClassifier, DeepseekVitEncoder
from timm.models.gemma4_vit import Gemma4VitClassifier, Gemma4VitEncoder
from timm.models.naflexvit import NaFlexVit
from timm.models.qwen3_vit import Qwen3VitClassifier, Qwen3VitEncoder
from timm.models.vision_transformer_relpos import ResPostRelPosBlock, VisionTransformerRelPos

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

# Four blocks of width 32 on 8×8 tokens of 4 pixels.
SIZES: dict[str, Any] = {"patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2}
IMAGE: dict[str, Any] = {**SIZES, "img_size": 32}
GEMMA: dict[str, Any] = {**SIZES, "head_dim": 16, "intermediate_size": 64}
GEMMA |= {"position_embedding_size": 8, "pooling_kernel_size": 2}


def rel_pos(**changes: Any) -> Any:
    return VisionTransformerRelPos(**{**IMAGE, "init_values": 1.0, "num_classes": 10, **changes})


def naflex(**changes: Any) -> Any:
    return NaFlexVit(**{**IMAGE, "num_classes": 10, **changes})


MODELS: dict[str, Callable[[], Any]] = {
    "offsets by an MLP": rel_pos,
    "offsets by SwinV2's MLP": lambda: rel_pos(rel_pos_type="mlp-swin", rel_pos_dim=8),
    "offsets in a table": lambda: rel_pos(rel_pos_type="bias", block_fn=ResPostRelPosBlock),
    "an MLP for all blocks": lambda: rel_pos(shared_rel_pos=True),
    "offsets by an MLP, class token": lambda: rel_pos(class_token=True, global_pool="token"),
    "a table, class token": lambda: rel_pos(class_token=True, rel_pos_type="bias"),
    "NaFlex": naflex,
    "NaFlex, convolution": lambda: naflex(embed_proj_type="conv", class_token=True),
    "NaFlex, rotary": lambda: naflex(rope_type="axial", global_pool="map"),
    "NaFlex, rotary for each head": lambda: naflex(rope_type="mixed", reg_tokens=2),
    "Qwen3": lambda: Qwen3VitEncoder(**IMAGE, pos_embed_grid_size=8),
    "Qwen3, classifier": lambda: Qwen3VitClassifier(**IMAGE, num_classes=10),
    "DeepSeek": lambda: DeepseekVitEncoder(**IMAGE, out_features=8),
    "DeepSeek, classifier": lambda: DeepseekVitClassifier(**IMAGE, num_classes=10),
    "Gemma 4": lambda: Gemma4VitEncoder(**GEMMA, num_kv_heads=1),
    "Gemma 4, classifier": lambda: Gemma4VitClassifier(**GEMMA, num_classes=10),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_is_patched_and_unpatched(name: str) -> None:
    model = randomized(MODELS[name]())
    returns_to_what_it_was(model, images(), intermediates, alpha=1, clusters=(4, 5))


@pytest.mark.parametrize("name", MODELS)
def test_the_full_grid_without_the_shortcut_equals_the_plain_model(name: str) -> None:
    model = randomized(MODELS[name]())
    equals_the_plain_model(model, images(), intermediates, alpha=1, clusters=8)


@pytest.mark.parametrize("name", ["offsets in a table", "an MLP for all blocks", "NaFlex"])
def test_cells_of_equal_tokens_cluster_without_loss(name: str) -> None:
    model = randomized(MODELS[name]())
    for path, parameter in model.named_parameters():
        if "rel_pos" in path or "pos_embed" in path:
            parameter.zero_()
    clusters_without_loss(model, blocky(images(), 4), intermediates, alpha=1, clusters=4)


@pytest.mark.parametrize("make", [naflex, lambda: Gemma4VitEncoder(**GEMMA)])
def test_patches_of_several_sizes_are_refused(make: Callable[[], Any]) -> None:
    model = expedite.patch(make().eval(), alpha=1, clusters=4)
    there = torch.arange(16)
    batch = {
        "patches": torch.randn(1, 16, 48),
        "patch_coord": torch.stack([there // 4, there % 4], -1)[None],
        "patch_valid": torch.ones(1, 16, dtype=torch.bool),
    }
    with pytest.raises(expedite.ExpediteError, match="a batch of images of one size works"):
        model(batch)
    assert model(images()).shape[0] == 2
