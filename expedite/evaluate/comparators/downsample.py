"""Uniform downsampling (Figure 6 of arXiv 2210.01035): a smaller image in, its output enlarged."""

from collections.abc import Callable
from inspect import signature
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.evaluate.comparators.base import RivalSession
from expedite.evaluate.comparators.ways import Return
from expedite.patching.frame import Frame
from expedite.patching.host import Host
from expedite.plan import Plan

Size = tuple[int, int]
# What models of transformers call images and the maps that they make of them.
_INPUT = "pixel_values"
_OUTPUTS = ("logits", "predicted_depth", "last_hidden_state")
# How some of them are told that images are of another size than usual.
_ANY_SIZE = "interpolate_pos_encoding"
# What their Swins overwrite on small maps, for good; backbones for dense tasks do not.
_KEPT_WINDOWS = "set_shift_and_window_size"


class Resizing(nn.Module):
    """Resizes maps (B, C, H, W), or (B, H, W), bilinearly; it has no parameters.

    Smaller ones are filtered, so that nothing between the new pixels is left out.
    """

    def forward(self, maps: Tensor, size: Size) -> Tensor:
        if _size(maps) == size:
            return maps
        if maps.dim() == 3:
            channel: Tensor = self(maps[:, None], size)
            return channel[:, 0]
        smaller = size[0] < _size(maps)[0]
        # The filter knows no half precision.
        resized = F.interpolate(maps.float(), size=size, mode="bilinear", antialias=smaller)
        return resized.to(maps.dtype)


class DownsampleSession(RivalSession):
    """Shrinks images until they have as many tokens as the cluster grid has cells."""

    title: ClassVar[str] = "downsampling"

    def __init__(self, host: Host, plan: Plan, returns: Return) -> None:
        self.resizing = Resizing()
        self.patch = _patch_size(host)
        # Looked up here: compilers do not read signatures.
        self.takes_any_size = _ANY_SIZE in signature(host.model.forward).parameters
        super().__init__(host, plan, returns)

    def check(self, host: Host) -> None:
        if not host.any_size:
            self.refuse(host, "images have one size", "a model for any size works")
        if self.patch is None:
            self.refuse(
                host,
                "tokens are not made by one convolution that tells how many pixels each has",
                "expedite, paper and pool work",
            )
        is_dense = type(host.backbone).__name__.endswith("Backbone")
        if not is_dense and any(hasattr(block, _KEPT_WINDOWS) for block in host.blocks):
            self.refuse(
                host,
                "blocks keep the windows of the smallest image that they saw",
                "expedite and paper work",
            )

    def make_clusterings(self) -> dict[int, nn.Module]:
        return {}

    @property
    def operators(self) -> list[nn.Module]:
        return [self.resizing]

    def call(
        self,
        frame: Frame,
        method: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if not frame.with_head:
            return method(*args, **kwargs)
        images = args[0] if args else kwargs[_INPUT]
        large = _size(images)
        size = self.size_for(large)
        smaller = self.resizing(images, size)
        if self.takes_any_size:
            kwargs = {_ANY_SIZE: True, **kwargs}
        given = ((smaller, *args[1:]), kwargs) if args else (args, {**kwargs, _INPUT: smaller})
        return self._enlarged(method(*given[0], **given[1]), large, size)

    def _enlarged(self, output: Any, large: Size, small: Size) -> Any:
        """What the model returned for the smaller image, as for the large one."""
        if isinstance(output, Tensor):
            return self.enlarge(output, large, small)
        name = next((name for name in _OUTPUTS if hasattr(output, name)), None)
        if name is None or (name == "last_hidden_state" and output[name].dim() == 3):
            raise ExpediteError(
                f"downsampling was asked of a {self.host.family}, which gives "
                f"{type(output).__name__}; maps, depth and scores of a whole image can be enlarged"
            )
        output[name] = self.enlarge(output[name], large, small)
        return output

    def size_for(self, size: Size) -> Size:
        """The size of image that makes the plan's grid, for one of `size` (height, width)."""
        assert self.patch is not None  # checked before
        height, width = self.patch
        rows, columns = self.plan.spans[0].grid_for((-(-size[0] // height), -(-size[1] // width)))
        if rows * height > size[0] or columns * width > size[1]:
            raise ExpediteError(
                f"downsampling to {rows}×{columns} tokens of {height}×{width} pixels was asked of "
                f"an image of {size[0]}×{size[1]}, which has fewer"
            )
        return rows * height, columns * width

    def enlarge(self, maps: Tensor, large: Size, small: Size) -> Tensor:
        """A map at the size that it would have for the large image; other outputs stay."""
        if maps.dim() < 3:
            return maps
        h, w = _size(maps)
        size = round(h * large[0] / small[0]), round(w * large[1] / small[1])
        enlarged: Tensor = self.resizing(maps, size)
        return enlarged


def _size(maps: Tensor) -> Size:
    # Sizes are tensors while torch.jit.trace runs.
    return int(maps.shape[-2]), int(maps.shape[-1])


def _patch_size(host: Host) -> Size | None:
    convolution = next((m for m in host.embedding.modules() if isinstance(m, nn.Conv2d)), None)
    if convolution is None or convolution.stride != convolution.kernel_size:
        return None
    return convolution.stride[0], convolution.stride[1]
