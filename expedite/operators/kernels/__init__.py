"""The operators' inner loops as Triton kernels, for NVIDIA GPUs.

Each is a shorter way to what a PyTorch form elsewhere says, which runs where these do not and is
what they are tested against. Nothing here is imported before `fused` says yes.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from torch import Tensor

from expedite.geometry.graphs import is_exporting, is_traced
from expedite.geometry.tiling import Tiles

Launch = TypeVar("Launch", bound=Callable[..., Any])

HAS_TRITON = find_spec("triton") is not None

# A cluster with less mass than this stands for no token, in either form.
EMPTY_MASS = 1e-6

# Images and windows; CUDA starts no more programs along an axis but the first.
_LARGEST_BATCH = 65535
# Rows of more channels would not fit into registers.
LARGEST_DEPTH = 128
# Of products: three of tensor cores have the digits of float32, whatever the user allows of TF32.
PRECISION = "tf32x3"


def fused(*tensors: Tensor) -> bool:
    """Whether kernels take these tensors (B, ...): on an NVIDIA GPU, if only values matter.

    Gradients, traces and exported graphs need operations that others know.
    """
    if not HAS_TRITON or not all(x.is_cuda and x.dtype != torch.float64 for x in tensors):
        return False
    if is_exporting() or not _has_tf32():
        return False
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return False
    if is_traced():
        return False
    return all(tensor.shape[0] <= _LARGEST_BATCH for tensor in tensors)


@torch.compiler.assume_constant_result
def _has_tf32() -> bool:
    """Whether the GPU, if one is there, is NVIDIA's of the Ampere generation or a later one."""
    return _find_tf32()


@cache
def _find_tf32() -> bool:
    if torch.version.hip:
        return False
    return not torch.cuda.is_available() or torch.cuda.get_device_capability() >= (8, 0)


def fits(points: Tensor, tiles: Tiles) -> bool:
    """Whether products of points (B, N, D) with a window of centres fit into a program.

    Products in three parts take every row twice; the rest of a program takes less than 32 KiB.
    """
    window, depth = tiles.cell.shape[1], points.shape[2]
    needed = 8 * power_of_two(window) * power_of_two(depth) + 32 * 1024
    return depth <= LARGEST_DEPTH and needed <= _shared_memory()


@torch.compiler.assume_constant_result
def _shared_memory() -> int:
    return _find_shared_memory()


@cache
def _find_shared_memory() -> int:
    """Bytes that a program can have; without a GPU those of an H200, where this was measured."""
    if not torch.cuda.is_available():
        return 227 * 1024
    size: int = torch.cuda.get_device_properties().shared_memory_per_block_optin
    return size


def operation(schema: str, like: Callable[..., Any]) -> Callable[[Launch], Launch]:
    """Make what launches kernels an operation of PyTorch's, which compilers take as it is.

    Args:
        schema: Name, arguments and what is returned, as `torch.library.define` takes them.
        like: From the same arguments to empty tensors of the same shapes and dtypes.
    """

    def register(launch: Launch) -> Launch:
        name = f"expedite::{schema.partition('(')[0]}"
        torch.library.define(name, schema[schema.index("(") :])
        torch.library.impl(name, "CompositeExplicitAutograd", launch)
        torch.library.register_fake(name, like)
        called: Launch = getattr(torch.ops.expedite, name.partition("::")[2])
        return called

    return register


def with_whole_rows(x: Tensor) -> Tensor:
    """The tensor (..., C) with the channels of a row side by side, whatever lies between rows."""
    return x if x.stride(-1) == 1 else x.contiguous()


def power_of_two(count: int) -> int:
    """The least one that holds `count`, and at least 16, the least side of a kernel's product."""
    return max(16, 1 << (count - 1).bit_length())


def blocks_of(count: int, size: int) -> int:
    """How many blocks of a size hold `count`."""
    return -(-count // size)
