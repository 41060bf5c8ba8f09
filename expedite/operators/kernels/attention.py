"""Fused attention with a bias by key, which others take as a mask that costs more than it does."""

import triton
import triton.language as tl
from torch import Tensor

from expedite.operators.kernels import blocks_of, operation, power_of_two, with_whole_rows

_TOKENS = 64
_KEYS = 64
_LOG2_E = tl.constexpr(1.4426950408889634)


@operation(
    "attend(Tensor query, Tensor key, Tensor value, Tensor bias, float scale) -> Tensor",
    lambda query, key, value, bias, scale: _heads_side_by_side(query),
)
def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Attention softmax(scale · q·k + bias) v, by tiles as FlashAttention-2 (Dao 2023) has them.

    Args:
        query: (B, heads, N, D) in half precision, D at most 128.
        key: (B, heads, M, D).
        value: (B, heads, M, D).
        bias: (B, 1, 1, M) of the keys; -inf leaves one out, but not all of an image.
        scale: What multiplies products.

    Returns:
        (B, heads, N, D), a token's heads side by side in memory.
    """
    query, key, value = map(with_whole_rows, (query, key, value))
    (batch, heads, tokens, width), keys = query.shape, key.shape[2]
    found = _heads_side_by_side(query)
    rest = keys % _KEYS
    _attention[(blocks_of(tokens, _TOKENS), heads, batch)](
        query, key, value, bias.contiguous(), found,
        *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *found.stride()[:3],
        tokens, keys, keys - rest, scale, width,
        TOKENS=_TOKENS, KEYS=_KEYS, REST=power_of_two(rest) if rest else 0,
        WIDTH=power_of_two(width), num_warps=4, num_stages=3,
    )  # fmt: skip
    return found


def _heads_side_by_side(query: Tensor) -> Tensor:
    batch, heads, tokens, width = query.shape
    return query.new_empty(batch, tokens, heads, width).transpose(1, 2)


@triton.jit
def _attention(
    query, key, value, bias, found,
    query_image, query_head, query_token, key_image, key_head, key_token,
    value_image, value_head, value_token, image_to, head_to, token_to,
    tokens, keys, whole, scale, width: tl.constexpr,
    TOKENS: tl.constexpr, KEYS: tl.constexpr, REST: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Of some tokens of a head; exponents are of 2, and keys beyond whole blocks have their own."""
    image, head = tl.program_id(2).to(tl.int64), tl.program_id(1)
    token, channel = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS), tl.arange(0, WIDTH)
    key += image * key_image + head * key_head
    value += image * value_image + head * value_head
    bias += image * keys
    there = (token < tokens)[:, None] & _of_head(width, WIDTH)
    at = query + image * query_image + head * query_head + token[:, None] * query_token
    q = tl.load(at + channel[None], mask=there, other=0.0)
    scale *= _LOG2_E
    highest = tl.full((TOKENS,), -1e30, tl.float32)  # finite, for a block may be left out
    total = tl.zeros((TOKENS,), tl.float32)
    sums = tl.zeros((TOKENS, WIDTH), tl.float32)
    for start in range(0, whole, KEYS):
        highest, total, sums = _take(
            q, key, value, bias, key_token, value_token, start, keys, scale,
            highest, total, sums, False, KEYS, width, WIDTH,
        )  # fmt: skip
    if REST:
        highest, total, sums = _take(
            q, key, value, bias, key_token, value_token, whole, keys, scale,
            highest, total, sums, True, REST, width, WIDTH,
        )  # fmt: skip
    to = found + image * image_to + head * head_to + token[:, None] * token_to + channel[None]
    tl.store(to, (sums / total[:, None]).to(found.dtype.element_ty), mask=there)


@triton.jit
def _of_head(width: tl.constexpr, WIDTH: tl.constexpr):
    """Which channels (1, WIDTH) are a head's; compilers leave out a mask of nothing but True."""
    if width == WIDTH:
        inside = tl.full((1, WIDTH), True, tl.int1)
    else:
        inside = (tl.arange(0, WIDTH) < width)[None]
    return inside


@triton.jit
def _take(
    q, key, value, bias, key_token, value_token, start, keys, scale, highest, total, sums,
    LAST: tl.constexpr, KEYS: tl.constexpr, width: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The highest scores, the sums of shares and of values, a block of keys more."""
    place, channel = start + tl.arange(0, KEYS), tl.arange(0, WIDTH)
    inside = _of_head(width, WIDTH)
    if LAST:
        inside = inside & (place < keys)[:, None]
        added = tl.load(bias + place, mask=place < keys, other=float("-inf"))
    else:
        added = tl.load(bias + place)
    k = tl.load(key + place[:, None] * key_token + channel[None], mask=inside, other=0.0)
    score = tl.dot(q, tl.trans(k)) * scale + (added.to(tl.float32) * _LOG2_E)[None]
    higher = tl.maximum(highest, tl.max(score, 1))
    share = tl.exp2(score - higher[:, None])
    fade = tl.exp2(highest - higher)
    v = tl.load(value + place[:, None] * value_token + channel[None], mask=inside, other=0.0)
    sums = tl.dot(share.to(v.dtype), v, sums * fade[:, None])
    return higher, total * fade + tl.sum(share, 1), sums
