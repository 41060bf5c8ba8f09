"""Models by name; what a name that cannot be loaded is told is in test_cli."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from expedite import ExpediteError
from expedite.evaluate.predict import predict
from expedite.loading import load_model
from expedite.models.segmenter import Segmenter
from expedite.models.segmenter_files import Preprocessing, save_segmenter
from tests.hosts import images, segmenter

FACTORIES = """
import torch
import transformers
from tests.hosts import timm_vit

def plain():
    return timm_vit()

def configured():
    model = timm_vit()
    model.pretrained_cfg = {"input_size": (3, 32, 48), "mean": (0.1, 0.2, 0.3), "std": (1, 1, 1)}
    return model.train()

def nothing():
    return None
"""


@pytest.fixture
def factories(tmp_path: Path) -> Path:
    path = tmp_path / "factories.py"
    path.write_text(FACTORIES)
    return path


def test_a_checkpoint_brings_its_weights_and_its_preprocessing(tmp_path: Path) -> None:
    model = segmenter()
    kept = Preprocessing("deit", im_size=48, window_size=32, window_stride=20, dataset="camvid")
    path = save_segmenter(model, kept, "vit_64x4_patch4_32", tmp_path)
    loaded = load_model(f"segmenter:{path}")
    assert torch.equal(loaded.model(images()), model(images()))
    assert loaded.trained
    assert (loaded.image_size, loaded.window_stride, loaded.short_side) == ((32, 32), 20, 48)
    assert loaded.dataset == "camvid"
    assert loaded.mean == (0.485, 0.456, 0.406)  # of DeiT
    assert not loaded.model.training


def test_another_window_for_a_checkpoint(tmp_path: Path) -> None:
    kept = Preprocessing("vit", im_size=32, window_size=32, window_stride=32, dataset="")
    path = save_segmenter(segmenter(), kept, "vit_64x4_patch4_32", tmp_path)
    loaded = load_model(f"segmenter:{path}", image_size=(32, 64))
    assert loaded.image_size == (32, 64)
    assert loaded.model(images(1, 32, 64)).shape == (1, 5, 32, 64)


def test_a_published_backbone_has_random_weights() -> None:
    loaded = load_model("segmenter:vit_tiny_patch16_384", (96, 64), classes=7)
    assert isinstance(loaded.model, Segmenter)
    assert loaded.model.config.n_cls == 7
    assert loaded.image_size == (96, 64)
    assert not loaded.trained


def test_timm_is_asked_for_size_classes_and_normalization() -> None:
    loaded = load_model("timm:vit_tiny_patch16_224", (64, 96), classes=5)
    assert loaded.model(torch.zeros(1, 3, 64, 96)).shape == (1, 5)
    assert (loaded.mean, loaded.deviation) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert load_model("timm:vit_tiny_patch16_224").image_size == (224, 224)
    assert not loaded.trained


def test_a_factory_says_how_its_model_is_fed(factories: Path) -> None:
    loaded = load_model(f"{factories}:configured")
    assert (loaded.image_size, loaded.mean) == ((32, 48), (0.1, 0.2, 0.3))
    assert loaded.trained
    assert not loaded.model.training


def test_a_factory_that_says_nothing_needs_an_image_size(factories: Path) -> None:
    assert load_model(f"{factories}:plain", (32, 32)).image_size == (32, 32)
    with pytest.raises(ExpediteError, match="give --image-size"):
        load_model(f"{factories}:plain")


def test_a_factory_that_makes_no_model(factories: Path) -> None:
    with pytest.raises(ExpediteError, match=r"returned a NoneType, and a torch\.nn\.Module is due"):
        load_model(f"{factories}:nothing")


def test_classes_of_a_checkpoint_are_its_own(tmp_path: Path) -> None:
    kept = Preprocessing("vit", im_size=32, window_size=32, window_stride=32, dataset="")
    path = save_segmenter(segmenter(), kept, "vit_64x4_patch4_32", tmp_path)
    with pytest.raises(ExpediteError, match="9 classes were asked"):
        load_model(f"segmenter:{path}", classes=9)


SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of transformers that segments, saved with its image processor."""
    hf: Any = transformers
    sizes = {**SIZES, "intermediate_size": 64, "image_size": 32, "patch_size": 4}
    config = hf.DPTConfig(
        **sizes, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8] * 4, num_labels=3
    )
    torch.manual_seed(0)
    hf.DPTForSemanticSegmentation(config).save_pretrained(tmp_path)
    hf.DPTImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[1, 2, 3]).save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_of_transformers(folder: Path) -> None:
    loaded = load_model(f"hf:{folder}")
    assert type(loaded.model).__name__ == "DPTForSemanticSegmentation"
    assert (loaded.image_size, loaded.mean, loaded.deviation) == (
        (32, 32),
        (0.1, 0.2, 0.3),
        (1, 2, 3),
    )
    assert loaded.trained
    prediction = predict(loaded, loaded.model, np.zeros((50, 70, 3), np.uint8))
    assert prediction.indices.shape == (50, 70)
    assert prediction.classes == 3


def test_a_folder_of_transformers_that_is_damaged(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ExpediteError, match="cannot be loaded"):
        load_model(f"hf:{folder}")
    with pytest.raises(ExpediteError, match="cannot be loaded"):
        load_model(f"hf:{folder / 'nothing'}")


def test_torchvision_by_name() -> None:
    loaded = load_model("torchvision:vit_b_32", (64, 64), classes=5)
    assert loaded.model(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    assert not loaded.trained
    with pytest.raises(ExpediteError, match="it has vit_b_16"):
        load_model("torchvision:vit_b_15")
