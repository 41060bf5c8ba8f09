from typing import Any

import pytest
import torch
import torch.nn.functional as F

import expedite
from expedite import ExpediteError
from expedite.evaluate.comparators import plan_of
from expedite.measure.flops import count_flops
from tests.hosts import enlarged_dpt, huggingface_vit, images, segmenter, timm_vit

pytestmark = pytest.mark.usefixtures("no_gradients")


def test_a_smaller_image_goes_in_and_its_output_comes_back_enlarged() -> None:
    model = segmenter()
    smaller = F.interpolate(images(), size=(16, 24), mode="bilinear", antialias=True)
    expected = F.interpolate(model(smaller), size=(32, 32), mode="bilinear")
    output = expedite.patch(model, plan_of("downsample", clusters=(4, 6)))(images())
    torch.testing.assert_close(output, expected)


def test_sizes_that_are_no_multiples_of_a_patch() -> None:
    """33×30 pixels are 9×8 tokens of 4; 3×2 of them are 12×8 pixels."""
    model = expedite.patch(segmenter(), plan_of("downsample", clusters=(3, 2)))
    assert model(images(1, 33, 30)).shape == (1, 5, 33, 30)


def test_depth_of_three_dimensions() -> None:
    model = enlarged_dpt()
    assert expedite.patch(model, plan_of("downsample", keep=0.3))(images()).shape == (2, 128, 128)


def test_gflops_are_those_of_the_smaller_image() -> None:
    model = segmenter()
    small = count_flops(model, images(1, 16, 16)).total
    found = count_flops(expedite.patch(model, plan_of("downsample", clusters=4)), images(1))
    assert found.total == pytest.approx(small + found.operators)
    assert 0 < found.operators < 0.01 * small
    assert found.unsupported == {}


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ExpediteError, match="images have one size; a model for any size works"):
        expedite.patch(timm_vit(), plan_of("downsample", clusters=4))
    with pytest.raises(ExpediteError, match="which gives BaseModelOutputWithPooling; maps, depth"):
        expedite.patch(huggingface_vit(), plan_of("downsample", clusters=4))(images())


def test_outputs_of_transformers() -> None:
    from transformers import DPTConfig, DPTForDepthEstimation

    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 64, "image_size": 64, "patch_size": 8, "fusion_hidden_size": 16}
    sizes |= {"backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8, 8, 8, 8]}
    torch.manual_seed(0)
    model: Any = DPTForDepthEstimation(DPTConfig(**sizes, is_hybrid=False))
    model.eval()
    whole = model(pixel_values=images(1, 64, 64)).predicted_depth
    expedite.patch(model, plan_of("downsample", clusters=4))
    assert model(pixel_values=images(1, 64, 64)).predicted_depth.shape == whole.shape


@pytest.mark.parametrize("kind", ["ViT", "DeiT", "Beit"])
def test_classifiers_of_transformers_are_told_that_images_are_small(kind: str) -> None:
    import transformers

    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 64, "image_size": 32, "patch_size": 4}
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**sizes)
    model: Any = getattr(transformers, f"{kind}ForImageClassification")(config)
    model.eval()
    smaller = F.interpolate(images(1), size=(16, 16), mode="bilinear", antialias=True)
    expected = model(smaller, interpolate_pos_encoding=True).logits
    whole = model(images(1)).logits
    expedite.patch(model, plan_of("downsample", clusters=4))
    torch.testing.assert_close(model(images(1)).logits, expected)
    torch.testing.assert_close(model(pixel_values=images(1)).logits, expected)
    assert torch.equal(expedite.unpatch(model)(images(1)).logits, whole)


def test_swins_that_keep_the_windows_of_a_small_image_are_refused() -> None:
    from transformers import SwinConfig, SwinForImageClassification

    sizes: dict[str, Any] = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2]}
    config = SwinConfig(**sizes, image_size=64, patch_size=4, window_size=4)
    model: Any = SwinForImageClassification(config)
    model.eval()
    with pytest.raises(ExpediteError, match="keep the windows of the smallest image that they saw"):
        expedite.patch(model, plan_of("downsample", clusters=4))
    assert model(images(1, 64, 64)).logits.isfinite().all()
