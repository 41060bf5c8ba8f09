"""Queries and keys with more channels, whose products add a bias to each key's scores."""

import triton
import triton.language as tl
from torch import Tensor

from expedite.kernels import blocks_of, operation, power_of_two

# Fused attention takes heads of a multiple of 8 channels.
MORE = 8
_TOKENS = 64


def widen(query: Tensor, key: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys (B, heads, N, D + 8) whose products are q·k + bias.

    Args:
        query: (B, heads, N, D) in half precision.
        key: (B, heads, N, D), of as many tokens.
        bias: (B, N) of the keys; what half precision rounds away has a channel of its own.
    """
    both = _widen(query, key, bias)
    return both[0], both[1]


@operation(
    "widen(Tensor query, Tensor key, Tensor bias) -> Tensor",
    lambda query, key, bias: query.new_empty(2, *query.shape[:3], query.shape[3] + MORE),
)
def _widen(query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
    query, key = (x if x.stride(3) == 1 else x.contiguous() for x in (query, key))
    batch, heads, tokens, width = query.shape
    wide = query.new_empty(2, batch, heads, tokens, width + MORE)
    _append[(blocks_of(tokens, _TOKENS), heads, batch)](
        query, key, bias.contiguous(), wide[0], wide[1],
        *query.stride()[:3], *key.stride()[:3], tokens, width, width + MORE,
        TOKENS=_TOKENS, WIDTH=power_of_two(width + MORE),
    )  # fmt: skip
    return wide


@triton.jit
def _append(
    query, key, bias, wide_query, wide_key,
    query_image, query_head, query_token, key_image, key_head, key_token, tokens, width, wide,
    TOKENS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Of a head: 1 and 1 behind queries, and the bias in two parts behind keys."""
    image, head = tl.program_id(2).to(tl.int64), tl.program_id(1)
    token, channel = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS), tl.arange(0, WIDTH)
    there, given = (token < tokens)[:, None], (channel < width)[None]
    at = query_image * image + query_head * head + query_token * token[:, None] + channel[None]
    one = tl.load(query + at, mask=there & given, other=0.0)
    at = key_image * image + key_head * head + key_token * token[:, None] + channel[None]
    other = tl.load(key + at, mask=there & given, other=0.0)
    added = tl.load(bias + image * tokens + token, mask=token < tokens, other=0.0).to(tl.float32)
    rounded = added.to(key.dtype.element_ty)
    rest = (added - rounded.to(tl.float32)).to(key.dtype.element_ty)
    one = tl.where((channel == width)[None] | (channel == width + 1)[None], 1.0, one)
    other = tl.where((channel == width)[None], rounded[:, None], other)
    other = tl.where((channel == width + 1)[None], rest[:, None], other)
    to = ((image * tl.num_programs(1) + head) * tokens + token[:, None]) * wide + channel[None]
    inside = there & (channel < wide)[None]
    tl.store(wide_query + to, one.to(wide_query.dtype.element_ty), mask=inside)
    tl.store(wide_key + to, other, mask=inside)
