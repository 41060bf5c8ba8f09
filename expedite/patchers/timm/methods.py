"""The methods of timm's models that people call beside the model itself, and what they read."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from expedite.patching.host import Method, Reads, attribute, nothing_more


def every_block(model: nn.Module) -> Sequence[int]:
    """How many blocks have run where each intermediate is taken, if there is one of each."""
    return range(1, 1 + len(attribute(model, "blocks")))


def intermediates(
    model: nn.Module,
    x: Tensor,
    indices: int | list[int] | None = None,
    norm: bool = False,
    stop_early: bool = False,
    output_fmt: str = "NCHW",
    intermediates_only: bool = False,
    *,
    ends: Callable[[nn.Module], Sequence[int]],
    **kwargs: Any,
) -> Reads:
    """What `forward_intermediates` reads, taken behind as many blocks as `ends` says."""
    from timm.models._features import feature_take_indices

    blocks = ends(model)
    taken, _ = feature_take_indices(len(blocks), indices)
    return Reads(frozenset(blocks[index] - 1 for index in taken), last=not intermediates_only)


def _intermediates_with_prefix(
    model: nn.Module,
    x: Tensor,
    indices: int | list[int] | None = None,
    return_prefix_tokens: bool = False,
    *args: Any,
    **kwargs: Any,
) -> Reads:
    return intermediates(model, x, indices, *args, **kwargs)


def methods(
    ends: Callable[[nn.Module], Sequence[int]] = every_block, has_prefix: bool = False
) -> tuple[Method, ...]:
    """`forward_features` and `forward_intermediates`.

    Args:
        ends: Maps a model to how many blocks have run where each of its intermediates is taken.
        has_prefix: Whether a call can ask for the prefix tokens.
    """
    reads = partial(_intermediates_with_prefix if has_prefix else intermediates, ends=ends)
    return Method("forward_features", nothing_more), Method("forward_intermediates", reads)
