"""Segmenting an image at several sizes and mirrored, as published multi-scale testing does."""

from collections.abc import Callable

from torch import Tensor

from expedite.data.images import Image

# Of rstrudel/segmenter and of mmsegmentation, which Swin and ViT-Adapter are evaluated with.
FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def multi_scale(probabilities: Callable[[Image, float], Tensor], image: Image) -> Tensor:
    """The mean of class probabilities over `FACTORS`, each with the mirror image.

    Source: `inference` in `segm/model/utils.py` of rstrudel/segmenter, and `aug_test` of
    mmsegmentation.

    Args:
        probabilities: Maps an image (H, W, 3) and a factor of its size to (1, classes, H, W).
        image: (H, W, 3).

    Returns:
        (1, classes, H, W).

    Example:
        >>> import numpy as np
        >>> import torch
        >>> halves = torch.full((1, 2, 4, 6), 0.5)
        >>> multi_scale(lambda image, factor: halves, np.zeros((4, 6, 3), np.uint8)).unique()
        tensor([0.5000])
    """
    mirrored = image[:, ::-1]
    found = [
        part
        for factor in FACTORS
        for part in (probabilities(image, factor), probabilities(mirrored, factor).flip(-1))
    ]
    return sum(found[1:], found[0]) / len(found)
