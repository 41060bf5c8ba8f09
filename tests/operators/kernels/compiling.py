"""Compile every kernel for an NVIDIA GPU that need not be there.

    TRITON_INTERPRET=0 python -m tests.operators.kernels.compiling 90

What Triton's interpreter never sees: layouts, registers and shared memory. Kernels are compiled for
the operators' usual sizes, and each prints its name and the bytes of shared memory that it takes.
"""

import sys
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from expedite.geometry.tiling import make_tiles
from expedite.operators.kernels import attention, em, kriging, relocation, rows

_TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.bool: "*i1",
}


class Compiled:
    """What stands in place of a kernel's launch on a grid."""

    def __init__(self, kernel: Any, capability: int) -> None:
        self.kernel = kernel
        self.capability = capability

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        names = self.kernel.arg_names
        options = {key: kwargs.pop(key) for key in ("num_warps", "num_stages") if key in kwargs}
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if "HALF" in given:  # asked of a tensor on a GPU
            given["HALF"] = given["values"].dtype != torch.float32
        fixed = {p.name for p in self.kernel.params if p.is_constexpr}
        source = ASTSource(
            fn=self.kernel,
            signature={n: "constexpr" if n in fixed else _type_of(given[n]) for n in names},
            constexprs={(place,): given[n] for place, n in enumerate(names) if n in fixed},
            attrs={
                (place,): [["tt.divisibility", 16]]
                for place, n in enumerate(names)
                if n not in fixed and _divides(given[n])
            },
        )
        target = GPUTarget("cuda", self.capability, 32)
        print(self.kernel.__name__, triton.compile(source, target, options).metadata.shared)


def _type_of(value: Any) -> str:
    if isinstance(value, Tensor):
        return _TYPES[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


def _divides(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0)


def launch_all(dtype: torch.dtype) -> None:
    """Every operation once, at 40×40 tokens and 28×28 clusters; nothing is computed."""
    batch, tokens, cells, depth, channels = 2, 1600, 784, 64, 1024
    tiles = make_tiles((40, 40), (28, 28), 2, torch.device("cpu"))
    points, centers = torch.zeros(batch, tokens, depth), torch.zeros(batch, cells, depth)
    weight, tau = torch.ones(batch, tokens, 1), torch.ones(batch, 1, 1)
    labels = torch.zeros(batch, tokens, dtype=torch.int64)
    em.soft_step(points, weight, centers, tau, tiles)
    em.nearest(points, weight, centers, tau, tiles, 1e-5)
    there = torch.ones(batch, *tiles.cell.shape, 1)
    weights = kriging.weigh(points, centers, there, tau, 0.1, tiles)
    mass, board = torch.ones(batch, cells), torch.zeros(392, 4, dtype=torch.int64)
    relocation.unions(centers, mass, board[:, 0].contiguous(), board, board == 0)
    relocation.all_but_nearest(weight[..., 0], labels, cells, 1e-3)
    values, body = (torch.zeros(batch, n, channels, dtype=dtype) for n in (cells, tokens))
    rows.fold(body, torch.ones(channels), depth)
    rows.add_rows(body, labels, weight, cells)
    rows.shares(labels, weight, mass, 1e-6)
    rows.half_distances(points, centers, labels)
    rows.spread(weights, tiles, labels, weight == 1, values, values, body)
    rows.spread(weights, tiles, labels, weight == 1, values)
    if dtype != torch.float32:
        for width in (64, 80, 128):
            query = torch.zeros(batch, 8, cells + 1, width, dtype=dtype)
            attention.attend(query, query, query, torch.zeros(batch, 1, 1, cells + 1), 0.1)


if __name__ == "__main__":
    JITFunction.__getitem__ = lambda kernel, grid: Compiled(kernel, int(sys.argv[1]))
    for each in (torch.bfloat16, torch.float32):
        launch_all(each)
