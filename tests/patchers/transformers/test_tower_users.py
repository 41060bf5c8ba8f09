"""Models of transformers around a vision tower: they read the full grid, wherever it is patched."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import expedite
from expedite.operators import clustering
from tests.hosts import images, randomized
from tests.patchers.transformers.test_towers import (
    DINO,
    SIZE,
    STAGES,
    VIT,
    clusters_of,
    lw_detr,
    rf_detr,
    tensors,
    vitpose,
)
from tests.patching.test_oracles import HARD

# Its configs take what their annotations do not show.
hf: Any = transformers
TEXT: dict[str, Any] = {**SIZE, "intermediate_size": 64, "vocab_size": 99}
IDS: dict[str, Any] = {"input_ids": torch.arange(8)[None].repeat(2, 1)}

pytestmark = pytest.mark.usefixtures("no_gradients")


def pair_of(name: str, **changes: Any) -> Callable[[], Any]:
    """A model of an image tower and a text model, both small."""

    def make() -> Any:
        towers = {"vision_config": {**VIT, **changes}, "text_config": TEXT}
        return getattr(hf, f"{name}Model")(getattr(hf, f"{name}Config")(**towers, **WIDTH))

    return make


WIDTH = {"projection_dim": 32}


def owl(name: str) -> Callable[[], Any]:
    def make() -> Any:
        config = getattr(hf, f"{name}Config")
        text = {**TEXT, "max_position_embeddings": 16}
        made = config(vision_config=VIT, text_config=text, **WIDTH)
        return getattr(hf, f"{name}ForObjectDetection")(made)

    return make


def clipseg() -> Any:
    towers = {"vision_config": VIT, "text_config": TEXT, **WIDTH, "reduce_dim": 16}
    heads = {"extract_layers": [1, 2, 3], "decoder_num_attention_heads": 2}
    sizes = {"decoder_intermediate_size": 32, "use_complex_transposed_convolution": False}
    return hf.CLIPSegForImageSegmentation(hf.CLIPSegConfig(**towers, **heads, **sizes))


def llava() -> Any:
    text = {**TEXT, "num_key_value_heads": 2, "model_type": "llama"}
    config = hf.LlavaConfig(
        vision_config={**VIT, "model_type": "clip_vision_model"}, text_config=text
    )
    return hf.LlavaModel(config)


def yolos_detector() -> Any:
    config = hf.YolosConfig(**{**VIT, "image_size": [32, 32]}, num_detection_tokens=5)
    return hf.YolosForObjectDetection(config)


def pose() -> Any:
    config = hf.VitPoseConfig(backbone_config=vitpose().config, num_labels=3, scale_factor=4)
    return hf.VitPoseForPoseEstimation(config)


def dense(kind: str) -> Callable[[], Any]:
    """TIPSv2 under DPT's neck."""

    def make() -> Any:
        maps = {"out_features": [f"stage{index}" for index in (1, 2, 3, 4)]}
        backbone = hf.Tipsv2VisionConfig(**DINO, **maps, reshape_hidden_states=False)
        sizes = {"neck_hidden_sizes": [16] * 4, "fusion_hidden_size": 16}
        return getattr(hf, kind)(hf.Tipsv2DptConfig(backbone_config=backbone, **sizes))

    return make


def detector(name: str, backbone: Callable[[], Any]) -> Callable[[], Any]:
    """RF-DETR or LW-DETR around its own backbone."""

    def make() -> Any:
        heads = ("decoder", "decoder_self", "decoder_cross")
        sizes = {f"{head}_attention_heads": 2 for head in heads}
        sizes |= {"d_model": 32, "decoder_layers": 1, "decoder_ffn_dim": 32, "num_queries": 5}
        maps = {"projector_in_channels": [32, 32], "projector_out_channels": 32}
        maps |= {"projector_scale_factors": [1.0], "c2f_num_blocks": 1}
        config = getattr(hf, f"{name}Config")
        made = config(backbone_config=backbone().config, group_detr=1, **sizes, **maps)
        return getattr(hf, f"{name}ForObjectDetection")(made)

    return make


Call = Callable[[Any, Tensor], Any]


def called(model: Any, x: Tensor) -> Any:
    return model(x)


def with_text(model: Any, x: Tensor) -> Any:
    return model(pixel_values=x, **IDS)


def with_states(model: Any, x: Tensor) -> Any:
    return model(x, output_hidden_states=True)


def image_features(model: Any, x: Tensor) -> Any:
    return model.get_image_features(x)


def penultimate(model: Any, x: Tensor) -> Any:
    return model.get_image_features(x, vision_feature_layer=-2)


MODELS: dict[str, tuple[Callable[[], Any], Call]] = {
    "CLIP": (pair_of("CLIP"), with_text),
    "CLIP's images": (pair_of("CLIP"), image_features),
    "CLIP classifier": (
        lambda: hf.CLIPForImageClassification(
            hf.CLIPConfig(vision_config=VIT, text_config=TEXT, **WIDTH)
        ),
        called,
    ),
    "SigLIP": (pair_of("Siglip"), image_features),
    "OWL-ViT": (owl("OwlViT"), with_text),
    "OWLv2": (owl("Owlv2"), with_text),
    "CLIPSeg": (clipseg, with_text),
    "LLaVA": (llava, penultimate),
    "YOLOS": (yolos_detector, called),
    "ViTPose": (pose, called),
    "RF-DETR": (detector("RfDetr", rf_detr), called),
    "LW-DETR": (detector("LwDetr", lw_detr), called),
    "TIPSv2 depth": (dense("Tipsv2DptForDepthEstimation"), called),
    "TIPSv2 segmentation": (dense("Tipsv2DptForSemanticSegmentation"), called),
    "I-JEPA classifier": (
        lambda: hf.IJepaForImageClassification(hf.IJepaConfig(**VIT)),
        with_states,
    ),
    "TIPSv2 backbone": (
        lambda: hf.Tipsv2VisionBackbone(hf.Tipsv2VisionConfig(**DINO, out_features=STAGES)),
        with_states,
    ),
    "Sapiens 2 backbone": (
        lambda: hf.Sapiens2Backbone(hf.Sapiens2Config(**VIT, out_features=STAGES)),
        with_states,
    ),
}
names = pytest.mark.parametrize("name", list(MODELS))


def made(name: str) -> tuple[Any, Tensor, Call]:
    torch.manual_seed(0)
    make, call = MODELS[name]
    side = 64 if name == "ViTPose" else 32
    return randomized(make()), images(2, side, side), call


def flat(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    values = output.to_tuple() if hasattr(output, "to_tuple") else output
    return [tensor for value in values or () for tensor in flat(value)]


@names
def test_they_read_the_full_grid(name: str) -> None:
    model, x, call = made(name)
    plain = flat(call(model, x))
    expedite.patch(model, alpha=1, clusters=clusters_of(model) // 2)
    patched = flat(call(model, x))
    assert [t.shape for t in patched] == [t.shape for t in plain]
    apart = [not torch.allclose(a, b, rtol=1e-3) for a, b in zip(patched, plain, strict=True)]
    assert any(apart)
    assert all(map(torch.equal, flat(call(expedite.unpatch(model), x)), plain))


@names
def test_the_full_grid_without_the_shortcut_equals_the_plain_model(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, call = made(name)
    plain = flat(call(model, x))
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    expedite.patch(model, alpha=1, clusters=clusters_of(model), **HARD)
    # In the mean: convolutions of random weights magnify rounding here and there.
    for found, expected in zip(flat(call(model, x)), plain, strict=True):
        assert (found - expected).abs().mean() < 1e-3 * expected.abs().mean()


def test_a_windowed_backbone_is_clustered_window_by_window() -> None:
    torch.manual_seed(0)
    model = randomized(rf_detr())
    expedite.patch(model, alpha=1, clusters=2)
    assert expedite.describe(model).kept == ((2, 2),)
    assert tensors(model(images()))[0].shape == (2, 32, 8, 8)
