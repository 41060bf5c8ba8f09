from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models.detection.transform import (  # type: ignore[import-untyped]
    GeneralizedRCNNTransform,
)

from expedite import ExpediteError, Plan, Span
from expedite.evaluate.comparators import plan_of
from expedite.evaluate.demo import demo_model, unseen_scenes
from expedite.evaluate.visualize import DRAWN, mean_colours, outline, visualize
from expedite.loading import LoadedModel, TaskName
from expedite.plan import make_plan
from tests.hosts import depth_vit, huggingface_vit, segmenter, timm_sam, timm_swin, timm_vit

HALF = (0.5, 0.5, 0.5)
IMAGE = np.random.default_rng(0).integers(0, 255, (50, 77, 3), dtype=np.uint8)


def loaded(model: nn.Module, task: TaskName, **changes: Any) -> LoadedModel:
    plain = LoadedModel("test", model, (32, 32), HALF, HALF, trained=True, task=task)
    return replace(plain, **changes)


WINDOWS = loaded(segmenter(), "segmentation", window_stride=16, short_side=32)


def names(views: Any) -> list[list[str]]:
    return [[panel.name if panel else "" for panel in row] for row in views.rows]


@pytest.mark.parametrize("size", [(32, 32), (50, 77), (20, 90), (97, 31)])
def test_a_sheet_of_a_model_that_slides_windows(tmp_path: Path, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    views = visualize(WINDOWS, make_plan(1, 4), image, "street.jpg")
    assert names(views) == [
        ["image", "clusters", "assignment", "error"],
        ["", "before", "after", "difference"],
    ]
    part = "" if size[0] == size[1] else "the middle window, "
    assert views.image.caption == f"{part}32×32 pixels"
    (path,) = views.write(tmp_path / "deep" / "picture.png")
    with Image.open(path) as picture:
        assert picture.width > 4 * 560
        assert picture.info["Title"] == "α1 4x4 on street.jpg · test"
    assert [entry.name for entry in path.parent.iterdir()] == ["picture.png"]
    assert torch.is_grad_enabled()


def test_every_panel_is_a_file_of_a_folder(tmp_path: Path) -> None:
    plan = Plan((Span(1, 6), Span(2, 3)))
    views = visualize(loaded(depth_vit(), "depth"), plan, IMAGE)
    written = views.write(tmp_path / "out")
    spans = [f"{name}_{index}" for index in (1, 2) for name in ("clusters", "assignment", "error")]
    expected = ["sheet", "image", *spans, "before", "after", "difference"]
    assert [path.stem for path in written] == expected
    for path in written:
        with Image.open(path) as picture:
            assert np.asarray(picture.convert("L")).std() > 5
    assert [span.clusters for span in views.spans] == [(6, 6), (3, 3)]
    assert views.image.caption == "32×32 pixels"


@pytest.mark.parametrize(
    ("model", "task"),
    [
        (timm_vit(), "classification"),
        (timm_sam(num_classes=0), "features"),
        (timm_swin(), "classification"),
    ],
)
def test_models_without_an_answer_to_draw(model: nn.Module, task: TaskName) -> None:
    views = visualize(loaded(model, task), make_plan(1, 4), IMAGE)
    assert names(views) == [["image", "clusters", "assignment", "error"]]


def test_an_output_of_no_task_is_not_drawn() -> None:
    tokens = replace(loaded(huggingface_vit(), "features"), task=None)
    views = visualize(tokens, make_plan(1, 4), IMAGE)
    assert names(views) == [["image", "clusters", "assignment", "error"]]


def test_random_weights_say_nothing_of_errors_and_predictions() -> None:
    views = visualize(replace(WINDOWS, trained=False), make_plan(1, 4), IMAGE)
    assert names(views) == [["image", "clusters", "assignment"]]
    assert views.spans[0].error is None


def test_methods_without_clusters() -> None:
    views = visualize(loaded(depth_vit(), "depth"), plan_of("tome-blocks", 1, 4), IMAGE)
    assert names(views) == [["image", "error"], ["", "before", "after", "difference"]]
    flexible = loaded(timm_vit(dynamic_img_size=True), "classification")
    with pytest.raises(ExpediteError, match="makes no clusters, and whose predictions"):
        visualize(flexible, plan_of("downsample", 0, 4), IMAGE)


class Detector(nn.Module):
    """Resizes and pads images as torchvision's detectors do, and finds one object in each."""

    def __init__(self) -> None:
        super().__init__()
        self.transform = GeneralizedRCNNTransform(32, 64, HALF, HALF)
        self.body = timm_vit(dynamic_img_size=True)

    def forward(self, images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        padded, _ = self.transform(list(images))
        sure = self.body(padded.tensors)[:, 0].sigmoid()
        box, label = torch.tensor([[2.0, 3.0, 30.0, 40.0]]), torch.tensor([1])
        return [{"boxes": box, "labels": label, "scores": one[None]} for one in sure]


def test_what_a_detector_pads_is_not_drawn() -> None:
    """50×77 pixels become 32×49 of 32×64: 13 of 16 columns of tokens show the image."""
    pytest.importorskip("pycocotools")
    views = visualize(loaded(Detector().eval(), "detection"), make_plan(1, 6), IMAGE)
    (span,), panel = views.spans, views.panels[0][2]
    assert span.grid == (8, 16)
    assert span.error is not None and panel.scale is not None
    colours = panel.scale.paint(100 * span.error)
    rows = np.arange(len(panel.image)) * 8 // len(panel.image)
    assert (panel.image[:, -1] == colours[rows, 12]).all()
    assert (panel.image[:, 0] == colours[rows, 0]).all()
    assert views.answers[0].image.shape == panel.image.shape


def test_half_precision() -> None:
    model = loaded(depth_vit(), "depth")
    model.model.to(torch.bfloat16)
    assert len(visualize(model, make_plan(1, 4), IMAGE).answers) == 3


def test_a_plan_on_the_full_grid_changes_nothing() -> None:
    views = visualize(WINDOWS, make_plan(1, 8), IMAGE)
    assert views.answers[2].caption == "0.00 % of pixels have another class"
    assert "0 %" in views.panels[0][2].caption or "e-0" in views.panels[0][2].caption


@pytest.mark.slow
def test_clusters_follow_what_the_demo_sees() -> None:
    """Borders of clusters lie on borders of classes more often than by chance."""
    sample = unseen_scenes(4)[3]
    (span,) = visualize(demo_model(), make_plan(2, (16, 24)), sample.image).spans
    assert span.labels is not None and sample.labels is not None
    classes = sample.labels[4::8, 4::8]  # at the middle of each token

    def crossed(labels: np.ndarray) -> float:
        """How many pairs of neighbours of two classes are in one cluster."""
        apart = classes[:, 1:] != classes[:, :-1]
        return float((labels[:, 1:] == labels[:, :-1])[apart].mean())

    regular = np.arange(32)[:, None] // 2 * 24 + np.arange(48) // 2
    assert crossed(span.labels) < 0.5 * crossed(regular)


def test_borders_are_drawn_where_regions_meet() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    regions = np.repeat([0, 1], 3)[None].repeat(4, 0)
    drawn = outline(image, regions)
    assert np.flatnonzero(drawn[..., 0].any(0)).tolist() == [2]
    assert not image.any()


def test_regions_have_the_mean_of_their_colours() -> None:
    regions = np.arange(50 * 77).reshape(50, 77) // 1000
    drawn = mean_colours(IMAGE, regions)
    for region in range(4):
        expected = IMAGE[regions == region].mean(0)
        assert (np.abs(drawn[regions == region] - expected) < 1).all()


def test_every_task_with_a_picture_is_drawn() -> None:
    assert set(DRAWN) == {"segmentation", "depth", "panoptic", "instance", "detection"}


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    views = visualize(WINDOWS, make_plan(1, 4), IMAGE)
    with pytest.raises(ExpediteError, match=r"a \.png file, or a folder, is due"):
        views.write(tmp_path / "picture.jpg")
    (tmp_path / "file").write_text("")
    with pytest.raises(ExpediteError, match="file is a file; a folder is due"):
        views.write(tmp_path / "file" / "picture.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
