"""Queries and keys with more channels, whose products add a bias to each key's scores."""

import triton
import triton.language as tl
from torch import Tensor

from expedite.kernels import blocks_of, operation, power_of_two, with_whole_rows

# Fused attention takes heads of a multiple of 8 channels.
MORE = 8
_TOKENS = 64


def widen(query: Tensor, key: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Queries and keys (B, heads, N, D + 8) whose products are q·k + bias / scale.

    Args:
        query: (B, heads, N, D) in half precision.
        key: (B, heads, N, D), of as many tokens.
        bias: (B, 1, 1, N) of the keys; what half precision rounds away has a channel of its own.
        scale: What attention multiplies products by.
    """
    both = _widen(query, key, bias, scale)
    return both[0], both[1]


@operation(
    "widen(Tensor query, Tensor key, Tensor bias, float scale) -> Tensor",
    lambda query, key, bias, scale: _empty_like_both(query),
)
def _widen(query: Tensor, key: Tensor, bias: Tensor, scale: float) -> Tensor:
    query, key = with_whole_rows(query), with_whole_rows(key)
    batch, heads, tokens, width = query.shape
    wide = _empty_like_both(query)
    _append[(blocks_of(tokens, _TOKENS), heads, batch)](
        query, key, bias.contiguous(), wide[0], wide[1],
        *query.stride()[:3], *key.stride()[:3], *wide.stride()[1:4],
        tokens, width, scale,
        TOKENS=_TOKENS, WIDTH=power_of_two(width), MORE=MORE,
    )  # fmt: skip
    return wide


def _empty_like_both(query: Tensor) -> Tensor:
    """(2, B, heads, N, D + 8), a token's heads side by side, as attention then returns them."""
    batch, heads, tokens, width = query.shape
    return query.new_empty(2, batch, tokens, heads, width + MORE).transpose(2, 3)


@triton.jit
def _append(
    query, key, bias, wide_query, wide_key,
    query_image, query_head, query_token, key_image, key_head, key_token, image_to, head_to,
    token_to, tokens, width, scale,
    TOKENS: tl.constexpr, WIDTH: tl.constexpr, MORE: tl.constexpr,
):  # fmt: skip
    """Of a head: 1 and 1 behind queries, and the bias in two parts behind keys."""
    image, head = tl.program_id(2).to(tl.int64), tl.program_id(1)
    token, channel = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS), tl.arange(0, WIDTH)
    inside = (token < tokens)[:, None] & (channel < width)[None]
    to = image * image_to + head * head_to + token[:, None] * token_to
    at = image * query_image + head * query_head + token[:, None] * query_token + channel[None]
    tl.store(wide_query + to + channel[None], tl.load(query + at, mask=inside), mask=inside)
    at = image * key_image + head * key_head + token[:, None] * key_token + channel[None]
    tl.store(wide_key + to + channel[None], tl.load(key + at, mask=inside), mask=inside)
    added = tl.load(bias + image * tokens + token, mask=token < tokens, other=0.0).to(tl.float32)
    added /= scale
    rounded = added.to(wide_key.dtype.element_ty).to(tl.float32)
    place = tl.arange(0, MORE)[None]
    of_keys = tl.where(place == 0, rounded[:, None], (added - rounded)[:, None])
    of_keys = tl.where(place < 2, of_keys, 0.0)
    of_queries = tl.where(place < 2, 1.0, tl.zeros_like(of_keys))
    to += width + place
    there = (token < tokens)[:, None] & (place < MORE)
    tl.store(wide_query + to, of_queries.to(wide_query.dtype.element_ty), mask=there)
    tl.store(wide_key + to, of_keys.to(wide_key.dtype.element_ty), mask=there)
