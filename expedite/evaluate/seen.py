"""What a model sees of an image at once: all of it, or one window, and what is padded around it."""

from dataclasses import dataclass

from torch import Tensor, nn

from expedite.data.images import Image, resize, resize_short_side
from expedite.evaluate.predict import pixels_of, shown_of, without_norm
from expedite.loading import LoadedModel


@dataclass(frozen=True)
class Seen:
    """The part of an image that a model sees at once.

    Args:
        image: (H, W, 3) RGB, at the image's own size where all of it is seen.
        pixels: (1, 3, h, w) for the model.
        is_window: Whether it is one window of several.
        share: How much of the model's padded input it covers, down and across.
    """

    image: Image
    pixels: Tensor
    is_window: bool = False
    share: tuple[float, float] = (1.0, 1.0)

    @property
    def caption(self) -> str:
        """Its size in words."""
        size = f"{self.pixels.shape[-2]}×{self.pixels.shape[-1]} pixels"
        return f"the middle window, {size}" if self.is_window else size


def seen_by(loaded: LoadedModel, image: Image) -> Seen:
    """What a model sees of an image (H, W, 3) at once; the middle window, where it slides one.

    Example:
        >>> import numpy as np
        >>> from expedite.loading import load_model
        >>> loaded = load_model("timm:vit_tiny_patch16_224")
        >>> seen_by(loaded, np.zeros((90, 120, 3), np.uint8)).caption
        '224×224 pixels'
    """
    if loaded.prepares_images:
        pixels = pixels_of(without_norm(loaded), image)[None]
        return Seen(image, pixels, share=_share(loaded.model, pixels))
    if loaded.window_stride is None:
        shown = shown_of(loaded, image)
        return Seen(shown, pixels_of(loaded, resize(shown, loaded.image_size))[None])
    whole = _for_windows(loaded, image)
    height, width = loaded.image_size
    top, left = (whole.shape[0] - height) // 2, (whole.shape[1] - width) // 2
    window = whole[top : top + height, left : left + width]
    pixels = pixels_of(loaded, window)[None]
    return Seen(window, pixels, is_window=window.shape != whole.shape)


def _for_windows(loaded: LoadedModel, image: Image) -> Image:
    """An image as large as it is when windows are cut from it."""
    height, width = loaded.image_size
    if loaded.short_side is not None:
        image = resize_short_side(image, loaded.short_side)
    scale = max(1.0, height / image.shape[0], width / image.shape[1])  # a window fits in
    return resize(image, (round(scale * image.shape[0]), round(scale * image.shape[1])))


def _share(model: nn.Module, pixels: Tensor) -> tuple[float, float]:
    images, _ = model.get_submodule("transform")(list(pixels))
    high, wide = images.image_sizes[0]
    return high / images.tensors.shape[-2], wide / images.tensors.shape[-1]
