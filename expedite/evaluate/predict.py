"""From an image to the classes that a model sees in it: a map of them, or one for the image."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from expedite.errors import ExpediteError
from expedite.evaluate.images import Image, normalize, resize, resize_short_side
from expedite.loading import LoadedModel
from expedite.models.sliding import sliding_window


class Prediction(NamedTuple):
    """Indices on the CPU, (H, W) or () for one an image, among `classes` classes."""

    indices: Tensor
    classes: int


def predict(loaded: LoadedModel, model: Callable[[Tensor], Any], image: Image) -> Prediction:
    """Classify the pixels of an image, or the image as a whole.

    Args:
        loaded: Says how images are prepared.
        model: What to run, (B, 3, H, W) to scores (B, classes, h, w) or (B, classes): the loaded
            model, patched or not.
        image: (H, W, 3) RGB.

    Raises:
        ExpediteError: The model gives anything else.
    """
    with torch.inference_mode():
        scores = _scores(loaded, model, image)
    return Prediction(scores.argmax(0).cpu(), len(scores))


def _scores(loaded: LoadedModel, model: Callable[[Tensor], Any], image: Image) -> Tensor:
    size = (image.shape[0], image.shape[1])
    if loaded.window_stride is None:
        return _whole(loaded, model, resize(image, loaded.image_size), size)
    if loaded.short_side is not None:
        image = resize_short_side(image, loaded.short_side)
    pixels = _to_model(loaded, normalize(image, loaded.mean, loaded.deviation))
    return sliding_window(model, pixels, loaded.image_size, loaded.window_stride, size)


def _whole(
    loaded: LoadedModel, model: Callable[[Tensor], Any], image: Image, size: tuple[int, int]
) -> Tensor:
    pixels = _to_model(loaded, normalize(image, loaded.mean, loaded.deviation))
    output = model(pixels[None])
    scores = getattr(output, "logits", output)  # as models of transformers call them
    if isinstance(scores, Tensor) and scores.dim() == 2:
        return scores[0]
    if isinstance(scores, Tensor) and scores.dim() == 4:
        return F.interpolate(scores, size=size, mode="bilinear")[0]
    what = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
    raise ExpediteError(
        f"'{loaded.name}' gives {what}; scores of shape (B, classes, h, w) or (B, classes) can be "
        "compared"
    )


def _to_model(loaded: LoadedModel, pixels: Tensor) -> Tensor:
    weight = next(loaded.model.parameters())
    return pixels.to(weight.device, weight.dtype)
