import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expedite.models.sliding import _enlarge, sliding_window, window_starts


@given(length=st.integers(1, 200), window=st.integers(1, 60), stride=st.integers(1, 60))
def test_windows_cover_the_side_and_end_with_it(length: int, window: int, stride: int) -> None:
    length = max(length, window)
    starts = window_starts(length, window, min(stride, window))
    covered = {place for start in starts for place in range(start, start + window)}
    assert covered == set(range(length))


def test_one_window_of_the_images_size_is_the_models_softmax() -> None:
    image = torch.randn(3, 32, 40)
    probabilities = sliding_window(lambda x: 2 * x, image, (32, 40), 16)
    torch.testing.assert_close(probabilities, (2 * image).softmax(0))


def test_overlaps_are_averaged_by_how_many_windows_saw_a_pixel() -> None:
    seen: list[torch.Tensor] = []

    def model(windows: torch.Tensor) -> torch.Tensor:
        seen.append(windows)
        return windows

    image = torch.randn(2, 8, 12)
    probabilities = sliding_window(model, image, (8, 8), 4)
    assert sum(map(len, seen)) == 2
    torch.testing.assert_close(probabilities, image.softmax(0))


def published_size(height: int, width: int, least: int) -> tuple[int, int]:
    """What `resize` of segm/model/utils.py at 20d1bfa makes of an image below the window's side."""
    if height < width:
        return least, int(width / height * least)
    return int(height / width * least), least


@pytest.mark.parametrize("least", [512, 640, 768])
def test_images_below_the_window_are_enlarged_as_published(
    least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, ...]] = []

    def interpolate(image: torch.Tensor, size: list[int], mode: str) -> torch.Tensor:
        asked.append(tuple(size))
        return image

    monkeypatch.setattr("torch.nn.functional.interpolate", interpolate)
    for height in range(1, least, 13):
        for width in (*range(1, least, 17), 1024):
            _enlarge(torch.empty(1, 3, height, width, device="meta"), (least, least))
            assert asked.pop() == published_size(height, width, least)


def test_images_as_large_as_the_window_stay() -> None:
    large = torch.zeros(1, 3, 32, 40)
    assert _enlarge(large, (32, 32)) is large
