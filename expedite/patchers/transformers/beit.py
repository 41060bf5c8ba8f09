"""What sets transformers' BEiT apart from its other ViTs: relative position biases, pooling.

And Data2Vec, which is a BEiT of an older layout.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expedite.patching.host import Bias, attribute, own_class

SEGMENTERS = ("BeitForSemanticSegmentation", "Data2VecVisionForSemanticSegmentation")


def find_bias(backbone: nn.Module) -> Bias | None:
    """How the blocks of `backbone` get relative position biases; None where it is no BEiT."""
    for module in backbone.modules():
        if own_class(module).__name__ == "BeitModel":
            shared = attribute(module, "shared_position_bias")
            return Bias("forward", _own_bias, shared, _resized_table)
        if own_class(module).__name__ == "Data2VecVisionModel":
            shared = getattr(module.get_submodule("encoder"), "relative_position_bias", None)
            return Bias("forward", _bias_of_attention, shared, _resized_table, of_each_image=True)
    return None


def pooled(backbone: nn.Module) -> nn.Module | None:
    """The module after which a BEiT averages its tokens; None where it is no BEiT."""
    is_beit = own_class(backbone).__name__ == "BeitModel"
    return backbone.get_submodule("layernorm") if is_beit else None


def head_states(config: Any, depth: int) -> set[int]:
    """The hidden states that BEiT's segmentation head reads; `out_indices` count from one."""
    return {(index - 1) % (depth + 1) for index in config.out_indices}


def _own_bias(block: nn.Module) -> nn.Module | None:
    maker: nn.Module | None = attribute(block, "relative_position_bias")
    return maker


def _bias_of_attention(block: nn.Module) -> nn.Module | None:
    attention = block.get_submodule("attention.attention")
    return getattr(attention, "relative_position_bias", None)


def _resized_table(maker: nn.Module, grid: tuple[int, int]) -> Tensor:
    """The table for a grid, stretched from the one that was trained as the model itself does it."""
    table: Tensor = attribute(maker, "relative_position_bias_table")
    height, width = (2 * side - 1 for side in attribute(maker, "window_size"))
    size = [2 * side - 1 for side in grid]
    # The library takes the sides of its table in this order also where they differ.
    old = table[:-3].reshape(1, width, height, -1).permute(0, 3, 1, 2)  # (1, heads, ·, ·)
    new = F.interpolate(old, size=size, mode="bilinear")
    return torch.cat([new[0].flatten(1).mT, table[-3:]])
