"""Pictures of what a plan does: clusters, where reconstruction errs, predictions before and after.

`visualize(load_model("demo:segmenter"), make_plan(2, 16), image).write(Path("picture.png"))`
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from expedite.data.images import Image, resize
from expedite.drawing.drawing import Panels, borders, draw_classes, draw_depth, draw_segments
from expedite.drawing.drawing_objects import draw_objects
from expedite.drawing.panels import Panel, Scale, draw_sheet, enlarge, panel_size
from expedite.errors import ExpediteError
from expedite.evaluate.observe import SpanView, observe
from expedite.evaluate.results import check_writable, replacing
from expedite.evaluate.seen import Seen, seen_by
from expedite.evaluate.sweep import Row
from expedite.evaluate.table import label
from expedite.evaluate.tasks import read_answer, task_of
from expedite.evaluate.tasks.depth import Depth
from expedite.loading import LoadedModel, TaskName
from expedite.measure.speed import twin
from expedite.patching import patch, unpatch
from expedite.plan import Plan

# Tasks whose answers can be drawn over an image.
_Draw = Callable[[Image, Any, Any], Panels]
# Given the names of classes.
DRAWN: Mapping[TaskName, Callable[[Sequence[str]], _Draw]] = {
    "segmentation": lambda names: partial(_draw_classes, names=names),
    "depth": lambda names: draw_depth,
    "panoptic": lambda names: partial(draw_segments, names=names),
    "instance": lambda names: partial(draw_objects, names=names),
    "detection": lambda names: partial(draw_objects, names=names),
}
_LINE = (255, 255, 0)
_MOST = 0.98  # of the tokens lie within the scale of errors


@dataclass(frozen=True)
class Views:
    """The panels of a plan on one image.

    Args:
        title: What they are of.
        image: What the model saw.
        spans: What is known of each span.
        panels: Of each span: its clusters' borders, their colours, and the error behind it.
        answers: Predictions before and after, and their difference; none where weights are random,
            or the model's answer cannot be drawn.
    """

    title: str
    image: Panel
    spans: tuple[SpanView, ...]
    panels: tuple[tuple[Panel, ...], ...]
    answers: tuple[Panel, ...]

    @property
    def rows(self) -> list[list[Panel | None]]:
        """How they lie on the sheet: the image, beside it a row for each span and the answers."""
        rows = [list(panels) for panels in (*self.panels, self.answers) if panels]
        heads = [self.image, *[None] * len(rows)]
        return [[head, *row] for head, row in zip(heads, rows or [[]], strict=False)]

    def write(self, out: Path) -> list[Path]:
        """Write the sheet to a .png file, or the sheet and every panel into a folder.

        Raises:
            ExpediteError: A file of another kind is asked, or something cannot be written.
        """
        files = {"sheet": draw_sheet(self.rows, self.title)}
        if is_file(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            return [_write(out, files["sheet"])]
        for panel in (self.image, *[panel for row in self.panels for panel in row], *self.answers):
            files[panel.name] = draw_sheet([[panel]], self.title)
        out.mkdir(parents=True, exist_ok=True)
        return [_write(out / f"{name}.png", content) for name, content in files.items()]


def is_file(out: Path) -> bool:
    """Whether pictures go into one file, and not into a folder.

    Raises:
        ExpediteError: A file of another kind than PNG is asked, or nothing can be written there.
    """
    if out.suffix and not out.is_dir():
        if out.suffix.lower() != ".png":
            raise ExpediteError(f"a picture was to go to {out}; a .png file, or a folder, is due")
        check_writable(out.parent)
        return True
    check_writable(out)
    return False


def visualize(loaded: LoadedModel, plan: Plan, image: Image, name: str = "") -> Views:
    """Draw what a plan does to one image.

    A model that slides windows over images is shown the middle window.

    Args:
        loaded: The model, which stays as it is.
        plan: What to look at, of any method.
        image: (H, W, 3) RGB.
        name: Of the image, for the title.

    Raises:
        ExpediteError: The plan cannot be carried out, or there is nothing to draw of it.

    Example:
        >>> from expedite.loading import load_model
        >>> from expedite.plan import make_plan
        >>> loaded = load_model("timm:vit_tiny_patch16_224")
        >>> views = visualize(loaded, make_plan(4, 7), np.zeros((90, 120, 3), np.uint8))
        >>> [panel.name for row in views.panels for panel in row], views.answers
        (['clusters', 'assignment'], ())
    """
    with suppress(ExpediteError):  # an output of no task
        loaded = loaded.for_task(task_of(loaded).name)
    seen = seen_by(loaded, image)
    spans = tuple(observe(loaded.model, plan, seen.pixels))
    if not loaded.trained:  # where every method looks free
        spans = tuple(replace(span, error=None) for span in spans)
    suffixes = [f"_{index}" for index in range(1, len(spans) + 1)] if len(spans) > 1 else [""]
    panels = tuple(
        _span_panels(span, seen, suffix) for span, suffix in zip(spans, suffixes, strict=True)
    )
    answers = _answers(loaded, plan, seen)
    if not any(panels) and not answers:
        raise ExpediteError(
            f"a picture of '{label(Row(plan, 1, 1))}' on '{loaded.name}' was asked, which makes no "
            "clusters, and whose predictions are not drawn; a method that makes clusters works"
        )
    shown = " on ".join(filter(None, [label(Row(plan, 1, 1)), name]))
    image_panel = Panel("image", name or "image", seen.caption, _large(seen))
    return Views(f"{shown} · {loaded.name}", image_panel, spans, panels, answers)


def _large(seen: Seen) -> Image:
    return resize(seen.image, panel_size(seen.image.shape[:2]))


def _answers(loaded: LoadedModel, plan: Plan, seen: Seen) -> tuple[Panel, ...]:
    draw = _drawing(loaded)
    if draw is None:
        return ()
    size = seen.image.shape[:2]
    model = unpatch(twin(loaded.model))
    with torch.inference_mode():
        before = read_answer(loaded, model(seen.pixels), size)
        after = read_answer(loaded, patch(model, plan)(seen.pixels), size)
    return draw(seen.image, before, after)


def _drawing(loaded: LoadedModel) -> _Draw | None:
    """How a model's answers are drawn; None where they are not."""
    if not loaded.trained:
        return None
    try:
        task = task_of(loaded)
    except ExpediteError:  # its output is of no task: tokens, say, which can be clustered
        return None
    if isinstance(task, Depth) and task.metric:
        return partial(draw_depth, unit=" m")
    draw = DRAWN.get(task.name)
    return draw(loaded.class_names) if draw else None


def _draw_classes(image: Image, before: Any, after: Any, names: Sequence[str]) -> Panels:
    return draw_classes(image, before.indices, after.indices, names)


def _span_panels(span: SpanView, seen: Seen, suffix: str) -> tuple[Panel, ...]:
    large = _large(seen)
    panels = []
    if span.labels is not None and span.clusters is not None:
        regions = _stretch(span.labels, seen)
        what = "{}×{} clusters of {}×{} tokens".format(*span.clusters, *span.grid)
        title = f"clusters, blocks {span.first} to {span.last}"
        panels += [
            Panel(f"clusters{suffix}", title, what, outline(large, regions)),
            Panel(f"assignment{suffix}", "their mean colours", what, mean_colours(large, regions)),
        ]
    if span.error is not None:
        panels.append(_error_panel(span, span.error, seen, suffix))
    return tuple(panels)


def _error_panel(span: SpanView, error: NDArray[np.float32], seen: Seen, suffix: str) -> Panel:
    percent = 100 * error
    scale = Scale("magma", 0, float(np.quantile(percent, _MOST)), " %")
    title = f"error after block {span.last}"
    caption = f"of the tokens' length; {percent.mean():.3g} % on average"
    drawn = scale.paint(_stretch(percent, seen))
    return Panel(f"error{suffix}", title, caption, drawn, scale)


def outline(image: Image, regions: NDArray[np.integer]) -> Image:
    """Draw lines between regions (H, W) of an image (H, W, 3)."""
    drawn = image.copy()
    drawn[borders(regions)] = _LINE
    return drawn


def mean_colours(image: Image, regions: NDArray[np.integer]) -> Image:
    """Give each region (H, W) of an image the mean of its colours.

    Example:
        >>> image = np.array([[[0, 0, 0], [10, 20, 30], [90, 0, 0]]], np.uint8)
        >>> mean_colours(image, np.array([[4, 4, 7]]))[0].tolist()
        [[5, 10, 15], [5, 10, 15], [90, 0, 0]]
    """
    _, places, counts = np.unique(regions, return_inverse=True, return_counts=True)
    sums = [np.bincount(places.ravel(), image[..., channel].ravel()) for channel in range(3)]
    means = (np.stack(sums, -1) / counts[:, None]).astype(np.uint8)
    coloured: Image = means[places.reshape(regions.shape)]
    return coloured


def _stretch(values: NDArray[Any], seen: Seen) -> NDArray[Any]:
    """Values of tokens (H, W) at the pixels of the panel of what was seen."""
    size = panel_size(seen.image.shape[:2])
    whole = round(size[0] / seen.share[0]), round(size[1] / seen.share[1])
    return enlarge(values, whole)[: size[0], : size[1]]


def _write(path: Path, content: bytes) -> Path:
    with replacing(path) as file:
        file.write(content)
    return path
