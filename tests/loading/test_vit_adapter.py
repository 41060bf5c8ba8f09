"""`vit_adapter:` names: files, published architectures, with weights from elsewhere."""

from pathlib import Path

import pytest
import torch

from expedite import ExpediteError
from expedite.loading import load_model
from expedite.models.adapter_files import VARIANTS, Variant, save_adapter
from tests.hosts import ADAPTER


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    variant = Variant(ADAPTER, "semantic-fpn", n_cls=3)
    return save_adapter(variant.build(), variant, tmp_path)


def test_a_file(saved: Path) -> None:
    loaded = load_model(f"vit_adapter:{saved}")
    assert (loaded.image_size, loaded.window_stride, loaded.short_side) == ((512, 512), 341, 512)
    assert (loaded.trained, loaded.dataset, loaded.task) == (True, "", "segmentation")
    assert loaded.mean == (0.485, 0.456, 0.406)


def test_a_file_says_its_data_set(tmp_path: Path) -> None:
    variant = Variant(ADAPTER, "semantic-fpn", n_cls=11, dataset="camvid")
    saved = save_adapter(variant.build(), variant, tmp_path)
    assert load_model(f"vit_adapter:{saved}").dataset == "camvid"


@pytest.mark.parametrize(("crop", "stride"), [(512, 341), (640, 426), (896, 512)])
def test_windows_step_as_published(crop: int, stride: int, tmp_path: Path) -> None:
    variant = Variant(ADAPTER, "semantic-fpn", n_cls=3, crop=crop)
    loaded = load_model(f"vit_adapter:{save_adapter(variant.build(), variant, tmp_path)}")
    assert (loaded.short_side, loaded.window_stride) == (crop, stride)


def test_a_published_name_takes_weights_and_classes(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Variant(ADAPTER, "semantic-fpn", normalization="vit")
    monkeypatch.setitem(VARIANTS, "base-upernet", small)
    loaded = load_model("vit_adapter:base-upernet", (96, 64))
    assert (loaded.trained, loaded.image_size, loaded.window_stride) == (False, (96, 64), None)
    assert (loaded.mean, loaded.dataset) == ((0.5, 0.5, 0.5), "ade20k")
    with torch.no_grad():
        scores = load_model("vit_adapter:base-upernet", classes=3).model(torch.zeros(1, 3, 32, 64))
    assert scores.shape == (1, 3, 32, 64)
    monkeypatch.setitem(VARIANTS, "base-upernet", Variant(ADAPTER, "semantic-fpn", n_cls=3))
    assert load_model("vit_adapter:base-upernet", checkpoint=saved).trained


def test_names_that_lead_nowhere() -> None:
    with pytest.raises(ExpediteError, match=r"'vit_adapter:huge' was asked; 'huge' is neither"):
        load_model("vit_adapter:huge")
