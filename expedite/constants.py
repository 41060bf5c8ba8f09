"""Tensors that depend on sizes alone, made once where that is safe."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

Build = Callable[..., tuple[Tensor, ...]]


def remembered(build: Build) -> Build:
    """Remember what `build(*sizes, device)` returns, for a bounded number of sizes, on the CPU.

    Kept as NumPy arrays, since a tensor first made under `inference_mode` breaks a later backward.
    Other devices would wait for copies, and a graph in the making is to hold the arithmetic: there
    it is made anew.

    Example:
        >>> @remembered
        ... def count(stop, device):
        ...     return (torch.arange(stop, device=device),)
        >>> count(3, torch.device("cpu"))
        (tensor([0, 1, 2]),)
    """

    @lru_cache(maxsize=64)
    def arrays(*sizes: Any) -> tuple[NDArray[Any], ...]:
        return tuple(tensor.numpy() for tensor in build(*sizes, torch.device("cpu")))

    @wraps(build)
    def recall(*arguments: Any) -> tuple[Tensor, ...]:
        *sizes, device = arguments
        if device.type != "cpu" or _makes_a_graph():
            return build(*arguments)
        return tuple(map(torch.from_numpy, arrays(*sizes)))

    return recall


def _makes_a_graph() -> bool:
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return True
    return type(torch.empty(0)) is not Tensor  # fake tensors
