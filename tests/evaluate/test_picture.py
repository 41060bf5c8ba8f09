from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from expedite import ExpediteError, patch
from expedite.evaluate.picture import cluster_map, color_classes, draw_plan, outline
from expedite.loading import LoadedModel, TaskName
from tests.hosts import depth_vit, images, segmenter, timm_sam, timm_vit

HALF = (0.5, 0.5, 0.5)
LOADED = LoadedModel(
    "test", segmenter(), (32, 32), HALF, HALF, trained=True, window_stride=16, short_side=32
)


def test_a_map_says_where_every_token_went() -> None:
    model = patch(segmenter(), alpha=1, clusters=(4, 5))
    found = cluster_map(model, images(1))
    assert found.shape == (8, 8)
    assert set(np.unique(found)) <= set(range(20))
    assert len(np.unique(found)) > 5


def test_a_model_without_clusters_has_no_map() -> None:
    with pytest.raises(ExpediteError, match="not patched"):
        cluster_map(segmenter(), images(1))


def test_clusters_in_windows_have_no_map() -> None:
    model = patch(timm_sam(), alpha=1, clusters=4)
    with pytest.raises(ExpediteError, match="clusters in windows; there are maps of"):
        cluster_map(model, images(1))


def test_borders_are_drawn_where_regions_meet() -> None:
    image = np.zeros((400, 400, 3), np.uint8)
    drawn = outline(image, np.array([[0, 1], [0, 1]]))
    columns = np.flatnonzero(drawn[..., 0].any(0))
    assert columns.tolist() == [199]


def test_classes_are_told_apart() -> None:
    colours = color_classes(np.full((1, 12, 3), 128, np.uint8), np.arange(12)[None])
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 12


@pytest.mark.parametrize("size", [(32, 32), (50, 77), (20, 90)])
def test_a_picture_of_four_panels(tmp_path: Path, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    patched = patch(segmenter(), alpha=1, clusters=4)
    draw_plan(LOADED, segmenter(), patched, image, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.width > 4 * 384
        assert picture.height == 384 + 28
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
    assert torch.is_grad_enabled()


def depth_loaded(model: torch.nn.Module) -> LoadedModel:
    return LoadedModel("test", model, (32, 32), HALF, HALF, trained=True, task="depth")


def test_a_picture_of_depth(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8)
    loaded, patched = depth_loaded(depth_vit()), patch(depth_vit(), alpha=1, clusters=4)
    draw_plan(loaded, loaded.model, patched, image, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.width > picture.height  # two rows of three
        colours = np.asarray(picture.convert("RGB"))
    greys = (colours.max(-1).astype(int) - colours.min(-1)) < 30
    assert (~greys).mean() > 0.25  # maps and their bars are in colour


@pytest.mark.parametrize(
    ("model", "task"), [(timm_vit(), "classification"), (timm_sam(num_classes=0), "features")]
)
def test_what_there_is_no_picture_of(tmp_path: Path, model: nn.Module, task: TaskName) -> None:
    loaded = LoadedModel("test", model, (32, 32), HALF, HALF, trained=True, task=task)
    with pytest.raises(ExpediteError, match=f"a picture of {task} was asked"):
        draw_plan(loaded, model, model, np.zeros((32, 32, 3), np.uint8), tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []
