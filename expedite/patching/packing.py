"""Tokens between the shape in which blocks take them and ours, (B, N, C) or (B, H, W, C)."""

from typing import Any

from torch import Tensor

from expedite.patching.frame import Frame
from expedite.patching.host import Host


def opened(host: Host, frame: Frame, tokens: Tensor, is_full: bool) -> Tensor:
    """What a block gets or puts out, of the full grid or of clusters, in our shape."""
    if host.packing is None or frame.grid is None:
        return tokens
    return host.packing.open(tokens, _grid(frame, is_full), is_full)


def closed(host: Host, frame: Frame, tokens: Tensor, is_full: bool) -> Tensor:
    """The inverse of `opened`."""
    if host.packing is None or frame.grid is None:
        return tokens
    return host.packing.close(tokens, _grid(frame, is_full), is_full)


def channels_last(x: Tensor, *layout: Any) -> Tensor:
    """How `Packing` opens a map (B, C, H, W)."""
    return x.permute(0, 2, 3, 1)


def channels_first(x: Tensor, *layout: Any) -> Tensor:
    """How `Packing` closes it again."""
    return x.permute(0, 3, 1, 2)


def _grid(frame: Frame, is_full: bool) -> tuple[int, int]:
    assert frame.grid is not None
    return frame.grid if is_full else frame.levels[-1].record.clusters
