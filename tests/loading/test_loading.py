"""Models by name; what names and files that cannot be loaded are told is in test_cli too."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import expedite
from expedite import ExpediteError
from expedite.loading import load_model
from expedite.models.segmenter import Segmenter
from expedite.models.segmenter_files import Preprocessing, build_segmenter, save_segmenter
from expedite.recipes import RECIPES, Recipe
from tests.hosts import images, segmenter

FACTORIES = """
import torch
from tests.hosts import depth_vit, timm_vit

def plain():
    return timm_vit()

def configured():
    model = timm_vit()
    model.pretrained_cfg = {"input_size": (3, 32, 48), "mean": (0.1, 0.2, 0.3), "std": (1, 1, 1)}
    return model.train()

def deep():
    model = depth_vit()
    model.pretrained_cfg = {"input_size": (3, 32, 32), "task": "depth"}
    return model

class Silent(torch.nn.Module):
    def train(self, mode=True):
        super().train(mode)  # and returns nothing, as published backbones do

def silent():
    return Silent()

def nothing():
    return None

def needy(width):
    return timm_vit()

def strange(**said):
    model = timm_vit()
    model.pretrained_cfg = {"input_size": (3, 32, 32), **said}
    return model

def flat():
    return strange(input_size=3)

def short():
    return strange(mean=(0.5, 0.5))
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


def test_a_factory_says_what_its_model_is_for(factories: Path) -> None:
    loaded = load_model(f"{factories}:deep")
    assert (loaded.task, loaded.metric_depth) == ("depth", True)
    assert load_model(f"{factories}:configured").task is None


def test_a_factory_that_says_nothing_needs_an_image_size(factories: Path) -> None:
    assert load_model(f"{factories}:plain", (32, 32)).image_size == (32, 32)
    with pytest.raises(ExpediteError, match="give --image-size"):
        load_model(f"{factories}:plain")


def test_a_factory_that_makes_no_model(factories: Path) -> None:
    with pytest.raises(ExpediteError, match=r"returned a NoneType, and a torch\.nn\.Module is due"):
        load_model(f"{factories}:nothing")


def test_a_model_whose_eval_returns_nothing(factories: Path) -> None:
    assert not expedite.load(f"{factories}:silent").training


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("needy", "needy cannot be called without arguments: missing a required argument: 'width'"),
        ("flat", "says input_size=3 in its pretrained_cfg; three numbers are due"),
        ("short", r"says mean=\(0\.5, 0\.5\) in its pretrained_cfg; three numbers are due"),
    ],
)
def test_a_factory_that_cannot_be_used(factories: Path, name: str, sentence: str) -> None:
    with pytest.raises(ExpediteError, match=sentence):
        load_model(f"{factories}:{name}")


def test_what_timm_does_not_take() -> None:
    with pytest.raises(ExpediteError, match=r"img_size=\(64, 64\), which timm refuses: TypeError"):
        load_model("timm:resnet18", (64, 64))


@pytest.mark.parametrize("classes", [0, -1])
@pytest.mark.parametrize(
    "spec",
    ["segmenter:vit_tiny_patch16_384", "timm:vit_tiny_patch16_224", "torchvision:vit_b_32", "tiny"],
)
def test_fewer_classes_than_one(tiny: Recipe, spec: str, classes: int) -> None:
    with pytest.raises(ExpediteError, match=f"{classes} classes were asked of '{spec}'; there is"):
        load_model(spec, classes=classes)


def test_classes_of_a_checkpoint_are_its_own(tmp_path: Path) -> None:
    kept = Preprocessing("vit", im_size=32, window_size=32, window_stride=32, dataset="")
    path = save_segmenter(segmenter(), kept, "vit_64x4_patch4_32", tmp_path)
    with pytest.raises(ExpediteError, match="9 classes were asked"):
        load_model(f"segmenter:{path}", classes=9)


def test_a_factory_takes_no_classes_and_no_checkpoint(factories: Path, tmp_path: Path) -> None:
    with pytest.raises(ExpediteError, match="3 classes were asked of"):
        load_model(f"{factories}:configured", classes=3)
    with pytest.raises(ExpediteError, match="which brings its own weights"):
        expedite.load(f"{factories}:plain", tmp_path / "weights.pth")


def test_load_returns_the_module_alone(factories: Path) -> None:
    model = expedite.load(f"{factories}:plain")  # it says no image size, and none is needed
    assert type(model).__name__ == "VisionTransformer"
    assert not model.training


def test_an_unknown_name_is_told_every_form() -> None:
    with pytest.raises(ExpediteError) as error:
        expedite.load("resnet50")
    for form in ("segmenter:FILE", "hf:FOLDER", "timm:NAME", "FILE.py:FACTORY", "swag-vit-l16"):
        assert form in str(error.value)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe of a small Segmenter, known for the time of a test."""
    recipe = Recipe(
        name="tiny",
        model="segmenter:vit_tiny_patch16_384",
        image_size=(64, 64),
        classes=4,
        metric="",
        checkpoint="",
        origin="",
        rows=(),
        dataset="camvid",
        windows=(96, 48),
    )
    monkeypatch.setitem(RECIPES, "tiny", recipe)
    return recipe


def test_a_recipe_is_a_model_of_its_size(tiny: Recipe) -> None:
    loaded = load_model("tiny")
    assert (loaded.name, loaded.image_size, loaded.dataset) == ("tiny", (64, 64), "camvid")
    assert (loaded.short_side, loaded.window_stride) == (96, 48)
    assert loaded.model(images(1, 64, 64)).shape == (1, 4, 64, 64)
    assert not loaded.trained


def test_a_recipe_at_another_size_has_windows_of_that_size(tiny: Recipe) -> None:
    loaded = load_model("tiny", image_size=(32, 32), classes=7)
    assert (loaded.image_size, loaded.window_stride) == ((32, 32), 32)
    assert loaded.model(images()).shape[1] == 7


def test_a_recipe_with_its_checkpoint_is_trained(tiny: Recipe, tmp_path: Path) -> None:
    model = build_segmenter("vit_tiny_patch16_384", (64, 64), 4)[0].eval()
    torch.save({"model": model.state_dict()}, tmp_path / "checkpoint.pth")
    loaded = load_model("tiny", checkpoint=tmp_path / "checkpoint.pth")
    assert loaded.trained
    assert torch.equal(loaded.model(images()), model(images()))


@pytest.mark.parametrize("kind", ["", "_reg4"])
@pytest.mark.parametrize("wrapper", ["", "module."])
def test_files_of_dinov2s_hub_under_timms_names(tmp_path: Path, kind: str, wrapper: str) -> None:
    """Against timm's own reading of such files."""
    from timm.models.vision_transformer import checkpoint_filter_fn

    name = f"vit_small_patch14{kind}_dinov2"
    model: Any = timm.create_model(name)
    state = {key: torch.randn_like(tensor) for key, tensor in model.state_dict().items()}
    state["pos_embed"] = torch.randn(1, 1 + 37 * 37, 384)
    state["mask_token"] = torch.randn(1, 384)
    if kind:
        state["register_tokens"] = state.pop("reg_token")
    torch.save({f"{wrapper}{key}": x for key, x in state.items()}, tmp_path / "dinov2.pth")
    loaded = expedite.load(f"timm:{name}", tmp_path / "dinov2.pth").state_dict()
    expected = checkpoint_filter_fn(state, model)
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)
