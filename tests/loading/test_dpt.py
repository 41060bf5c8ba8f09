"""`dpt:` names: files with their variant, published architectures with another's weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import expedite
from expedite import ExpediteError
from expedite.evaluate.predict import predict
from expedite.loading import load_model
from expedite.models.dpt import DPT
from expedite.models.dpt_files import VARIANTS, Variant, save_dpt
from tests.hosts import dpt


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = dpt()
    return save_dpt(model, Variant(model.config, (96, 128), "nyu"), tmp_path / "own")


def test_a_file_with_its_variant(saved: Path) -> None:
    loaded = load_model(f"dpt:{saved}")
    assert (loaded.image_size, loaded.mean, loaded.trained) == ((96, 128), (0.5, 0.5, 0.5), True)
    assert (loaded.task, loaded.metric_depth, loaded.dataset) == ("depth", True, "nyu")
    assert predict(loaded, loaded.model, np.zeros((50, 70, 3), np.uint8)).shape == (50, 70)


def test_depth_without_a_scale_is_relative_and_classes_are_no_depth(tmp_path: Path) -> None:
    for n_cls, task in ((None, "depth"), (3, "segmentation")):
        model = dpt(scale=None, n_cls=n_cls)
        loaded = load_model(f"dpt:{save_dpt(model, Variant(model.config), tmp_path / task)}")
        assert (loaded.task, loaded.metric_depth) == (task, False)


def test_a_published_name_takes_weights_from_a_checkpoint(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dpt().config
    monkeypatch.setitem(VARIANTS, "dpt_large", Variant(config, (128, 128)))
    random = load_model("dpt:dpt_large")
    assert not random.trained
    filled = load_model("dpt:dpt_large", checkpoint=saved)
    assert filled.trained
    assert isinstance(filled.model, DPT)
    for name, tensor in expedite.load(f"dpt:{saved}").state_dict().items():
        assert torch.equal(filled.model.state_dict()[name], tensor)
    monkeypatch.setitem(VARIANTS, "dpt_large", Variant(replace(config, fused=8)))
    with pytest.raises(ExpediteError, match="do not fit the model"):
        load_model("dpt:dpt_large", checkpoint=saved)


def test_names_that_lead_nowhere() -> None:
    with pytest.raises(ExpediteError, match="neither a checkpoint file that is there nor a publis"):
        load_model("dpt:dpt_small")
    with pytest.raises(ExpediteError, match=r"7 classes were asked of 'dpt:dpt_large', which has"):
        load_model("dpt:dpt_large", classes=7)
