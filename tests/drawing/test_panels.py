import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from expedite.drawing.panels import Panel, Scale, draw_sheet, enlarge, panel_size


def panel(title: str = "a title", scale: Scale | None = None, side: int = 90) -> Panel:
    noise = np.random.default_rng(0).integers(0, 255, (side, 2 * side, 3), dtype=np.uint8)
    return Panel("name", title, "a caption", noise, scale)


def opened(png: bytes) -> tuple[np.ndarray, dict[Any, Any]]:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")), dict(image.info)


def places_of(sheet: np.ndarray, image: np.ndarray) -> list[tuple[int, int]]:
    """Where an image lies in a sheet, pixel for pixel, from the top left."""
    high, wide = image.shape[:2]
    starts = np.argwhere((sheet[:-high, :-wide] == image[0, 0]).all(-1)).tolist()
    return [
        (row, column)
        for row, column in starts
        if (sheet[row : row + high, column : column + wide] == image).all()
    ]


def test_panels_lie_side_by_side_without_resampling() -> None:
    one = panel()
    sheet, info = opened(draw_sheet([[one, one], [None, one]], "α2 16x24"))
    (top, left), (same, right), (below, under) = places_of(sheet, one.image)
    assert top == same < below
    assert left < right == under
    assert right - left == one.image.shape[1] + 16
    assert info["Title"] == "α2 16x24"


def test_titles_are_drawn_and_scales_lie_below() -> None:
    plain, named = (
        opened(draw_sheet([[panel(words)]], words or " "))[0] for words in ("", "a title")
    )
    assert (named < 128).sum() > (plain < 128).sum()
    scaled, _ = opened(draw_sheet([[panel(scale=Scale("gray", 0, 4, " m"))]], "x"))
    assert scaled.shape[0] > named.shape[0]
    row, left = places_of(scaled, panel().image)[0]
    bar = scaled[row + 90 + 8, left : left + 180, 0].astype(int)
    assert (np.diff(bar) >= 0).all()
    assert (bar[0], bar[-1]) == (0, 255)


@pytest.mark.parametrize("words", ["$x_1$ {", "日本.jpg", "x" * 500, "two\nlines", "\x00\udcff"])
def test_titles_of_any_letters(words: str) -> None:
    sheet, info = opened(draw_sheet([[panel(words)]], words))
    assert places_of(sheet, panel().image)
    assert "Title" in info


@pytest.mark.parametrize("size", [(1, 1), (224, 224), (352, 1216), (1600, 100)])
def test_panels_have_one_area_and_the_shape_of_their_image(size: tuple[int, int]) -> None:
    high, wide = panel_size(size)
    assert high / wide == pytest.approx(size[0] / size[1], rel=0.1)
    assert high * wide == pytest.approx(560**2, rel=0.1)


def test_a_strip_still_fits_on_a_sheet() -> None:
    assert panel_size((1, 9999)) == (140, 2240)
    assert panel_size((9999, 1)) == (2240, 140)


def test_a_map_is_enlarged_and_shrunk_by_its_nearest_pixels() -> None:
    values = np.arange(6).reshape(2, 3)
    assert enlarge(values, (4, 6)).tolist() == values.repeat(2, 0).repeat(2, 1).tolist()
    assert enlarge(values, (5, 3))[:, 0].tolist() == [0, 0, 0, 3, 3]
    assert enlarge(values.repeat(2, 0).repeat(2, 1), (2, 3)).tolist() == values.tolist()


def test_values_that_are_none_and_scales_of_one_value() -> None:
    assert Scale("gray", 1, 1).paint(np.array([[0.0, 1.0, np.nan, np.inf]])).shape == (1, 4, 3)
    assert Scale("gray", 0, 123456, " m").ends() == ("0 m", "1.23e+05 m")
