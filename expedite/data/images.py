"""Images in and out of models: resizing as the published pipelines do, and normalising."""

from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from torch import Tensor

from expedite.errors import ExpediteError
from expedite.loading.center_crop import CenterCrop

Image = NDArray[np.uint8]  # (H, W, 3) RGB


def resize(image: Image, size: tuple[int, int]) -> Image:
    """Resize to (height, width) bilinearly, without antialiasing, as mmcv and OpenCV do."""
    if image.shape[:2] == size:
        return image
    resized = opencv().resize(image, (size[1], size[0]), interpolation=1)  # INTER_LINEAR
    return np.asarray(resized, dtype=np.uint8)


def resize_short_side(image: Image, side: int) -> Image:
    """Resize so that the shorter side has `side` pixels and the shape stays."""
    height, width = image.shape[:2]
    scale = side / min(height, width)
    return resize(image, (int(height * scale + 0.5), int(width * scale + 0.5)))


def crop_center(image: Image, crop: CenterCrop, size: tuple[int, int]) -> Image:
    """Resize an image and cut its centre of `size` (height, width) out, as torchvision does."""
    from torchvision import transforms  # type: ignore[import-untyped]

    mode = transforms.InterpolationMode(crop.interpolation)
    resized = transforms.Resize(_sides(image, crop), mode)(Pillow.fromarray(image))
    return np.asarray(transforms.CenterCrop(size)(resized))


def _sides(image: Image, crop: CenterCrop) -> list[int]:
    """What torchvision resizes to: one number is for the shorter side."""
    height, width = crop.resized
    if not crop.keeps_shape:
        return [height, width]
    if height == width:
        return [height]
    ratio = min(image.shape[0] / height, image.shape[1] / width)
    return [round(side / ratio) for side in image.shape[:2]]


def normalize(
    image: Image, mean: tuple[float, float, float], deviation: tuple[float, float, float]
) -> Tensor:
    """Turn an image into what models take, (3, H, W) float32.

    Example:
        >>> normalize(np.full((1, 1, 3), 255, np.uint8), (0.5,) * 3, (0.5,) * 3).flatten()
        tensor([1., 1., 1.])
    """
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1) / 255
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]


def opencv() -> ModuleType:
    """OpenCV, imported when it is first needed: it wants libraries that a bare system lacks."""
    try:
        import cv2
    except ImportError as error:
        raise ExpediteError(
            f"OpenCV cannot be imported ({error}); it needs system libraries, on Debian and Ubuntu "
            "those of `apt-get install libgl1 libglib2.0-0`"
        ) from error
    return cv2
