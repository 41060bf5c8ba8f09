"""What trainings on scenes share: views that keep pairs, epochs that go on and resume."""

from pathlib import Path

import lessons
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lessons import Lesson, Settings, Size, Views, pictures, read_image, read_truth, train
from PIL import Image
from torch import Tensor, nn

from expedite.scenes.scenes import write_scenes

SETTINGS = Settings(((16, 24), (32, 48)), (3, 2), batch=2, bf16=False, workers=0)


class Tiny(nn.Module):
    """The depth of a pixel from its colour."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 1))

    def forward(self, images: Tensor) -> Tensor:
        depth: Tensor = self.layers(images.movedim(1, -1))[..., 0]
        return depth


def fresh() -> Tiny:
    torch.manual_seed(0)
    return Tiny()


def read(path: Path) -> tuple[Tensor, Tensor]:
    return read_image(path), read_truth(path, "depth").float() / 1000


def loss(model: Tiny, batch: tuple[Tensor, Tensor], bf16: bool) -> Tensor:
    images, depth = batch
    seen = F.interpolate(depth[:, None], images.shape[-2:])[:, 0]
    return F.l1_loss(model(images), seen)


def measure(model: Tiny, names: list[Path], size: Size) -> dict[str, float]:
    return {"images": float(len(names))}


LESSON: Lesson[Tiny] = Lesson(read, loss, measure)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root, "train", 4, (40, 56))
    write_scenes(root, "val", 2, (40, 56))
    return root


def test_resuming_ends_at_the_same_weights(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(LESSON, scenes, SETTINGS, fresh(), tmp_path / "whole").state_dict()
    one_epoch = lessons.one_epoch

    def interrupted(*arguments: object) -> float:
        if arguments[0].epoch == 1:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return one_epoch(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(lessons, "one_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(LESSON, scenes, SETTINGS, fresh(), tmp_path / "parts")
    again = train(LESSON, scenes, SETTINGS, fresh(), tmp_path / "parts", resume=True)
    parts = again.state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert not torch.equal(whole["layers.0.weight"], fresh().state_dict()["layers.0.weight"])


def test_an_epoch_goes_on_where_the_last_one_ended(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def views(names: list[Path], *others: object) -> Views:
        seen.append([path.stem for path in names])
        return Views(names, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(lessons, "Views", views)
    train(LESSON, scenes, SETTINGS, fresh(), tmp_path)
    assert seen == [["00000", "00001", "00002"], ["00003", "00000"]]


def test_views_keep_image_and_truth_together(tmp_path: Path) -> None:
    for kind in ("images", "depth"):
        (tmp_path / kind / "train").mkdir(parents=True)
    metres = np.tile(np.linspace(1, 40, 64), (48, 1))
    Image.fromarray((6 * metres).astype(np.uint8)).convert("RGB").save(
        tmp_path / "images/train/0.jpg", quality=95
    )
    Image.fromarray((1000 * metres).astype(np.uint16)).save(tmp_path / "depth/train/0.png")
    flips = set()
    for epoch in range(20):
        image, depth = Views(pictures(tmp_path, "train"), (48, 64), (0, epoch), read)[0]
        brightness = image.mean(0)
        assert np.corrcoef(brightness.flatten(), depth.flatten())[0, 1] > 0.99
        flips.add(bool(depth[0, 0] < depth[0, -1]))
    assert flips == {True, False}
