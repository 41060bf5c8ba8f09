from dataclasses import replace

import numpy as np
import pytest
import torch

from expedite.data.images import crop_center, normalize, resize
from expedite.evaluate.seen import seen_by
from expedite.loading import LoadedModel
from expedite.loading.center_crop import CenterCrop
from tests.hosts import segmenter

MEAN, DEVIATION = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
WHOLE = LoadedModel("test", segmenter(), (32, 48), MEAN, DEVIATION, trained=True)
IMAGE = np.random.default_rng(0).integers(0, 255, (50, 77, 3), dtype=np.uint8)


def test_a_whole_image_is_resized_for_the_model_and_keeps_its_shape() -> None:
    seen = seen_by(WHOLE, IMAGE)
    assert seen.image is IMAGE
    assert torch.equal(seen.pixels[0], normalize(resize(IMAGE, (32, 48)), MEAN, DEVIATION))
    assert (seen.share, seen.caption) == ((1.0, 1.0), "32×48 pixels")


def test_a_classifier_sees_the_cut_that_it_is_measured_on() -> None:
    crop = CenterCrop((40, 40), True, "bicubic")
    seen = seen_by(replace(WHOLE, task="classification", crop=crop), IMAGE)
    assert (seen.image == crop_center(IMAGE, crop, (32, 48))).all()
    assert torch.equal(seen.pixels[0], normalize(seen.image, MEAN, DEVIATION))
    assert (seen_by(replace(WHOLE, crop=crop), IMAGE).image == IMAGE).all()


@pytest.mark.parametrize(
    ("short_side", "size", "corner"), [(None, (50, 77), (9, 14)), (64, (64, 99), (16, 25))]
)
def test_the_middle_window_is_cut_from_what_windows_slide_over(
    short_side: int | None, size: tuple[int, int], corner: tuple[int, int]
) -> None:
    seen = seen_by(replace(WHOLE, window_stride=16, short_side=short_side), IMAGE)
    top, left = corner
    window = resize(IMAGE, size)[top : top + 32, left : left + 48]
    assert (seen.image == window).all()
    assert torch.equal(seen.pixels[0], normalize(window, MEAN, DEVIATION))
    assert seen.is_window


def test_an_image_smaller_than_a_window_is_enlarged() -> None:
    seen = seen_by(replace(WHOLE, window_stride=16), IMAGE[:16, :24])
    assert (seen.image == resize(IMAGE[:16, :24], (32, 48))).all()
    assert not seen.is_window
