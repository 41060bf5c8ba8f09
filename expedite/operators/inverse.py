"""Inverses of many small matrices, in operations that every compiler and exporter knows."""

import torch
from torch import Tensor

from expedite.geometry.graphs import is_exporting

# Matrices of so many rows are not halved any more.
_BLOCK = 32
# Of so many rows on, libraries' own halves and products are as good on a CPU.
_LARGE = 128


def invert(matrix: Tensor) -> Tensor:
    """Inverses of symmetric positive definite matrices (..., m, m).

    For as many tokens the inverse and a product take less time than substitution.

    Example:
        >>> invert(torch.tensor([[2.0, 1.0], [1.0, 1.0]])).round()
        tensor([[ 1., -1.],
                [-1.,  2.]])
    """
    root = inverse_root(matrix)
    return root.mT @ root


def inverse_root(matrix: Tensor) -> Tensor:
    """R = L⁻¹ of the Cholesky factor L, lower triangular, RᵀR being the inverse.

    By halves: libraries decompose many small matrices one after another, while products of all are
    one call. R and not the inverse of each half: where clusters are nearly alike its errors are
    those of the square root of the condition, in place of the condition itself.
    """
    size = matrix.shape[-1]
    if _decomposes(matrix) and (size <= _BLOCK or (size > _LARGE and matrix.device.type == "cpu")):
        return _decompose(matrix)
    if size <= _BLOCK:
        return _eliminate(matrix)
    half = size // 2
    upper = inverse_root(matrix[..., :half, :half])
    side = matrix[..., half:, :half] @ upper.mT
    lower = inverse_root(matrix[..., half:, half:] - side @ side.mT)
    first = torch.cat([upper, torch.zeros_like(side).mT], -1)
    return torch.cat([first, torch.cat([-(lower @ side) @ upper, lower], -1)], -2)


def _decomposes(matrix: Tensor) -> bool:
    """Whether a decomposition runs here: ONNX has none, MPS not all, and CUDA graphs may not."""
    if is_exporting():
        return False
    device = matrix.device.type
    return device == "cpu" or (device == "cuda" and not torch.compiler.is_compiling())


def _decompose(matrix: Tensor) -> Tensor:
    """`inverse_root` of small matrices (..., b, b) by the library."""
    factor = torch.linalg.cholesky_ex(matrix).L
    unit = torch.eye(matrix.shape[-1], device=matrix.device).expand_as(matrix)
    root: Tensor = torch.linalg.solve_triangular(factor, unit, upper=False)
    return root


def _eliminate(matrix: Tensor) -> Tensor:
    """`inverse_root` of small matrices (..., b, b) by sums and products alone.

    Gaussian elimination beside the identity; a positive definite matrix needs no pivoting.
    """
    size = matrix.shape[-1]
    rest = torch.cat([matrix, torch.eye(size, device=matrix.device).expand_as(matrix)], -1)
    rows = []
    for step in range(size):
        row = rest[..., :1, :] * rest[..., :1, step : step + 1].rsqrt()
        rest = rest[..., 1:, :] - row[..., step + 1 : size].mT * row
        rows.append(row[..., size:])
    return torch.cat(rows, -2)
