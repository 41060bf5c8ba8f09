"""Counting the multiply-adds of a model's forward pass, the operators' own included, with fvcore.

One multiply-add counts 1. Elementwise arithmetic, activations, softmax, sorting and moving data
count nothing; norms, resizing and pooling count as fvcore has them. What nobody knows is listed.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from expedite.patching.hooks import find_sessions

with warnings.catch_warnings():
    # fvcore scripts a function when it is imported, which PyTorch deprecates.
    warnings.simplefilter("ignore", FutureWarning)
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import elementwise_flop_counter, get_shape

_GIGA = 1e9

# Known to count nothing under the convention above.
_FREE = """
    __and__ __or__ __rshift__ abs add add_ addcmul addcmul_ amax amin any argmax argsort atan2
    bitwise_and bitwise_not bitwise_or ceil clamp clamp_max clamp_min clamp_min_ clone cos
    cumsum diag_embed div div_ embedding eq erf exp expand_as eye feature_dropout fill_ flip
    floor_divide gather ge gelu glu gt index_select isfinite isnan le linalg_vector_norm
    linspace log log2 lt mT masked_fill masked_fill_ max_pool2d maximum mean meshgrid min
    minimum movedim mul mul_ nan_to_num ne neg new_ones new_zeros numel one_hot ones_like pad
    pow reciprocal reciprocal_ relu relu_ remainder repeat repeat_interleave reshape_as round
    rsqrt rsub scatter scatter_reduce searchsorted sigmoid sign silu sin softmax sort sqrt
    square std_mean sub sub_ sum tanh tile topk unflatten view_as where zero_ zeros_like
"""


@dataclass(frozen=True)
class FlopCount:
    """GFLOPs of one forward pass, in multiply-adds.

    Args:
        total: Everything.
        operators: What clustering and reconstruction have in it; 0 for a model not patched.
        unsupported: Operations that were not counted, with how often they ran.
    """

    total: float
    operators: float
    unsupported: dict[str, int]


def count_flops(model: nn.Module, images: Tensor) -> FlopCount:
    """Count a forward pass of `model` on `images`, by tracing one.

    Work whose result is not returned is not counted: tracing leaves it out.

    Example:
        >>> count_flops(nn.Linear(4, 8), torch.zeros(2, 4)).total * 1e9
        64.0
    """
    traced = _Traced(model)
    with torch.no_grad(), _every_operation_visible():
        analysis = FlopCountAnalysis(traced, (images,))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.tracer_warnings("none").set_op_handle(**_HANDLES)
        modules = analysis.by_module()
    operators = modules["operators"] / _GIGA if len(traced.operators) else 0.0
    unsupported = {name: int(count) for name, count in analysis.unsupported_ops().items()}
    return FlopCount(analysis.total() / _GIGA, operators, unsupported)


class _Traced(nn.Module):
    """A model beside the operators in its hooks, which fvcore then sees as modules of their own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.operators = nn.ModuleList(
            operator for session in find_sessions(model) for operator in session.operators
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        return list(_tensors(self.model(images)))


def _tensors(output: Any) -> Iterator[Tensor]:
    """Every tensor in nested containers: tracing returns nothing else."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (list, tuple)):
        for value in output:
            yield from _tensors(value)


@contextlib.contextmanager
def _every_operation_visible() -> Iterator[None]:
    # The fused path of nn.MultiheadAttention is one operation that no counter knows, and so is a
    # function that becomes TorchScript when it is traced, as ViTDet's tables in transformers.
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    scripts = torch.jit._state._enabled.enabled
    torch.jit._state._enabled.enabled = False
    try:
        yield
    finally:
        torch.jit._state._enabled.enabled = scripts
        torch.backends.mha.set_fastpath_enabled(before)


def _attention(inputs: list[Any], outputs: list[Any]) -> int:
    query, key, value = (_shape(tensor) for tensor in inputs[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _baddbmm(inputs: list[Any], outputs: list[Any]) -> int:
    left, right = _shape(inputs[1]), _shape(inputs[2])
    return prod(left) * right[-1]


def _convolution(inputs: list[Any], outputs: list[Any]) -> int:
    """A convolution whose padding is given in words, which fvcore's own handle does not know."""
    weight, output = _shape(inputs[1]), _shape(outputs[0])
    return prod(output) * prod(weight[1:])


def _embedding_bag(inputs: list[Any], outputs: list[Any]) -> int:
    values, rows = _shape(inputs[0]), _shape(inputs[1])
    return prod(rows) * values[-1]


def _cholesky(inputs: list[Any], outputs: list[Any]) -> int:
    *batch, size, _ = _shape(inputs[0])
    return prod(batch) * size**3 // 6


def _solve_triangular(inputs: list[Any], outputs: list[Any]) -> int:
    *batch, size, columns = _shape(inputs[1])
    return prod(batch) * size**2 * columns // 2


def _index_add(inputs: list[Any], outputs: list[Any]) -> int:
    return prod(_shape(inputs[3]))


def _shape(tensor: Any) -> list[int]:
    shape: list[int] = get_shape(tensor)
    return shape


def _nothing(inputs: list[Any], outputs: list[Any]) -> int:
    return 0


_HANDLES: dict[str, Callable[[list[Any], list[Any]], int]] = {
    "aten::scaled_dot_product_attention": _attention,
    "aten::baddbmm": _baddbmm,
    "aten::_convolution_mode": _convolution,
    "aten::embedding_bag": _embedding_bag,
    "aten::linalg_cholesky_ex": _cholesky,
    "aten::linalg_solve_triangular": _solve_triangular,
    "aten::index_add": _index_add,
    "aten::index_add_": _index_add,
    "aten::scatter_add": _index_add,
    "aten::adaptive_avg_pool1d": elementwise_flop_counter(1, 0),  # as that of two dimensions
    # As fvcore counts bilinear ones: one for every input that an output is a mean of.
    "aten::upsample_linear1d": elementwise_flop_counter(0, 2),
    "aten::_upsample_bilinear2d_aa": elementwise_flop_counter(0, 4),
    "aten::upsample_bicubic2d": elementwise_flop_counter(0, 16),
    "aten::_upsample_bicubic2d_aa": elementwise_flop_counter(0, 16),
    **{f"aten::{name}": _nothing for name in _FREE.split()},
}
