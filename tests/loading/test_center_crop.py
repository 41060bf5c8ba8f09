"""How classifiers are shown images, against the libraries that publish them."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torchvision import models  # type: ignore[import-untyped]

from expedite import ExpediteError
from expedite.evaluate.predict import predict
from expedite.loading import LoadedModel, load_model
from expedite.loading.center_crop import CenterCrop
from expedite.loading.model import Wanted

load_once = cache(load_model)
SIZES = [(97, 140), (300, 201), (224, 224)]


def image_of(size: tuple[int, int]) -> Image.Image:
    """Smooth, so that rounding in one library or another is no more than rounding."""
    coarse = np.random.default_rng(0).integers(0, 255, (6, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC)


def shown(loaded: LoadedModel, image: Image.Image) -> Tensor:
    """What the model sees of an image, (3, H, W)."""
    seen: list[Tensor] = []

    def model(images: Tensor) -> Tensor:
        seen.append(images[0])
        return torch.zeros(1, 10)

    predict(replace(loaded, task="classification"), model, np.asarray(image))
    return seen[0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("name", "image_size"),
    [
        ("vit_tiny_patch16_224", None),  # a share of 0.9, bicubic
        ("resnet18", None),  # whose weights are shown more at the test than at training
        ("deit_tiny_distilled_patch16_224", (96, 96)),
        ("vit_tiny_patch16_224", (64, 96)),
        ("coatnet_0_rw_224", None),
    ],
)
def test_as_timm_does(name: str, image_size: tuple[int, int] | None, size: tuple[int, int]) -> None:
    if image_size is None:
        loaded = load_once(f"timm:{name}")
        config: dict[str, Any] = resolve_data_config(model=loaded.model)  # type: ignore[no-untyped-call]
    else:
        loaded = load_once(f"timm:{name}", image_size)
        plain = timm.create_model(name)
        config = resolve_data_config({"input_size": (3, *image_size)}, model=plain)  # type: ignore[no-untyped-call]
    transform = create_transform(**config, is_training=False)
    image = image_of(size)
    assert torch.equal(shown(loaded, image), transform(image))


@pytest.mark.parametrize("share", [0.875, 1.15])  # of which the latter adds a border
@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("size", SIZES)
def test_both_modes_of_timm(mode: str, share: float, size: tuple[int, int]) -> None:
    mean = (0.5, 0.5, 0.5)
    config: dict[str, Any] = {"crop_pct": share, "crop_mode": mode, "interpolation": "bilinear"}
    crop = CenterCrop.of_config(config, (64, 64))
    loaded = LoadedModel("", torch.nn.Linear(1, 1), (64, 64), mean, mean, True, crop=crop)
    transform = create_transform((3, 64, 64), False, mean=mean, std=mean, **config)
    image = image_of(size)
    assert torch.equal(shown(loaded, image), transform(image))


def test_borders_are_not_cut() -> None:
    assert CenterCrop.of_config({"crop_pct": 1.0, "crop_mode": "border"}, (64, 64)) is None
    for wrong in ({"interpolation": "cubic"}, {"crop_mode": "centre"}):
        with pytest.raises(ExpediteError, match="center or squash, with nearest, bilinear"):
            CenterCrop.of_config({"crop_pct": 0.9, **wrong}, (64, 64))
    assert CenterCrop.of_config({}, (64, 64)) is None


@pytest.mark.parametrize("share", [0, -1, "much"])
def test_a_share_that_is_none_is_refused(share: object) -> None:
    with pytest.raises(ExpediteError, match="a share above 0 is due"):
        CenterCrop.of_config({"crop_pct": share}, (64, 64))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("name", "weights", "image_size"),
    [
        ("vit_b_32", "IMAGENET1K_V1", None),
        ("swin_t", "IMAGENET1K_V1", None),
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1", (384, 384)),
    ],
)
def test_as_torchvision_does(
    name: str, weights: str, image_size: tuple[int, int] | None, size: tuple[int, int]
) -> None:
    loaded = load_once(f"torchvision:{name}", image_size)
    image = image_of(size)
    expected = models.get_model_weights(name)[weights].transforms()(image)
    torch.testing.assert_close(shown(loaded, image), expected, atol=1e-6, rtol=0)


def test_weights_of_torchvision_are_known_by_their_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of vit_b_16 see 224×224 pixels, one of them without a margin."""
    monkeypatch.setattr(Wanted, "fill", lambda *_: True)
    files = ("vit_b_16_lc_swag-4e70ced5.pth", "mine.pth")
    assert [load_model("torchvision:vit_b_16", checkpoint=file).crop for file in files] == [
        CenterCrop((224, 224), True, "bicubic"),
        CenterCrop((256, 256), True, "bilinear"),
    ]


# Margins of an odd number of pixels, which it halves in its own way, would shift by one.
@pytest.mark.parametrize("size", [(96, 144), (300, 204), (40, 40)])
@pytest.mark.parametrize(
    "said",
    [
        {"size": {"height": 32, "width": 32}, "resample": 2},
        {"size": {"shortest_edge": 40}, "do_center_crop": True, "resample": 3},
        {"size": {"height": 40, "width": 40}, "do_center_crop": True, "resample": 3},
    ],
)
def test_as_transformers_does(said: dict[str, Any], size: tuple[int, int], tmp_path: Path) -> None:
    hf: Any = transformers
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = hf.ViTConfig(**sizes, intermediate_size=32, image_size=32, patch_size=8)
    hf.ViTForImageClassification(config).save_pretrained(tmp_path)
    crop = {"height": 32, "width": 32}
    processor = hf.DeiTImageProcessor(**{"do_center_crop": False, **said}, crop_size=crop)
    processor.save_pretrained(tmp_path)
    image = image_of(size)
    expected = processor(image, return_tensors="pt")["pixel_values"][0]
    found = shown(load_model(f"hf:{tmp_path}"), image)
    # It rounds to 8 bits between the steps, or not, in this or that version.
    torch.testing.assert_close(found, expected, atol=2.01 / 255 / 0.5, rtol=0)
    assert load_model(f"hf:{tmp_path}", (64, 64)).crop is None  # it says nothing of this size


def test_other_tasks_see_whole_images() -> None:
    loaded = load_model("timm:vit_tiny_patch16_224")
    seen: list[Tensor] = []

    def model(images: Tensor) -> Tensor:
        seen.append(images)
        return torch.zeros(1, 3, 224, 224)

    image = np.asarray(image_of((97, 140)))
    predict(replace(loaded, task="segmentation"), model, image)
    predict(replace(loaded, task="segmentation", crop=None), model, image)
    assert torch.equal(*seen)
