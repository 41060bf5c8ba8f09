"""Pipelines, and other holders of a model, are patched as the model in them is."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

import expedite

hf: Any = transformers  # its configs take what their annotations do not show
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 64,
    "patch_size": 8,
}
SIZE = {"height": 64, "width": 64}


def extractor() -> Any:
    processor = hf.ViTImageProcessor(size=SIZE)
    return hf.pipeline(
        "image-feature-extraction", hf.ViTModel(hf.ViTConfig(**SMALL)), **_with(processor)
    )


def segmenter() -> Any:
    config = hf.BeitConfig(**SMALL, out_indices=[1, 2, 3, 4], num_labels=3)
    model = hf.BeitForSemanticSegmentation(config)
    return hf.pipeline(
        "image-segmentation", model, **_with(hf.BeitImageProcessor(size=SIZE, do_center_crop=False))
    )


def depth() -> Any:
    backbone = hf.Dinov2Config(
        **SMALL, out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False
    )
    config = hf.DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=8,
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        head_in_channels=8,
    )
    model = hf.DepthAnythingForDepthEstimation(config)
    return hf.pipeline("depth-estimation", model, **_with(hf.DPTImageProcessor(size=SIZE)))


def detector() -> Any:
    small = SMALL | {"image_size": [64, 64], "num_detection_tokens": 5, "num_labels": 3}
    processor = hf.YolosImageProcessor(size=SIZE)
    return hf.pipeline(
        "object-detection", hf.YolosForObjectDetection(hf.YolosConfig(**small)), **_with(processor)
    )


def _with(processor: Any) -> dict[str, Any]:
    return {"image_processor": processor, "device": "cpu"}


@pytest.mark.parametrize("make", [extractor, segmenter, depth, detector])
def test_a_pipeline_is_patched_in_place_and_comes_back_as_it_was(make: Any) -> None:
    torch.manual_seed(0)
    pipe, states = make(), []
    pipe.model.eval()
    image = Image.effect_noise((64, 64), 80).convert("RGB")
    pipe.model.register_forward_hook(lambda m, a, out: states.append(out.to_tuple()))
    pipe(image)
    assert expedite.patch(pipe, alpha=1, clusters=4) is pipe
    pipe(image)
    ran = expedite.describe(pipe).ran
    assert ran[1] is not None and ran[0] is not None and ran[1] < ran[0]
    assert expedite.unpatch(pipe) is pipe
    assert expedite.describe(pipe).plan is None
    pipe(image)
    plain, patched, after = ([t for t in s if isinstance(t, torch.Tensor)] for s in states)
    assert [t.shape for t in plain] == [t.shape for t in patched]
    assert not all(map(torch.equal, plain, patched))
    assert all(map(torch.equal, plain, after))


def test_a_pipeline_is_patched_for_a_with_block() -> None:
    pipe = extractor()
    with expedite.patched(pipe, alpha=1, clusters=4) as given:
        assert given is pipe and expedite.describe(pipe).plan is not None
    assert expedite.describe(pipe.model).plan is None


@pytest.mark.parametrize("holder", [3, SimpleNamespace(model="vit")])
def test_what_holds_no_module_is_refused(holder: object) -> None:
    with pytest.raises(expedite.ExpediteError, match=r"holds none as `model`; a module works"):
        expedite.patch(holder, alpha=1, clusters=4)
