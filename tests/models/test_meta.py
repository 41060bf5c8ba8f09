"""META against its equations, as far as they are published."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expedite import ExpediteError
from expedite.models.adapter_config import SIZES, for_meta
from expedite.models.meta import META, CascadedAttention, GatedConvolutions, MetaBlock, gather
from tests.hosts import ADAPTER, images, meta

pytestmark = pytest.mark.usefixtures("no_gradients")


def within(rows: int, columns: int, along_rows: bool) -> Tensor:
    """Which cells of a map share a row, or a column, (N, N)."""
    cell = torch.arange(rows * columns)
    line = cell // columns if along_rows else cell % columns
    return line[:, None] == line


def test_heads_cascade_in_rows_and_columns() -> None:
    """Eq. 2 on all cells at once, with a mask in place of windows, head after head."""
    attention, norm = CascadedAttention(12, heads=4), nn.LayerNorm(12)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    asking, answering = torch.randn(2, 12, 3, 5), torch.randn(2, 12, 3, 5)
    ask, answer = asking.flatten(2).mT, answering.flatten(2).mT  # (B, N, d)
    before, heads = torch.zeros(2, 15, 3), []
    for head in range(4):
        part = slice(3 * head, 3 * head + 3)
        q = attention.queries[head](ask[..., part] + before)
        k, v = attention.keys_and_values[head](answer[..., part] + before).chunk(2, -1)
        q, k, v = (F.layer_norm(x, (3,)) * norm.weight[part] + norm.bias[part] for x in (q, k, v))
        scores = (q @ k.mT / 3**0.5).masked_fill(~within(3, 5, head < 2), -torch.inf)
        before = scores.softmax(-1) @ v
        heads.append(before)
    expected = torch.cat(heads, -1).mT.reshape(2, 12, 3, 5)
    torch.testing.assert_close(attention(asking, answering, norm), expected, rtol=1e-4, atol=1e-4)


def test_a_block_joins_three_branches_and_its_inputs() -> None:
    """Eq. 1: with all branches silent, only the inputs are left, and each branch is heard."""
    block = MetaBlock(replace(ADAPTER, value_ratio=0.25, ffn_ratio=0.5))
    asking, answering = torch.randn(1, 32, 4, 6), torch.randn(1, 32, 4, 6)
    inner = [block.asking(asking), block.answering(answering)]
    both = torch.cat(inner, 1)
    mixed = block.norm(block.mix(both).permute(0, 2, 3, 1))
    parts = [
        block.attention(*inner, block.norm),
        block.mlp(mixed).permute(0, 3, 1, 2),
        block.convolutions(both),
        *inner,
    ]
    expected = block.expand(block.join(torch.cat(parts, 1)))
    torch.testing.assert_close(block(asking, answering), expected)
    weight = block.join.weight.clone()
    for index in range(5):  # each has its 8 channels in the last convolution
        block.join.weight.copy_(weight)
        block.join.weight[:, 8 * index : 8 * index + 8] = 0
        assert not torch.allclose(block(asking, answering), expected, atol=1e-4)


def test_gates_halve_channels_between_depthwise_convolutions() -> None:
    """Eq. 5 on a map that convolutions see as one cell, each then a product with its middle."""
    layer = GatedConvolutions(3)
    x = torch.randn(1, 6, 1, 1)

    def middle(conv: nn.Conv2d, x: Tensor) -> Tensor:
        count = conv.out_channels // conv.in_channels
        assert conv.bias is not None
        return conv.weight[:, 0, 1, 1] * x.repeat_interleave(count) + conv.bias

    first, gate = middle(layer.first, x.flatten()).chunk(2)
    second, again = middle(layer.second, first * gate.sigmoid()).chunk(2)
    expected = middle(layer.third, second * again.sigmoid())
    torch.testing.assert_close(layer(x).flatten(), expected)


def test_three_maps_meet_at_a_16th() -> None:
    grids = ((4, 6), (2, 3), (1, 1))
    spatial = torch.cat([torch.full((1, 24, 2), 1.0), torch.full((1, 6, 2), 2.0)], 1)
    spatial = torch.cat([spatial, torch.full((1, 1, 2), 6.0)], 1)
    assert torch.equal(gather(spatial, grids), torch.full((1, 2, 2, 3), 3.0))


def test_at_first_the_vit_is_left_alone() -> None:
    config = replace(ADAPTER, value_ratio=0.25, ffn_ratio=0.5, extra_extractors=0)
    model, seen = META(config).eval(), list[Tensor]()
    model.blocks[-1].register_forward_hook(lambda module, args, output: seen.append(output))
    model(images(1, 64, 96))
    for parameter in model.spm.parameters():
        parameter.add_(1.0)
    maps = model(images(1, 64, 96))
    assert torch.equal(*seen)
    assert [tuple(one.shape[2:]) for one in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_every_parameter_is_heard() -> None:
    with torch.enable_grad():
        model = meta().train()
        sum(one.square().mean() for one in model(images(1, 128, 128))).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # A row of positions without a token; a shift before a batch norm; keys' share of it.
    assert [name for name in silent if "interactions" in name] == []


def test_it_is_smaller_than_the_adapter() -> None:
    with torch.device("meta"):
        small = sum(p.numel() for p in META(for_meta(SIZES["base"])).parameters())
    assert round(small / 1e6, 1) == 94.1


def test_an_odd_number_of_heads_is_refused() -> None:
    with pytest.raises(ExpediteError, match=r"1 heads, and perceptrons of 16 channels, were asked"):
        META(replace(ADAPTER, adapter_heads=1, ffn_ratio=0.5))
    with pytest.raises(ExpediteError, match="perceptrons of 0 channels"):
        META(replace(ADAPTER, ffn_ratio=None))
