import torch
from hypothesis import given
from hypothesis import strategies as st

from expedite.models.sliding import sliding_window, window_starts


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
