"""What grid a call of a vision tower makes, and which calls make none."""

from inspect import signature
from math import isqrt
from typing import Any

from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.patchers.transformers.vit import pair
from expedite.patching.host import map_grid, own_class


def grid_of_call(
    embedding: nn.Module, args: tuple[Any, ...], output: Tensor, patch: int, windows: int
) -> tuple[int, int]:
    """The grid of what is put into a tower, of each window where it is cut into such."""
    if isinstance(embedding, nn.Conv2d):
        height, width = map_grid(embedding, args, output)
    elif len(args) > 1:
        height, width = _grid_of_patches(*args)
    else:
        height, width = (side // patch for side in args[0].shape[-2:])
    return height // windows, width // windows


def _grid_of_patches(patches: Tensor, sizes: Tensor) -> tuple[int, int]:
    """The grid of patches (B, N, C) of images of these sizes (B, 2)."""
    height, width = (int(side) for side in sizes[0])
    if height * width != patches.shape[1] or not (sizes == sizes[0]).all():
        raise ExpediteError(
            f"{patches.shape[1]} patches were given of each of {len(sizes)} images, of which the "
            f"first has {height}×{width}; clusters of a patched SigLIP 2 are laid out for images "
            "of one size without padding, such as pixel_values[:, :height * width]"
        )
    return height, width


def patch_of(config: Any) -> int:
    """The side of a patch in pixels."""
    return pair(config.patch_size)[0]


def windows_of(config: Any) -> int:
    """How many windows along each side come as images of a batch."""
    count: int = getattr(config, "num_windows_side", getattr(config, "num_windows", 1))
    return count


def usual_grid(config: Any) -> tuple[int, int]:
    """The grid at the size that a tower was made for."""
    if hasattr(config, "num_patches"):
        return isqrt(config.num_patches), isqrt(config.num_patches)
    height, width = pair(getattr(config, "image_size", None) or config.pretrain_image_size)
    return height // patch_of(config), width // patch_of(config)


def check_order(
    model: nn.Module, config: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Refuse to leave out patches, or to shuffle them, as for training a masked autoencoder."""
    if not hasattr(config, "mask_ratio"):
        return
    given = signature(model.forward).bind_partial(*args, **kwargs).arguments
    noise = given.get("noise")
    if config.mask_ratio > 0 or noise is None or not (noise.diff(dim=1) > 0).all():
        raise ExpediteError(
            f"a patched {own_class(model).__name__} was called with mask_ratio={config.mask_ratio} "
            f"and {'no' if noise is None else 'some'} noise, which leaves patches out or shuffles "
            "them; with config.mask_ratio=0 and noise that ascends, such as "
            "torch.arange(patches).expand(images, -1), it works"
        )
