"""Heads on kept tokens: views and windows stay with their truth, and heads learn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from frozen_features import Kept, Normed, View, keep, part_of, view_of
from frozen_heads import HEADS, SCENE, STREET, TAPS, DepthAnything, Head, Linear, Reading
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from train_depth_head import loss_of as depth_loss
from train_depth_head import window
from train_heads import class_weights, dice_loss, loss_of
from training import start, step_down

from expedite.data.truths import VOID, Sample
from expedite.errors import ExpediteError

ROWS, COLUMNS = (side // 14 for side in STREET)


def norm_file(folder: Path, width: int = 384) -> Path:
    tensors = {"norm.weight": torch.rand(width) + 0.5, "norm.bias": torch.randn(width)}
    save_file(tensors, folder / "norm.safetensors")
    return folder / "norm.safetensors"


def small_backbone() -> Any:
    return VisionTransformer(
        56, 14, embed_dim=32, depth=12, num_heads=2, num_classes=0, dynamic_img_size=True
    ).eval()


@pytest.mark.parametrize("make", [*HEADS.values(), DepthAnything])
def test_heads_say_something_of_every_pixel(make: type[Head]) -> None:
    head = make().eval()
    maps = [torch.randn(2, 384, 4, 8) for _ in head.taps]
    with torch.no_grad():
        found = head.at_size(maps, (56, 112))
    assert found.shape == ((2, 56, 112) if make is DepthAnything else (2, 11, 56, 112))


def test_a_linear_heads_scores_lie_in_their_part_of_a_token() -> None:
    head: Any = Linear(width=1, classes=2)
    with torch.no_grad():
        head.head.weight.zero_()
        head.head.bias.copy_(torch.arange(32.0))
        scores = head([torch.zeros(1, 1, 2, 3)])
    assert torch.equal(scores[0, 1], (16 + torch.arange(16.0)).view(4, 4).repeat(2, 3))


@pytest.mark.usefixtures("no_gradients")
def test_kept_tokens_are_what_a_head_reads(tmp_path: Path) -> None:
    backbone: Any = small_backbone()
    backbone.norm.weight.uniform_(0.5, 1.5)
    image = torch.rand(3, 56, 84)
    keep(backbone, iter([View("one", image, np.zeros((56, 84)))]), 1, tmp_path / "kept")
    tokens, truth = Kept.of(tmp_path / "kept")[0]
    assert tokens.shape == (4, 24, 32)
    assert truth.shape == (56, 84)
    state = {name: tensor.contiguous() for name, tensor in backbone.state_dict().items()}
    save_file(state, tmp_path / "backbone.safetensors")
    maps = Normed(tmp_path / "backbone.safetensors").maps(tokens[None], TAPS, 4)

    class Last(Head):
        taps = TAPS

        def forward(self, maps: list[Tensor]) -> Tensor:
            return torch.stack(maps)

        def at_size(self, maps: list[Tensor], size: tuple[int, int]) -> Tensor:
            return self.forward(maps)

    mean, deviation = (torch.tensor(three).view(3, 1, 1) for three in _IMAGENET)
    expected = Reading(backbone, Last(), (56, 84), "features")(((image - mean) / deviation)[None])
    torch.testing.assert_close(torch.stack(maps), expected, atol=0.02, rtol=0.02)  # float16


_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_what_is_kept_is_left_alone(tmp_path: Path) -> None:
    views = [View(name, torch.rand(3, 56, 56), np.zeros((56, 56))) for name in "ab"]
    keep(small_backbone(), iter(views[:1]), 1, tmp_path)
    before = (tmp_path / "a.npz").stat().st_mtime_ns
    keep(small_backbone(), iter(views), 2, tmp_path)
    assert (tmp_path / "a.npz").stat().st_mtime_ns == before
    assert len(Kept.of(tmp_path)) == 2
    with pytest.raises(ExpediteError, match="was to hold tokens of views"):
        Kept.of(tmp_path, "c*")


def test_views_carry_their_labels_along() -> None:
    grey = np.repeat(np.linspace(40, 215, 240).astype(np.uint8)[None], 180, axis=0)
    sample = Sample("name", np.stack([grey] * 3, axis=-1), labels=grey.astype(np.int64))
    whole, mirrored, again = (view_of(sample, index) for index in (0, 1, 1))
    assert torch.equal(mirrored.image, again.image)
    assert whole.image.shape[1:] == whole.truth.shape == STREET
    assert np.abs(255 * whole.image[0].numpy() - whole.truth).max() < 2
    assert (np.diff(whole.truth[0].astype(int)) >= 0).all()
    assert (np.diff(mirrored.truth[0].astype(int)) <= 0).all()
    brightness = torch.stack([mirrored.image[0].flatten(), torch.tensor(mirrored.truth).flatten()])
    assert torch.corrcoef(brightness)[0, 1] > 0.99
    nothing = view_of(Sample("void", sample.image, labels=np.full((180, 240), VOID)), 0)
    assert (nothing.truth == VOID).all()
    with pytest.raises(ExpediteError, match="no annotation"):
        view_of(Sample("bare", sample.image), 0)


def test_parts_have_the_aspect_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows, columns = part_of((360, 480), rng)
        assert 0 <= rows.start < rows.stop <= 360
        assert 0 <= columns.start < columns.stop <= 480
        sides = rows.stop - rows.start, columns.stop - columns.start
        assert sides[0] >= 180
        assert sides[1] / sides[0] == pytest.approx(4 / 3, abs=0.01)


def test_a_window_of_tokens_has_its_own_depth() -> None:
    side = SCENE[0] // 14
    index = torch.arange(side * side).view(side, side)
    tokens = index.flatten()[None, None, :, None].expand(2, 4, -1, 3).contiguous()
    depth = index.repeat_interleave(14, 0).repeat_interleave(14, 1)[None].expand(2, -1, -1)
    cut, of_it = window(tokens, depth)
    assert torch.equal(cut[1, 3, :, 0].view(18, 18), of_it[1, ::14, ::14])


def test_dice_is_of_the_classes_that_are_there() -> None:
    labels = torch.tensor([[[0, 0, 1, VOID]]])
    sure = 50 * torch.tensor([[[[1.0, 1, -1, -1]], [[-1, -1, 1, 1]], [[-1, -1, -1, -1]]]])
    assert dice_loss(sure, labels) == pytest.approx(0, abs=1e-6)
    wrong = sure.clone()
    wrong[0, :, 0, 1] = sure[0, :, 0, 2]  # 0 is found once of twice, 1 once too often: 2/3 each
    assert dice_loss(wrong, labels) == pytest.approx(1 / 3, abs=1e-6)


def kept_street(folder: Path) -> Kept:
    """Two views whose tokens say their class, the second class in a tenth of the rows."""
    folder.mkdir()
    for name in "ab":
        labels = torch.zeros(ROWS, COLUMNS, dtype=torch.uint8)
        labels[:4] = 1
        tokens = torch.randn(4, ROWS * COLUMNS, 384)
        tokens[:, labels.flatten() == 1, :100] += 2
        truth = labels.repeat_interleave(14, 0).repeat_interleave(14, 1)
        np.savez(folder / f"{name}.npz", tokens=tokens.half().numpy(), truth=truth.numpy())
    return Kept.of(folder)


def test_a_head_learns_and_rare_classes_weigh_more(tmp_path: Path) -> None:
    kept, norm = kept_street(tmp_path / "kept"), Normed(norm_file(tmp_path))
    weight = class_weights(kept)
    assert weight[1] / weight[0] == pytest.approx(8**0.5)
    assert (weight[0] * 32 + weight[1] * 4) / 36 == pytest.approx(1)
    tokens, truth = (torch.stack(each) for each in zip(*(kept[i] for i in range(2)), strict=True))
    run = start(Linear(), 12, 0.02, 0.02)
    losses = [step_down(run, loss_of(run.model, norm, (tokens, truth), weight)) for _ in range(12)]
    assert losses[-1] < 0.5 * losses[0]


def test_depth_that_is_unknown_does_not_count(tmp_path: Path) -> None:
    norm, head = Normed(norm_file(tmp_path)), DepthAnything()
    tokens = torch.randn(1, 4, (SCENE[0] // 14) ** 2, 384)
    near = torch.full((1, *SCENE), 10.0)
    far = near.clone()
    far[:, ::3] = torch.inf
    losses = []
    for depth in (near, far, 2 * near):
        torch.manual_seed(0)
        losses.append(float(depth_loss(head, norm, (tokens, depth)).detach()))
    assert losses[0] == pytest.approx(losses[1], rel=0.2)
    assert losses[2] != pytest.approx(losses[0], rel=0.02)
