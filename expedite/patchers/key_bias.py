"""A bias of attention scores by key that the fastest of the fused kernels take.

A mask costs them most of what fewer tokens save: cuDNN's attention takes 2.8 times as long with one
(H200, bfloat16, 8 images of 785 tokens, 16 heads of 64), and 1.15 times with more channels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from expedite.kernels import fused

_HALF = (torch.float16, torch.bfloat16)
# Of each head, from which on a mask costs more than another kernel's launch.
_LEAST_SCORES = 4_000_000
# The most channels of a head, with those that are added, that all fused kernels take.
_WIDEST = 120


class KeyBias(Tensor):
    """A mask (B, 1, 1, N) that fused attention gets as more channels of queries and keys.

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
    """The mask (B, 1, 1, N) as a `KeyBias` where that helps."""
    # Compiled, queries wider than values were slower than a mask (H200, PyTorch 2.11).
    if torch.compiler.is_compiling() or type(mask) is not Tensor or not fused(mask):
        return mask
    scores = mask.shape[0] * mask.shape[-1] ** 2
    return mask.as_subclass(KeyBias) if scores >= _LEAST_SCORES else mask


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
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if not _widens(query, key, attn_mask):
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **others
        )
    from expedite.kernels.attention import widen

    query, key = widen(query, key, attn_mask, scale)
    return F.scaled_dot_product_attention(
        query, key, value, None, dropout_p, is_causal, scale=scale, **others
    )


def _widens(query: Tensor, key: Tensor, mask: Tensor) -> bool:
    """Whether the kernel that adds channels takes these."""
    fits = query.shape[-1] % 8 == 0 and query.shape[-1] <= _WIDEST and query.shape == key.shape
    of_keys = mask.shape == (query.shape[0], 1, 1, key.shape[-2])
    return fits and of_keys and query.dtype in _HALF and fused(query, key, mask)
