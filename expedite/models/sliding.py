"""Segmenting an image of any size with windows of one size, as published by rstrudel/segmenter."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def sliding_window(
    model: Callable[[Tensor], Tensor],
    image: Tensor,
    window: tuple[int, int],
    stride: int,
    size: tuple[int, int] | None = None,
    batch_size: int = 8,
) -> Tensor:
    """Class probabilities of one image from overlapping windows, their scores averaged.

    An image smaller than a window is enlarged first. Source: `segm/model/utils.py`, whose windows
    are square.

    Args:
        model: Maps windows (B, 3, h, w) to scores (B, n_cls, h, w).
        image: Normalised, (3, H, W).
        window: Height and width of a window in pixels.
        stride: Step between windows in pixels; the last window of a row ends at the border.
        size: Height and width of the result; None takes those of the image.
        batch_size: Windows run at once.

    Returns:
        Probabilities (n_cls, *size).

    Example:
        >>> sliding_window(lambda x: x, torch.zeros(3, 40, 70), window=(32, 32), stride=16).shape
        torch.Size([3, 40, 70])
    """
    size = size or (image.shape[-2], image.shape[-1])
    image = _enlarge(image[None], window)  # (1, 3, H', W')
    corners = [
        (top, left)
        for top in window_starts(image.shape[-2], window[0], stride)
        for left in window_starts(image.shape[-1], window[1], stride)
    ]
    crops = torch.cat([image[..., y : y + window[0], x : x + window[1]] for y, x in corners])
    scores = torch.cat([model(batch) for batch in torch.split(crops, batch_size)])
    total = scores.new_zeros(scores.shape[1], *image.shape[-2:])
    count = scores.new_zeros(1, *image.shape[-2:])
    for (y, x), score in zip(corners, scores, strict=True):
        total[:, y : y + window[0], x : x + window[1]] += score
        count[:, y : y + window[0], x : x + window[1]] += 1
    mean = F.interpolate((total / count)[None], size=size, mode="bilinear")
    return mean[0].softmax(0)


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one side so that they cover it and end with it.

    Example:
        >>> window_starts(360, 224, 128)
        [0, 128, 136]
    """
    return [*range(0, length - window, stride), length - window]


def _enlarge(image: Tensor, least: tuple[int, int]) -> Tensor:
    size = (image.shape[-2], image.shape[-1])
    if size[0] >= least[0] and size[1] >= least[1]:
        return image
    # The side that is shortest for what is wanted of it; of windows that are square, the shorter.
    tight = min((0, 1), key=lambda axis: size[axis] / least[axis])
    # The quotient first, as published: a product by another order can end one pixel off.
    enlarged = [
        max(wanted, int(side / size[tight] * least[tight]))
        for wanted, side in zip(least, size, strict=True)
    ]
    enlarged[tight] = least[tight]
    return F.interpolate(image, size=enlarged, mode="bilinear")
