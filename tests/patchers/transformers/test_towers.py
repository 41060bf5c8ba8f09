"""Vision towers of transformers, made from their configs: states, oracles, queries, windows."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import expedite
from expedite.operators import clustering
from tests.hosts import images, randomized
from tests.patching.test_oracles import HARD, blocky

# Its configs take what their annotations do not show.
hf: Any = transformers
SIZE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
VIT: dict[str, Any] = {**SIZE, "intermediate_size": 64, "image_size": 32, "patch_size": 4}
DINO: dict[str, Any] = {**SIZE, "mlp_ratio": 2, "image_size": 32, "patch_size": 4}
TEXT: dict[str, Any] = {**SIZE, "intermediate_size": 64, "vocab_size": 99}
STAGES = ["stage1", "stage3"]


def tower(name: str, config: str, **sizes: Any) -> Callable[[], Any]:
    return lambda: getattr(hf, name)(getattr(hf, config)(**sizes))


def part(library: str, name: str, config: str, **changes: Any) -> Callable[[], Any]:
    """A tower that the library does not name at its top."""

    def make() -> Any:
        models = import_module(f"transformers.models.{library}.modeling_{library}")
        configs = import_module(f"transformers.models.{library}.configuration_{library}")
        return getattr(models, name)(getattr(configs, config)(**VIT, **changes))

    return make


def eomt(shares: float, **changes: Any) -> Any:
    """A small EoMT, with two queries that enter before the last two blocks."""
    sizes = {**DINO, "num_blocks": 2, "num_queries": 3, "num_upscale_blocks": 1, **changes}
    model = hf.EomtForUniversalSegmentation(hf.EomtConfig(**sizes, num_register_tokens=2))
    model.attn_mask_probs.fill_(shares)
    return model


def eomt_dinov3(shares: float) -> Any:
    sizes = {**VIT, "num_blocks": 2, "num_queries": 3, "num_upscale_blocks": 1}
    config = hf.EomtDinov3Config(**sizes, num_register_tokens=2)
    model = hf.EomtDinov3ForUniversalSegmentation(config)
    model.attn_mask_probs.fill_(shares)
    return model


def rf_detr(**changes: Any) -> Any:
    """Windows of 4×4 tokens, of which the second block joins all."""
    windows = {"num_windows": 2, "window_block_indexes": [0, 2, 3]}
    config = hf.RfDetrDinov2Config(**{**DINO, **windows, "out_features": STAGES, **changes})
    return hf.RfDetrDinov2Backbone(config)


def lw_detr() -> Any:
    """Windows of 4×4 tokens, of which the second block joins all."""
    windows = {"num_windows": 4, "window_block_indices": [0, 2, 3]}
    sizes = {**DINO, "pretrain_image_size": 32, "cae_init_values": 1.0}
    return hf.LwDetrViTBackbone(hf.LwDetrViTConfig(**{**sizes, **windows}, out_features=STAGES))


def yolos(**changes: Any) -> Any:
    config = {**VIT, "image_size": [32, 32], "num_detection_tokens": 5, **changes}
    return hf.YolosModel(hf.YolosConfig(**config), add_pooling_layer=False)


def vitpose(**changes: Any) -> Any:
    # Its convolution pads by two pixels, half of a small patch.
    size = {**SIZE, "image_size": (64, 64), "patch_size": (8, 8), "mlp_ratio": 2}
    return hf.VitPoseBackbone(hf.VitPoseBackboneConfig(**size, out_features=STAGES, **changes))


# The second says whether tokens that are equal in cells of 2×2 are merged without loss.
TOWERS: dict[str, tuple[Callable[[], Any], bool]] = {
    "CLIP": (tower("CLIPVisionModel", "CLIPVisionConfig", **VIT), True),
    "MetaCLIP 2": (tower("MetaClip2VisionModel", "MetaClip2VisionConfig", **VIT), True),
    "AltCLIP": (tower("AltCLIPVisionModel", "AltCLIPVisionConfig", **VIT), True),
    "Chinese CLIP": (tower("ChineseCLIPVisionModel", "ChineseCLIPVisionConfig", **VIT), True),
    "SigLIP": (tower("SiglipVisionModel", "SiglipVisionConfig", **VIT), True),
    "AIMv2": (tower("Aimv2VisionModel", "Aimv2VisionConfig", **VIT), True),
    "I-JEPA": (tower("IJepaModel", "IJepaConfig", **VIT), True),
    "ViT MSN": (tower("ViTMSNModel", "ViTMSNConfig", **VIT), True),
    "BLIP": (tower("BlipVisionModel", "BlipVisionConfig", **VIT), True),
    "BLIP-2": (tower("Blip2VisionModel", "Blip2VisionConfig", **VIT), True),
    "InstructBLIP": (tower("InstructBlipVisionModel", "InstructBlipVisionConfig", **VIT), True),
    "GIT": (tower("GitVisionModel", "GitVisionConfig", **VIT), True),
    "Janus": (tower("JanusVisionModel", "JanusVisionConfig", **VIT, projection_dim=32), True),
    "Idefics 2": (part("idefics2", "Idefics2VisionTransformer", "Idefics2VisionConfig"), True),
    "Idefics 3": (part("idefics3", "Idefics3VisionTransformer", "Idefics3VisionConfig"), True),
    "SmolVLM": (part("smolvlm", "SmolVLMVisionTransformer", "SmolVLMVisionConfig"), True),
    "Kosmos-2": (part("kosmos2", "Kosmos2VisionModel", "Kosmos2VisionConfig"), True),
    "Ovis 2": (part("ovis2", "Ovis2VisionModel", "Ovis2VisionConfig", hidden_stride=1), True),
    "InternVL": (tower("InternVLVisionModel", "InternVLVisionConfig", **VIT), True),
    "Pixio": (tower("PixioModel", "PixioConfig", **DINO, n_cls_tokens=3), True),
    "Pixio backbone": (
        tower("PixioBackbone", "PixioConfig", **DINO, n_cls_tokens=3, out_features=STAGES),
        True,
    ),
    "TIPSv2": (tower("Tipsv2VisionModel", "Tipsv2VisionConfig", **DINO), True),
    "OWL-ViT": (tower("OwlViTVisionModel", "OwlViTVisionConfig", **VIT), True),
    "OWLv2": (tower("Owlv2VisionModel", "Owlv2VisionConfig", **VIT), True),
    "ViTPose": (vitpose, False),
    "MLCD": (tower("MLCDVisionModel", "MLCDVisionConfig", **VIT), False),
    "Pixtral": (tower("PixtralVisionModel", "PixtralVisionConfig", **VIT), False),
    "RADIO": (tower("RadioModel", "RadioConfig", **VIT, max_img_size=32), True),
    "Sapiens 2": (tower("Sapiens2Model", "Sapiens2Config", **VIT), False),
    "YOLOS": (lambda: yolos(use_mid_position_embeddings=False), True),
    "YOLOS, positions between": (lambda: yolos(use_mid_position_embeddings=True), True),
    "EoMT": (lambda: eomt(0.0), True),
    "EoMT with masks": (lambda: eomt(1.0), False),
    "EoMT of DINOv3": (lambda: eomt_dinov3(0.0), False),
    "EoMT of DINOv3 with masks": (lambda: eomt_dinov3(1.0), False),
    "RF-DETR": (rf_detr, True),
    "LW-DETR": (lw_detr, True),
}
names = pytest.mark.parametrize("name", list(TOWERS))

pytestmark = pytest.mark.usefixtures("no_gradients")


def made(name: str) -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    side = 64 if name == "ViTPose" else 32
    return randomized(TOWERS[name][0]()), images(2, side, side)


def clusters_of(model: Any) -> int:
    """As many along a side as tokens: RF-DETR's are those of a window."""
    rows: int = expedite.describe(model).grid[0]
    return rows


def tensors(output: Any) -> list[Tensor]:
    flat: list[Tensor] = []
    for value in output.to_tuple():
        flat.extend([value] if isinstance(value, Tensor) else value)
    return flat


@names
def test_patches_and_returns_to_what_it_was(name: str) -> None:
    model, x = made(name)
    plain = tensors(model(x))
    expedite.patch(model, alpha=1, clusters=clusters_of(model) // 2)
    patched = tensors(model(x))
    assert [t.shape for t in patched] == [t.shape for t in plain]
    assert not torch.allclose(patched[-1], plain[-1], rtol=1e-3, atol=1e-3)
    expedite.patch(model, alpha=1, clusters=clusters_of(model) // 2, log_mass=False)
    assert not torch.allclose(tensors(model(x))[-1], patched[-1], rtol=1e-4, atol=1e-4)
    assert all(map(torch.equal, tensors(expedite.unpatch(model)(x)), plain))


@names
@pytest.mark.parametrize("recorded_before", [True, False])
def test_every_hidden_state_has_the_full_grid(name: str, recorded_before: bool) -> None:
    model, x = made(name)
    # Recorders are installed by the first call that asks for states, and stay.
    plain = model(x, output_hidden_states=True).hidden_states
    model = model if recorded_before else made(name)[0]
    expedite.patch(model, alpha=2, clusters=clusters_of(model) // 2)
    states = model(x, output_hidden_states=True).hidden_states
    assert [state.shape for state in states] == [state.shape for state in plain]
    assert all(torch.equal(a, b) for a, b in zip(states[:3], plain[:3], strict=True))
    assert not torch.allclose(states[3], plain[3], rtol=1e-3, atol=1e-3)


@names
@pytest.mark.parametrize("log_mass", [True, False])
def test_the_full_grid_without_the_shortcut_equals_the_plain_model(
    name: str, log_mass: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = made(name)
    plain = tensors(model(x, output_hidden_states=True))
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    clusters = clusters_of(model)
    for alpha, beta in ((1, None), (1, 2), (3, None)):
        expedite.patch(model, alpha=alpha, beta=beta, clusters=clusters, log_mass=log_mass, **HARD)
        for found, expected in zip(
            tensors(model(x, output_hidden_states=True)), plain, strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", [name for name, (_, is_equal) in TOWERS.items() if is_equal])
def test_cells_of_equal_tokens_cluster_without_loss(name: str) -> None:
    model, _ = made(name)
    for path, parameter in model.named_parameters():
        if "position" in path:
            parameter.zero_()
    x = blocky(images(), 4)
    plain = tensors(model(x))
    expedite.patch(model, alpha=1, clusters=clusters_of(model) // 2, **HARD)
    for found, expected in zip(tensors(model(x)), plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


# How a tower is asked to take images of another size than its own.
SHAPES: dict[str, dict[str, Any]] = {
    "CLIP": {"interpolate_pos_encoding": True},
    "SigLIP": {"interpolate_pos_encoding": True},
    "I-JEPA": {"interpolate_pos_encoding": True},
    "ViT MSN": {"interpolate_pos_encoding": True},
    "BLIP": {"interpolate_pos_encoding": True},
    "OWL-ViT": {"interpolate_pos_encoding": True},
    "InternVL": {},
    "MLCD": {},
    "Pixtral": {},
    "Pixio": {},
    "Pixio backbone": {},
    "RADIO": {},
    "Sapiens 2": {},
    "TIPSv2": {},
    "YOLOS, positions between": {},
    "LW-DETR": {},
}


@pytest.mark.parametrize("name", list(SHAPES))
def test_images_that_are_not_square(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = made(name)
    x, asked = images(2, 32, 64), {**SHAPES[name], "output_hidden_states": True}
    plain = tensors(model(x, **asked))
    expedite.patch(model, alpha=1, clusters=(3, 4))
    assert [t.shape for t in tensors(model(x, **asked))] == [t.shape for t in plain]
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    grid = (4, 8) if name == "LW-DETR" else (8, 16)
    expedite.patch(model, alpha=1, clusters=grid, **HARD)
    for found, expected in zip(tensors(model(x, **asked)), plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)
