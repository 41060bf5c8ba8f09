from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from expedite import ExpediteError
from expedite.loading import load_model
from tests.hosts import images

NAME, SIZE = "torchvision:vit_b_32", (64, 64)


def test_by_name() -> None:
    loaded = load_model(NAME, SIZE, classes=5)
    assert loaded.model(images(1, 64, 64)).shape == (1, 5)
    assert not loaded.trained
    with pytest.raises(ExpediteError, match="it has vit_b_16"):
        load_model("torchvision:vit_b_15")
    with pytest.raises(ExpediteError, match="square images alone"):
        load_model(NAME, (64, 32))
    with pytest.raises(ExpediteError, match="its patches need multiples of 32"):
        load_model(NAME, (100, 100))


def test_the_backbones_of_detectors_are_not_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(url: str, **options: object) -> None:
        raise AssertionError(url)

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", download)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    assert not load_model("torchvision:ssdlite320_mobilenet_v3_large").trained


@pytest.mark.slow
def test_published_files_call_the_layers_of_an_mlp_otherwise(tmp_path: Path) -> None:
    model = load_model(NAME, SIZE, classes=5).model
    state = {
        name.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): tensor
        for name, tensor in model.state_dict().items()
    }
    assert state.keys() != model.state_dict().keys()
    save_file(state, tmp_path / "weights.safetensors")
    loaded = load_model(NAME, SIZE, 5, tmp_path / "weights.safetensors")
    assert loaded.trained
    assert torch.equal(loaded.model(images(1, 64, 64)), model(images(1, 64, 64)))
