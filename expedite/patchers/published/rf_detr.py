"""RF-DETR's backbone of the package rfdetr, a DINOv2 with windows, found by its structure.

Windows of an image come as images of a batch, each of them a grid that is clustered alone; blocks
without windows put those of an image behind one another to attend.
"""

from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from expedite.patching.heads import dropout_rate, split_heads
from expedite.patching.host import (
    Attention,
    Host,
    Readout,
    Reads,
    apply_child,
    attribute,
    map_grid,
    own_class,
)

_BACKBONE = "WindowedDinov2WithRegistersBackbone"
_OF_ATTENTION = {"query", "key", "value", "dropout"}


def find_host(module: nn.Module) -> Host | None:
    """See `module` as RF-DETR's backbone; None where it is something else."""
    if own_class(module).__name__ != _BACKBONE or not hasattr(module, "encoder"):
        return None
    blocks = tuple(module.get_submodule("encoder.layer").children())
    if not all(set(dict(_attention(block).named_children())) <= _OF_ATTENTION for block in blocks):
        return None
    config = attribute(module, "config")
    side = config.image_size // config.patch_size // config.num_windows
    return Host(
        family="RF-DETR's backbone as published",
        model=module,
        backbone=module,
        blocks=blocks,
        prefix_tokens=1 + config.num_register_tokens,
        embedding=module.get_submodule("embeddings.patch_embeddings.projection"),
        grid=partial(_grid, windows=config.num_windows),
        usual_grid=(side, side),
        any_size=True,
        first_norm=partial(apply_child, name="norm1"),
        mask=None,
        attention=Attention(_attention, _attend),
        readout=_readout,
        reads=_reads,
        taps="feature maps, and hidden states where a call reads them",
    )


def _attention(block: nn.Module) -> nn.Module:
    return block.get_submodule("attention.attention")


def _grid(
    embedding: nn.Module, args: tuple[Any, ...], output: Tensor, windows: int
) -> tuple[int, int]:
    height, width = map_grid(embedding, args, output)
    return height // windows, width // windows


def _attend(
    attention: nn.Module, mask: Tensor, tokens: Tensor, output_attentions: bool = False
) -> tuple[Tensor, None]:
    """What the attention puts out for tokens (B, N, C) under a mask that its own code lacks."""
    heads: int = attribute(attention, "num_attention_heads")
    q, k, v = (
        split_heads(apply_child(attention, tokens, name), heads)
        for name in ("query", "key", "value")
    )
    dropout = dropout_rate(attention, "dropout")
    keys = mask.reshape(tokens.shape[0], 1, 1, -1)
    return F.scaled_dot_product_attention(q, k, v, keys, dropout).transpose(1, 2).flatten(2), None


def _readout(model: nn.Module) -> Readout:
    return "taps"


def _reads(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Reads:
    config = attribute(model, "config")
    names = attribute(model, "stage_names")
    states = {names.index(name) for name in attribute(model, "out_features")}
    wanted = kwargs.get("output_hidden_states")
    if config.output_hidden_states if wanted is None else wanted:
        states |= set(range(len(names)))
    return Reads(frozenset(state - 1 for state in states if state > 0), last=False)
