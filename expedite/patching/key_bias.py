"""A bias of attention scores by key that a kernel of ours adds in place of a mask.

A mask costs fused attention most of what fewer tokens save: cuDNN's takes 2.8 times as long with
one (H200, bfloat16, 8 images of 785 tokens, 16 heads of 64).
"""

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from expedite.geometry.graphs import is_transformed
from expedite.operators.kernels import fused

_HALF = (torch.float16, torch.bfloat16)
# Channels of a head; of more, a program's sums would not fit into registers.
_WIDEST = 128


class KeyBias(Tensor):
    """A mask (B, 1, 1, N) by which attention is a kernel of ours.

    It goes through a host's own code as any mask does.
    """

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]
        with torch._C.DisableTorchFunctionSubclass():
            return _attend(*args, **kwargs)


def as_key_bias(mask: Tensor) -> Tensor:
    """The mask (B, 1, 1, N) as a `KeyBias` where kernels run."""
    return mask.as_subclass(KeyBias) if type(mask) is Tensor and fused(mask) else mask


def attend_under(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """Attention under a bias that may be learnt."""
    # Transforms of torch.func hide from the choice of a kernel that the bias has a gradient.
    kernels = sdpa_kernel(SDPBackend.MATH) if is_transformed() else nullcontext()
    with kernels:
        return F.scaled_dot_product_attention(query, key, value, bias, dropout, scale=scale)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **others: Any,
) -> Tensor:
    more = dropout_p or is_causal or any(others.values())
    if more or not _takes(query, key, value, attn_mask):
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **others
        )
    from expedite.operators.kernels.attention import attend

    return attend(query, key, value, attn_mask, query.shape[-1] ** -0.5 if scale is None else scale)


def _takes(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> bool:
    """Whether the kernel takes these."""
    fits = query.dim() == 4 and query.shape[-1] <= _WIDEST and key.shape == value.shape
    alike = query.shape[:2] == key.shape[:2] and query.shape[-1] == key.shape[-1]
    of_keys = mask.shape == (query.shape[0], 1, 1, key.shape[-2])
    half = query.dtype in _HALF and query.dtype == key.dtype == value.dtype
    return fits and alike and of_keys and half and fused(query, key, value, mask)
