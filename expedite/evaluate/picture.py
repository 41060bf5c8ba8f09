"""A picture of what a plan does: an image, its clusters, and what is seen before and after."""

import colorsys
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from expedite.clustering import Clustering, labels
from expedite.errors import ExpediteError
from expedite.evaluate.images import Image, normalize, opencv, resize, resize_short_side
from expedite.evaluate.results import replacing
from expedite.evaluate.tasks import read_answer, task_of
from expedite.evaluate.tasks.classes import Classes
from expedite.loading import LoadedModel, TaskName
from expedite.patchers.hooks import find_sessions

_PANEL_HEIGHT = 384
_CAPTION_HEIGHT = 28
_LINE = (255, 255, 0)


def draw_plan(
    loaded: LoadedModel, base: nn.Module, patched: nn.Module, image: Image, path: Path
) -> None:
    """Write a PNG of one input of the model: image, clusters, prediction before and after.

    A model that slides windows over images is shown the middle window.

    Args:
        loaded: Says how images are prepared, and what the model is for.
        base: The unpatched model.
        patched: The same, patched; the clusters of its first span are drawn.
        image: (H, W, 3) RGB.
        path: Where to write.

    Raises:
        ExpediteError: The model classifies whole images or gives features, or clusters in windows.
    """
    task = task_of(loaded).name
    if task not in _DRAWN:
        raise ExpediteError(
            f"a picture of {task} was asked; there are pictures of {', '.join(_DRAWN)}"
        )
    window = _input(loaded, image)
    pixels = normalize(window, loaded.mean, loaded.deviation)[None]
    weight = next(base.parameters())
    pixels = pixels.to(weight.device, weight.dtype)
    with torch.inference_mode():
        before, after = (
            read_answer(loaded, model(pixels), window.shape[:2]) for model in (base, patched)
        )
    panels = {"image": window, "clusters": outline(window, cluster_map(patched, pixels))}
    with replacing(path) as file:
        file.write(_DRAWN[task](panels, before, after))


def cluster_map(patched: nn.Module, pixels: Tensor) -> NDArray[np.int64]:
    """Which cluster every token of one image (1, 3, h, w) leans to, (H, W), in the first span."""
    sessions = list(find_sessions(patched))
    if not sessions:
        raise ExpediteError("clusters were asked of a model that is not patched")
    if sessions[0].host.window is not None:
        raise ExpediteError(
            "a map of clusters was asked of a model that clusters in windows; there are maps of "
            "models without windows"
        )
    first = min(sessions[0].clusterings)
    records: list[Clustering] = []

    def keep_record(module: nn.Module, args: Any, output: tuple[Tensor, Clustering]) -> None:
        records.append(output[1])

    handle = sessions[0].clusterings[first].register_forward_hook(keep_record)
    try:
        with torch.inference_mode():
            patched(pixels)
    finally:
        handle.remove()
    return labels(records[0])[0].reshape(records[0].grid).cpu().numpy()


def outline(image: Image, regions: NDArray[np.int64]) -> Image:
    """Draw borders between regions of a coarser map onto an image."""
    height, width = image.shape[:2]
    scale = max(1, -(-_PANEL_HEIGHT // height))
    large = resize(image, (height * scale, width * scale)).copy()
    rows = np.arange(large.shape[0]) * regions.shape[0] // large.shape[0]
    columns = np.arange(large.shape[1]) * regions.shape[1] // large.shape[1]
    region = regions[rows][:, columns]
    border = np.zeros(region.shape, dtype=bool)
    border[:-1] |= region[:-1] != region[1:]
    border[:, :-1] |= region[:, :-1] != region[:, 1:]
    large[border] = _LINE
    return large


def color_classes(image: Image, classes: NDArray[np.int64]) -> Image:
    """Tint an image by class, every class in a hue of its own."""
    grey = image.mean(-1, keepdims=True)
    tinted = 0.4 * grey + 0.6 * _palette(int(classes.max()) + 1)[classes]
    return np.asarray(tinted, dtype=np.uint8)


def _draw_classes(panels: dict[str, Image], before: Classes, after: Classes) -> bytes:
    seen = {
        name: color_classes(panels["image"], found.indices.numpy())
        for name, found in (("before", before), ("after", after))
    }
    png: bytes = opencv().imencode(".png", _side_by_side(panels | seen)[..., ::-1])[1].tobytes()
    return png


def _draw_depth(panels: dict[str, Image], before: Tensor, after: Tensor) -> bytes:
    height, width = before.shape
    figure = Figure(figsize=(3 * 3.6 * width / height + 1.5, 7.6), layout="constrained")
    (image, clusters, empty), maps = figure.subplots(2, 3)
    for at, (name, panel) in zip((image, clusters), panels.items(), strict=True):
        at.imshow(panel)
        at.set_title(name)
    # A few far pixels would leave all others in one colour.
    near, far = np.quantile(before, (0.02, 0.98))
    wide = float(np.quantile((after - before).abs(), 0.98))
    _draw_map(maps[0], before, "depth before", "viridis", near, far)
    _draw_map(maps[1], after, "depth after", "viridis", near, far)
    _draw_map(maps[2], after - before, "after − before", "RdBu", -wide, wide)
    for at in (image, clusters, empty, *maps):
        at.set_axis_off()
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=80)
    return png.getvalue()


def _draw_map(
    axes: Axes, values: Tensor, title: str, colours: str, lowest: float, highest: float
) -> None:
    shown = axes.imshow(values.numpy(), colours, vmin=lowest, vmax=highest)
    axes.set_title(title)
    axes.figure.colorbar(shown, ax=axes, extend="both", shrink=0.8)


_DRAWN: dict[TaskName, Callable[[dict[str, Image], Any, Any], bytes]] = {
    "segmentation": _draw_classes,
    "depth": _draw_depth,
}


def _palette(count: int) -> NDArray[np.float64]:
    # Steps of the golden ratio keep hues of neighbouring classes far apart.
    hues = [(index * 0.61803) % 1 for index in range(count)]
    return np.array([colorsys.hsv_to_rgb(hue, 0.75, 0.95) for hue in hues]) * 255


def _input(loaded: LoadedModel, image: Image) -> Image:
    if loaded.window_stride is None:
        return resize(image, loaded.image_size)
    height, width = loaded.image_size
    if loaded.short_side is not None:
        image = resize_short_side(image, loaded.short_side)
    scale = max(1.0, height / image.shape[0], width / image.shape[1])  # a window fits in
    image = resize(image, (round(scale * image.shape[0]), round(scale * image.shape[1])))
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def _side_by_side(panels: dict[str, Image]) -> Image:
    columns = []
    for caption, panel in panels.items():
        width = round(panel.shape[1] * _PANEL_HEIGHT / panel.shape[0])
        column = np.full((_PANEL_HEIGHT + _CAPTION_HEIGHT, width + 8, 3), 255, np.uint8)
        column[_CAPTION_HEIGHT:, :width] = resize(panel, (_PANEL_HEIGHT, width))
        opencv().putText(column, caption, (4, 20), 0, 0.6, (0, 0, 0), 1, 16)  # smooth lettering
        columns.append(column)
    return np.concatenate(columns, axis=1)
