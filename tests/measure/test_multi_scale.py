"""Multi-scale testing against loops over sizes, mirror images, windows and pixels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from expedite import ExpediteError
from expedite.data.images import Image, normalize, resize
from expedite.evaluate.predict import predict
from expedite.loading import LoadedModel
from tests.evaluate.tasks.query_outputs import masks_of, output_of

FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
HALF = (0.5, 0.5, 0.5)
IMAGE = np.random.default_rng(0).integers(0, 255, (41, 60, 3), dtype=np.uint8)


class Scores(nn.Module):
    """Scores at a quarter of the size, of a place's surroundings, so that every size differs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 4, 4, stride=4)

    def forward(self, images: Tensor) -> Tensor:
        return 3 * interpolate(self.layer(images), images.shape[-2:], mode="nearest")


LOADED = LoadedModel("test", Scores(), (32, 32), HALF, HALF, True, task="segmentation")


def in_windows(image: Image, window: int, stride: int) -> Tensor:
    """The mean score (classes, H, W) of every pixel over the windows that see it."""
    pixels = normalize(image, HALF, HALF)
    if (smaller := min(pixels.shape[1:])) < window:
        size = [max(window, int(side * window / smaller)) for side in pixels.shape[1:]]
        pixels = interpolate(pixels[None], size, mode="bilinear")[0]
    _, height, width = pixels.shape
    total, count = torch.zeros(4, height, width), torch.zeros(height, width)
    tops, lefts = ([*range(0, side - window, stride), side - window] for side in (height, width))
    for top in tops:
        for left in lefts:
            scores = LOADED.model(pixels[None, :, top : top + window, left : left + window])[0]
            for row in range(window):
                for column in range(window):
                    total[:, top + row, left + column] += scores[:, row, column]
                    count[top + row, left + column] += 1
    return total / count


def averaged(scores_at: dict[float, list[Tensor]]) -> NDArray[np.int64]:
    """Classes of pixels by the mean of probabilities; the second scores are of a mirror image."""
    total = torch.zeros(4, 41, 60)
    for plain, mirrored in scores_at.values():
        for scores, flips in ((plain, False), (mirrored, True)):
            large = interpolate(scores[None], (41, 60), mode="bilinear")[0]
            total += (large.flip(2) if flips else large).softmax(0)
    return total.argmax(0).numpy()


@torch.inference_mode()
def test_windows_at_six_sizes_and_mirrored() -> None:
    loaded = replace(LOADED, window_stride=20, short_side=40, multi_scale=True)
    scores = {}
    for factor in FACTORS:
        scale = int(40 * factor) / 41
        size = int(41 * scale + 0.5), int(60 * scale + 0.5)
        scores[factor] = [
            in_windows(resize(np.ascontiguousarray(side), size), 32, 20)
            for side in (IMAGE, IMAGE[:, ::-1])
        ]
    found = predict(loaded, loaded.model, IMAGE)
    assert np.array_equal(found.indices.numpy(), averaged(scores))
    single = predict(replace(loaded, multi_scale=False), loaded.model, IMAGE)
    assert not torch.equal(found.indices, single.indices)  # so it is not all the same


@torch.inference_mode()
def test_whole_images_at_six_sizes_and_mirrored() -> None:
    loaded = replace(LOADED, image_size=(64, 96), multi_scale=True)
    scores = {}
    for factor, size in zip(
        FACTORS, [(32, 64), (64, 64), (64, 96), (64, 128), (96, 128), (128, 160)], strict=True
    ):  # 48 and 72 lie in the middle of two multiples of 32, which go to the even one
        scores[factor] = [
            loaded.model(normalize(resize(np.ascontiguousarray(side), size), HALF, HALF)[None])[0]
            for side in (IMAGE, IMAGE[:, ::-1])
        ]
    assert np.array_equal(predict(loaded, loaded.model, IMAGE).indices.numpy(), averaged(scores))


def test_models_without_scores_are_refused() -> None:
    queries = output_of([0, 1], masks_of([[0, 1]], 2), classes=2)
    with pytest.raises(ExpediteError, match="of 'test', which gives no scores of every class at"):
        predict(replace(LOADED, multi_scale=True), lambda images: queries, IMAGE)
