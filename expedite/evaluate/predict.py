"""From an image to what a model says of it, in the form of its task."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from expedite.data.images import Image, crop_center, normalize, resize, resize_short_side
from expedite.errors import ExpediteError
from expedite.evaluate.tasks import read_answer
from expedite.evaluate.tasks.base import at_size
from expedite.loading import LoadedModel
from expedite.measure.multi_scale import multi_scale
from expedite.models.sliding import sliding_window

# Whole images get sides that all published models take.
_MULTIPLE = 32


def predict(loaded: LoadedModel, model: Callable[[Tensor], Any], image: Image) -> Any:
    """Run a model on one image.

    Args:
        loaded: Says how images are prepared, and what the model is for.
        model: What to run, (B, 3, H, W) to what a task reads: the loaded model, patched or not.
        image: (H, W, 3) RGB.

    Returns:
        The answer in the form of its task, for pixels of the image, on the CPU.

    Raises:
        ExpediteError: The model gives anything else.
    """
    with torch.inference_mode():
        return read_answer(loaded, _output(loaded, model, image), image.shape[:2])


def _output(loaded: LoadedModel, model: Callable[[Tensor], Any], image: Image) -> Any:
    if loaded.multi_scale:
        return multi_scale(partial(_probabilities, loaded, model), image)
    if loaded.prepares_images:
        return model(pixels_of(without_norm(loaded), image)[None])
    if loaded.window_stride is not None:
        return _in_windows(loaded, model, image)
    return model(pixels_of(loaded, resize(shown_of(loaded, image), loaded.image_size))[None])


def shown_of(loaded: LoadedModel, image: Image) -> Image:
    """What a model that takes a whole image is shown of it: a classifier its centre, if so said."""
    if loaded.crop is None or loaded.task != "classification":
        return image
    return crop_center(image, loaded.crop, loaded.image_size)


def without_norm(loaded: LoadedModel) -> LoadedModel:
    """A model that prepares images itself, and takes them as they are from 0 to 1."""
    return replace(loaded, mean=(0.0,) * 3, deviation=(1.0,) * 3)


def pixels_of(loaded: LoadedModel, image: Image) -> Tensor:
    """An image in the values that a model takes, (3, H, W), on its device and in its dtype."""
    weight = next(loaded.model.parameters())
    pixels = normalize(image, loaded.mean, loaded.deviation)
    return pixels.to(weight.device, weight.dtype)


def _in_windows(
    loaded: LoadedModel, model: Callable[[Tensor], Any], image: Image, factor: float = 1.0
) -> Tensor:
    """Class probabilities (1, classes, H, W) of an image made larger by a factor first."""
    assert loaded.window_stride is not None  # asked before
    side = loaded.short_side or min(image.shape[:2])
    small = resize_short_side(image, int(side * factor))
    pixels, size = pixels_of(loaded, small), (image.shape[0], image.shape[1])
    return sliding_window(model, pixels, loaded.image_size, loaded.window_stride, size)[None]


def _probabilities(
    loaded: LoadedModel, model: Callable[[Tensor], Any], image: Image, factor: float
) -> Tensor:
    """The same in windows, or of the whole image at so many times the model's size."""
    if loaded.window_stride is not None:
        return _in_windows(loaded, model, image, factor)
    height, width = (
        _MULTIPLE * max(1, round(side * factor / _MULTIPLE)) for side in loaded.image_size
    )
    output = model(pixels_of(loaded, resize(image, (height, width)))[None])
    scores = getattr(output, "logits", output)
    if not isinstance(scores, Tensor) or scores.dim() != 4:
        raise ExpediteError(
            f"multi-scale testing was asked of '{loaded.name}', which gives no scores of every "
            "class at every place, whose means it takes"
        )
    return at_size(scores.float(), (image.shape[0], image.shape[1])).softmax(1)
