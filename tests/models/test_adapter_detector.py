"""Mask R-CNN on a ViT-Adapter: parameters of Table 1, and mmdetection's names."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import expedite
from expedite import ExpediteError
from expedite.models.adapter_config import SIZES, for_detection, for_meta
from expedite.models.adapter_detector import _NAMES, build_detector, load_detector
from tests.hosts import ADAPTER

CONFIG = for_detection(replace(ADAPTER, width=64, heads=1, layers=4))

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.mark.parametrize(
    ("size", "expected"), [("tiny", 28.1), ("small", 47.8), ("base", 120.2), ("large", 347.9)]
)
def test_parameters_of_table_1(size: str, expected: float) -> None:
    with torch.device("meta"):
        model = build_detector(for_detection(SIZES[size]))
    count = sum(parameter.numel() for parameter in model.parameters())
    # Classes of boxes and masks are one more than there: torchvision has them for the background.
    extra = 1024 * 4 + 4 + 256 + 1
    assert round((count - extra) / 1e6, 1) == expected


def test_parameters_of_meta() -> None:
    """Between ViT-B's 113.6 M and META-B's 115.3 M in the poster's second table."""
    with torch.device("meta"):
        model = build_detector(for_detection(for_meta(SIZES["base"])), meta=True)
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1) == 114.8


def published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights as mmdetection has them."""
    names, found = {new: old for old, new in _NAMES.items()}, {}
    for name, x in state.items():
        prefix = next(prefix for prefix in names if name.startswith(prefix))
        found[names[prefix] + name.removeprefix(prefix)] = without_background(prefix, x)
    return found


def without_background(prefix: str, x: Tensor) -> Tensor:
    """Scores with the background last, boxes and masks without it."""
    if "cls_score" in prefix:
        return torch.cat([x[1:], x[:1]])
    if "roi_heads.box_predictor.bbox_pred" in prefix:
        return x[4:]
    return x[1:] if "mask_fcn_logits" in prefix else x


def test_a_published_file_loads_and_detects(tmp_path: Path) -> None:
    model = build_detector(CONFIG, n_cls=3).eval()
    path = tmp_path / "mask_rcnn.pth"
    torch.save({"state_dict": published(model.state_dict())}, path)
    loaded = load_detector(path)
    image = torch.rand(3, 64, 96)
    for detector in (model, loaded):
        detector.transform.min_size, detector.transform.max_size = (64,), 96
        detector.roi_heads.score_thresh = 0.0
    expected, found = model([image])[0], loaded([image])[0]
    assert len(found["boxes"]) > 0
    assert found["masks"].shape[1:] == (1, 64, 96)
    torch.testing.assert_close(found["scores"], expected["scores"])
    torch.testing.assert_close(found["masks"], expected["masks"])
    patched = expedite.patch(loaded, alpha=1, clusters=7)([image])[0]
    assert set(patched) == {"boxes", "labels", "scores", "masks"}


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save({"backbone.level_embed": torch.zeros(3, 8)}, tmp_path / "other.pth")
    with pytest.raises(ExpediteError, match="holds no Mask R-CNN on a ViT-Adapter"):
        load_detector(tmp_path / "other.pth")
