"""The image tower of open_clip, whose blocks hold PyTorch's own attention.

Found by its structure, as copies of it stand in other repositories. OpenAI's first code, whose
blocks take images along the second axis, is something else.
"""

from functools import partial
from typing import Any

from torch import Tensor, nn

from expedite.patching.host import (
    Host,
    Mask,
    Method,
    Readout,
    Reads,
    apply_child,
    attribute,
    map_grid,
)

_PARTS = {"conv1", "ln_pre", "transformer", "ln_post"}
_OF_BLOCK = {"ln_1", "attn", "ls_1", "ln_2", "mlp", "ls_2"}


def find_host(module: nn.Module) -> Host | None:
    """See `module` as an image tower of open_clip; None where it is something else."""
    children = dict(module.named_children())
    if not children.keys() >= _PARTS or not hasattr(module, "class_embedding"):
        return None
    transformer = children["transformer"]
    blocks = tuple(dict(transformer.named_children()).get("resblocks", nn.Identity()).children())
    is_batch_first = getattr(transformer, "batch_first", False)
    if not blocks or not is_batch_first or not all(map(_is_block, blocks)):
        return None
    return Host(
        family="open_clip VisionTransformer",
        model=module,
        backbone=module,
        blocks=blocks,
        prefix_tokens=1,
        embedding=children["conv1"],
        grid=map_grid,
        usual_grid=attribute(module, "grid_size"),
        any_size=False,
        first_norm=partial(apply_child, name="ln_1"),
        # A block's mask has one row for each head; attention adds one over keys, and stays fused.
        mask=Mask("key_padding_mask", position=3, over="keys", module=_attention),
        readout=_readout,
        pooled=children["ln_post"],
        methods=(Method("forward_intermediates", _intermediates),),
        taps="read through forward_intermediates",
    )


def _is_block(block: nn.Module) -> bool:
    parts = dict(block.named_children())
    return parts.keys() == _OF_BLOCK and isinstance(parts["attn"], nn.MultiheadAttention)


def _attention(block: nn.Module) -> nn.Module:
    return block.get_submodule("attn")


def _readout(model: nn.Module) -> Readout:
    is_plain = getattr(model, "attn_pool", None) is None and not attribute(model, "output_tokens")
    pool = attribute(model, "pool_type")
    if is_plain and pool == "tok":
        return "prefix"
    is_normed_first = not attribute(model, "final_ln_after_pool")
    return "mean" if is_plain and pool == "avg" and is_normed_first else "tokens"


def _intermediates(
    model: nn.Module,
    x: Tensor,
    indices: int | list[int] | None = None,
    stop_early: bool = False,
    normalize_intermediates: bool = False,
    intermediates_only: bool = False,
    *args: Any,
    **kwargs: Any,
) -> Reads:
    depth = len(list(model.get_submodule("transformer.resblocks").children()))
    chosen = range(depth) if indices is None else indices
    taken = range(depth - chosen, depth) if isinstance(chosen, int) else chosen
    taps = frozenset(index % depth for index in taken)
    return Reads(taps, last=not intermediates_only)
