"""From an image to what a model says of it, in the form of its task."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from expedite.evaluate.images import Image, normalize, resize, resize_short_side
from expedite.evaluate.tasks import read_answer
from expedite.loading import LoadedModel
from expedite.models.sliding import sliding_window


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
    if loaded.prepares_images:
        return model(_pixels(replace(loaded, mean=(0.0,) * 3, deviation=(1.0,) * 3), image)[None])
    if loaded.window_stride is None:
        return model(_pixels(loaded, resize(image, loaded.image_size))[None])
    small = image if loaded.short_side is None else resize_short_side(image, loaded.short_side)
    pixels, size = _pixels(loaded, small), (image.shape[0], image.shape[1])
    return sliding_window(model, pixels, loaded.image_size, loaded.window_stride, size)[None]


def _pixels(loaded: LoadedModel, image: Image) -> Tensor:
    weight = next(loaded.model.parameters())
    pixels = normalize(image, loaded.mean, loaded.deviation)
    return pixels.to(weight.device, weight.dtype)
