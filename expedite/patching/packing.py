"""Tokens between the shape in which blocks take them and ours, (B, N, C) or (B, H, W, C)."""

from math import prod

from torch import Tensor

from expedite.patching.frame import Frame
from expedite.patching.host import Host


def opened(host: Host, frame: Frame, index: int, tokens: Tensor, is_full: bool) -> Tensor:
    """What block `index` gets or puts out, of the full grid or of clusters, in our shape."""
    if host.packing is None or frame.grid is None:
        return tokens
    grid = frame.grid if is_full else frame.levels[-1].record.clusters
    return host.packing.open(tokens, sum(host.beside(index)) + prod(grid))


def closed(host: Host, frame: Frame, tokens: Tensor) -> Tensor:
    """The inverse of `opened`."""
    return tokens if host.packing is None or frame.grid is None else host.packing.close(tokens)
