from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from expedite import ExpediteError
from expedite.data.images import normalize, resize, resize_short_side
from expedite.evaluate.predict import predict
from expedite.loading import LoadedModel
from tests.hosts import depth_vit, timm_vit

IMAGE = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
LOADED = LoadedModel(
    "test", nn.Conv2d(3, 4, 1), (20, 20), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), trained=True
)


def test_maps_come_back_at_the_size_of_the_image() -> None:
    found = predict(LOADED, LOADED.model, IMAGE)
    assert found.indices.shape == (40, 60)
    assert found.classes == 4
    assert found.indices.dtype == torch.int64


def test_sliding_windows_follow_the_short_side() -> None:
    shapes: list[torch.Size] = []

    def model(windows: Tensor) -> Tensor:
        shapes.append(windows.shape)
        return windows

    sliding = replace(LOADED, window_stride=20, short_side=20)
    assert predict(sliding, model, IMAGE).indices.shape == (40, 60)
    assert shapes == [(2, 3, 20, 20)]  # 20×30 pixels: two windows


def test_the_likeliest_classes_of_an_image() -> None:
    found = predict(replace(LOADED, image_size=(32, 32)), timm_vit(), IMAGE)
    assert found.indices.shape == (5,)
    assert found.classes == 10


@pytest.mark.parametrize("output", [torch.zeros(1, 2, 3), {"out": 1}])
def test_other_outputs_are_refused(output: object) -> None:
    with pytest.raises(ExpediteError, match=r"scores of shape \(B, classes, h, w\) or"):
        predict(LOADED, lambda x: output, IMAGE)


def test_depth_comes_back_at_the_size_of_the_image() -> None:
    found = predict(replace(LOADED, image_size=(32, 32), task="depth"), depth_vit(), IMAGE)
    assert found.shape == (40, 60)
    assert 0 < found.min() < found.max() < 20


def test_normalizing_is_by_channel() -> None:
    found = normalize(IMAGE, (0.1, 0.2, 0.3), (0.5, 1.0, 2.0))
    expected = (IMAGE / 255 - [0.1, 0.2, 0.3]) / [0.5, 1.0, 2.0]
    np.testing.assert_allclose(found.permute(1, 2, 0).numpy(), expected, atol=1e-6)


def test_resizing_is_bilinear_without_antialiasing() -> None:
    found = resize(IMAGE, (20, 20))
    tensor = torch.from_numpy(IMAGE.copy()).permute(2, 0, 1)[None].float()
    expected = nn.functional.interpolate(tensor, (20, 20), mode="bilinear")[0].permute(1, 2, 0)
    assert np.abs(found - expected.numpy()).max() <= 1


@pytest.mark.parametrize(("side", "size"), [(20, (20, 30)), (80, (80, 120)), (40, (40, 60))])
def test_the_short_side_is_set_and_the_shape_kept(side: int, size: tuple[int, int]) -> None:
    assert resize_short_side(IMAGE, side).shape[:2] == size


def test_a_missing_system_library_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(ExpediteError, match="apt-get install libgl1 libglib2"):
        resize(IMAGE, (3, 3))
