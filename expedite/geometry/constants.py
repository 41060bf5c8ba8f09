"""Tensors that depend on sizes alone, made once where that is safe."""

from collections.abc import Callable
from functools import wraps
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from expedite.geometry.graphs import is_recorded

Build = Callable[..., tuple[Tensor, ...]]

# Of each kind: sizes and devices, and bytes.
_MOST = 64
_MOST_BYTES = 2**26


def remembered(build: Build) -> Build:
    """Remember what `build(*sizes, device)` returns, for a bounded number of sizes and bytes.

    A graph in the making is to hold the arithmetic: there it is made anew.

    Example:
        >>> @remembered
        ... def count(stop, device):
        ...     return (torch.arange(stop, device=device),)
        >>> count(3, torch.device("cpu"))
        (tensor([0, 1, 2]),)
    """
    kept: dict[tuple[Any, ...], tuple[Tensor, ...]] = {}
    captured: list[tuple[Tensor, ...]] = []  # what CUDA graphs read for as long as they live
    lock = Lock()

    @wraps(build)
    def recall(*arguments: Any) -> tuple[Tensor, ...]:
        if is_recorded():
            return build(*arguments)
        tensors, capturing = kept.get(arguments), _is_capturing(arguments[-1])
        if tensors is None and capturing:
            return build(*arguments)  # in memory of the graph's own
        if tensors is None:
            tensors = _make(build, arguments)
            with lock:
                kept[arguments] = tensors
                while len(kept) > _MOST or _bytes(kept) > _MOST_BYTES:
                    del kept[next(iter(kept))]
        elif capturing:
            captured.append(tensors)
        return tensors

    return recall


def _bytes(kept: dict[tuple[Any, ...], tuple[Tensor, ...]]) -> int:
    return sum(tensor.nbytes for tensors in kept.values() for tensor in tensors)


def _make(build: Build, arguments: tuple[Any, ...]) -> tuple[Tensor, ...]:
    with torch.inference_mode(False):  # tensors made under it would break a later backward
        tensors = build(*arguments)
    if tensors[0].is_cuda:  # before another stream takes them for ready
        torch.cuda.current_stream(tensors[0].device).synchronize()
    return tensors


def _is_capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
