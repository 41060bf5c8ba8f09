"""Panels, and the sheet of them: pictures with titles, scales below, side by side as one PNG."""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray

from expedite.data.images import Image

# A panel has about the area of a square of so many pixels, in the shape of its image.
_SIDE = 560
_LONGEST = 16.0  # times the other side
_DPI = 100
# Pixels between panels, and above and below them for words.
_GAP, _MARGIN, _HEADER, _TITLE, _BAR, _SCALE = 16, 20, 34, 48, 12, 32


@dataclass(frozen=True)
class Scale:
    """Which colours stand for which values.

    Args:
        colours: The name of a colormap of matplotlib.
        lowest: The value of its first colour; what is lower has it too.
        highest: The value of its last colour; what is higher has it too.
        unit: Of the values, behind the ends of the scale.
    """

    colours: str
    lowest: float
    highest: float
    unit: str = ""

    def paint(self, values: NDArray[np.floating]) -> Image:
        """Values (H, W) in their colours, (H, W, 3).

        Example:
            >>> Scale("gray", 0, 4).paint(np.array([[-1.0, 2.0, 9.0]]))[0, :, 0].tolist()
            [0, 128, 255]
        """
        spread = self.highest - self.lowest
        share = (values - self.lowest) / (spread if spread > 0 else 1.0)
        shares = np.clip(np.nan_to_num(share), 0, 1)
        coloured: Image = (255 * colormaps[self.colours](shares)[..., :3]).astype(np.uint8)
        return coloured

    def ends(self) -> tuple[str, str]:
        """The lowest and the highest value in words."""
        lowest, highest = (f"{value:.3g}{self.unit}" for value in (self.lowest, self.highest))
        return lowest, highest


@dataclass(frozen=True)
class Panel:
    """One picture of several.

    Args:
        name: Of its file, without suffix.
        title: What it shows.
        caption: More about it, on a line of its own.
        image: (H, W, 3) RGB.
        scale: What its colours mean, where they stand for values.
    """

    name: str
    title: str
    caption: str
    image: Image
    scale: Scale | None = None


def panel_size(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the panel of an image of `size`; long strips are drawn shorter.

    Example:
        >>> panel_size((224, 224)), panel_size((352, 1216))
        ((560, 560), (301, 1041))
    """
    shape = min(max(size[0] / size[1], 1 / _LONGEST), _LONGEST) ** 0.5
    return round(_SIDE * shape), round(_SIDE / shape)


def enlarge(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """A map (H, W) or (H, W, 3) at another size, each pixel taken from the nearest."""
    rows, columns = (np.arange(n) * of // n for n, of in zip(size, image.shape, strict=False))
    larger: NDArray[Any] = image[rows][:, columns]
    return larger


def draw_sheet(rows: Sequence[Sequence[Panel | None]], title: str) -> bytes:
    """A PNG of panels of one size in rows, None for a free place; it carries its title in words.

    Args:
        rows: Of panels.
        title: Above all of them, and in the file.
    """
    high, wide = next(panel for row in rows for panel in row if panel).image.shape[:2]
    heights = [_TITLE + high + _GAP + _SCALE * _has_scale(row) for row in rows]
    columns = max(map(len, rows))
    page = _Page(
        2 * _MARGIN + columns * wide + (columns - 1) * _GAP, 2 * _MARGIN + _HEADER + sum(heights)
    )
    page.text(_MARGIN, _MARGIN, title, size=13, weight="bold")
    tops = accumulate(heights, initial=_MARGIN + _HEADER)
    for row, top in zip(rows, tops, strict=False):
        for place, panel in enumerate(row):
            if panel is not None:
                page.add(panel, _MARGIN + place * (wide + _GAP), top)
    return page.png(title)


def _has_scale(row: Sequence[Panel | None]) -> bool:
    return any(panel is not None and panel.scale is not None for panel in row)


class _Page:
    """A figure whose unit is the pixel, from the top left corner."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")

    def text(self, left: int, top: int, words: str, **style: Any) -> None:
        """Words, whose top left corner is there."""
        settings = {"va": "top", "ha": "left", "parse_math": False, "color": "black", **style}
        self.figure.text(left / self.width, 1 - top / self.height, _readable(words), **settings)

    def image(self, left: int, top: int, pixels: Image) -> None:
        """Pixels as they are, without resampling."""
        bottom = self.height - top - pixels.shape[0]
        self.figure.figimage(pixels, left, bottom, origin="upper")

    def add(self, panel: Panel, left: int, top: int) -> None:
        """A panel with its title, and its scale where it has one."""
        self.text(left, top, panel.title, size=11)
        self.text(left, top + 21, panel.caption, size=9, color="#555555")
        top += _TITLE
        self.image(left, top, panel.image)
        if panel.scale is None:
            return
        wide = panel.image.shape[1]
        top += panel.image.shape[0] + 4
        ramp = np.linspace(panel.scale.lowest, panel.scale.highest, wide)
        self.image(left, top, panel.scale.paint(np.tile(ramp, (_BAR, 1))))
        lowest, highest = panel.scale.ends()
        self.text(left, top + _BAR + 2, lowest, size=9)
        self.text(left + wide, top + _BAR + 2, highest, size=9, ha="right")

    def png(self, title: str) -> bytes:
        file = io.BytesIO()
        with warnings.catch_warnings():
            # A name in letters that the font lacks shows as boxes; the file has it in words.
            warnings.filterwarnings("ignore", "Glyph", UserWarning)
            self.figure.savefig(
                file,
                format="png",
                dpi=_DPI,
                metadata={"Title": _readable(title)},
                pil_kwargs={"compress_level": 3},  # twice as fast as the default
            )
        return file.getvalue()


def _readable(words: str) -> str:
    """Words without what cannot be written, as in names of files that are no text."""
    return words.encode("utf-8", "replace").decode()
