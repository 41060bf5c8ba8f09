"""What a patcher finds out about a model: its blocks, its grid of tokens and what its head reads.

How the blocks are made to run on clusters is `session`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

# What the head reads of the last block's output when the whole model is called: the prefix tokens
# alone, the mean of all others, or every token.
Readout = Literal["prefix", "mean", "tokens"]


@dataclass(frozen=True)
class Reads:
    """Which blocks' outputs a call reads: those at `taps`, and the last one's as the result."""

    taps: frozenset[int] = frozenset()
    last: bool = True


@dataclass(frozen=True)
class Method:
    """A method that people call beside the model itself.

    `reads` takes the model and the arguments of a call.
    """

    name: str
    reads: Callable[..., Reads]


@dataclass(frozen=True)
class TokenHead:
    """A head that works token by token, so that it can run on clusters.

    `blocks` attend among the tokens and `queries` more at their end; `last` is the module whose
    output (B, N, classes) is the head's, still one row a token.
    """

    last: nn.Module
    blocks: tuple[nn.Module, ...] = ()
    queries: int = 0


def _itself(block: nn.Module) -> nn.Module:
    return block


@dataclass(frozen=True)
class Mask:
    """Where a block takes what is added to its attention scores.

    Args:
        argument: The keyword.
        over: "scores" for a mask of shape (B, 1, 1, keys), "keys" for (B, keys).
        module: Maps a block to the module that has the keyword, most often the block itself.
    """

    argument: str
    over: Literal["scores", "keys"] = "scores"
    module: Callable[[nn.Module], nn.Module] = _itself


@dataclass(frozen=True)
class Host:
    """A model as the patchers see it.

    Args:
        family: What kind of model it is, for people.
        model: The whole; calling it runs the head as well.
        backbone: The part whose output is the tokens; may be the model itself.
        blocks: In the order they run, each (B, prefix + N, C) → the same.
        prefix_tokens: How many tokens before the grid's are never clustered.
        embedding: The module that makes tokens of an image.
        grid: Maps (embedding, its arguments, its output) to (H, W).
        usual_grid: (H, W) at the size of image that the model was made for.
        any_size: Whether it takes images of other sizes.
        first_norm: Maps a block and its tokens to what its first norm makes of them; to the tokens
            themselves where it has none.
        mask: How blocks take a mask that is added to attention scores.
        readout: What the head reads; looked up at every call, since heads can be exchanged.
        pooled: The module after which tokens are averaged, where the readout can be "mean".
        methods: Other ways of calling the backbone.
        taps: Who reads outputs of blocks inside a span, for people.
        head: Set where reconstruction can wait until after the head.
    """

    family: str
    model: nn.Module
    backbone: nn.Module
    blocks: tuple[nn.Module, ...]
    prefix_tokens: int
    embedding: nn.Module
    grid: Callable[[nn.Module, tuple[Any, ...], Tensor], tuple[int, int]]
    usual_grid: tuple[int, int]
    any_size: bool
    first_norm: Callable[[nn.Module, Tensor], Tensor]
    mask: Mask
    readout: Callable[[nn.Module], Readout]
    pooled: nn.Module | None = None
    methods: tuple[Method, ...] = ()
    taps: str = "none"
    head: TokenHead | None = None
