"""Queries, keys and values of attention, head by head, where its own code cannot be called."""

from torch import Tensor, nn

from expedite.patching.host import apply_child, attribute

Projections = tuple[Tensor, Tensor, Tensor]


def one_projection(attention: nn.Module, x: Tensor) -> Projections:
    """Queries, keys and values (B, N, C) that one layer, `qkv`, makes together."""
    q, k, v = apply_child(attention, x, "qkv").chunk(3, -1)
    return q, k, v


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Channels (B, N, heads·d) by the heads that they are of, (B, heads, N, d)."""
    split: Tensor = x.unflatten(-1, (heads, -1)).transpose(1, 2)  # type: ignore[no-untyped-call]
    return split


def heads_of_one(attention: nn.Module, x: Tensor) -> Projections:
    """Queries, keys and values (B, heads, N, d) of attention with one layer for the three."""
    heads: int = attribute(attention, "num_heads")
    q, k, v = (split_heads(part, heads) for part in one_projection(attention, x))
    return q, k, v


def dropout_rate(attention: nn.Module, name: str | None) -> float:
    """The rate in training that an attribute says, or a dropout module of that name; else 0."""
    if name is None or not attention.training:
        return 0.0
    rate = attribute(attention, name)
    return float(getattr(rate, "p", rate))
