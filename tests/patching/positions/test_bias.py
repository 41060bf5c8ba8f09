"""Relative position biases of clusters, against loops over offsets and attention written out."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import expedite
from expedite import Plan, Span
from expedite.patchers.transformers.beit import find_bias
from expedite.patching.hooks import find_sessions
from expedite.patching.positions.bias import cluster_bias, resample
from tests.hosts import huggingface_beit, images, timm_beit

Grid = tuple[int, int]

pytestmark = pytest.mark.usefixtures("no_gradients")


def random_table(grid: Grid, heads: int = 2) -> Tensor:
    rows = (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3
    return torch.randn(rows, heads, generator=torch.Generator().manual_seed(0))


def read(table: Tensor, grid: Grid, down: float, right: float) -> Tensor:
    """The biases (heads,) of an offset, between those of the whole offsets around it."""
    found = torch.zeros(table.shape[1], dtype=torch.float64)
    for y in (math.floor(down), math.floor(down) + 1):
        for x in (math.floor(right), math.floor(right) + 1):
            share = (1 - abs(down - y)) * (1 - abs(right - x))
            if share > 1e-12:
                row = (y + grid[0] - 1) * (2 * grid[1] - 1) + x + grid[1] - 1
                found += share * table[row].double()
    return found


def bias_loop(table: Tensor, grid: Grid, clusters: Grid) -> Tensor:
    """The bias of every query and key, the class token first, (heads, 1 + h·w, 1 + h·w)."""
    centers = [
        [(i + 0.5) * side / cells - 0.5 for i in range(cells)]
        for side, cells in zip(grid, clusters, strict=True)
    ]
    places = [(y, x) for y in centers[0] for x in centers[1]]
    bias = torch.zeros(table.shape[1], 1 + len(places), 1 + len(places), dtype=torch.float64)
    from_class, to_class, itself = table[-3:].double()
    for q, (y, x) in enumerate(places, 1):
        for k, (v, u) in enumerate(places, 1):
            bias[:, q, k] = read(table, grid, y - v, x - u)
    bias[:, 0, 1:], bias[:, 1:, 0] = from_class[:, None], to_class[:, None]
    bias[:, 0, 0] = itself
    return bias


@given(
    grid=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    shares=st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
def test_biases_are_read_between_the_offsets_of_tokens(grid: Grid, shares: Grid) -> None:
    clusters = min(grid[0], shares[0]), min(grid[1], shares[1])
    table = random_table(grid)
    expected = bias_loop(table, grid, clusters)
    found = cluster_bias(table, grid, clusters)
    torch.testing.assert_close(found[0].double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_whole_offsets_get_the_table_s_own_biases_to_the_bit(dtype: torch.dtype) -> None:
    table = random_table((6, 9)).to(dtype)
    # Centres of 2×3 tokens are 2 rows and 3 columns apart.
    found = resample(table, (6, 9), (3, 3))[:-3].view(5, 5, 2)
    assert torch.equal(found, table[:-3].view(11, 17, 2)[1::2, 2::3][:5, :5])
    assert torch.equal(resample(table, (6, 9), (6, 9)), table)


def test_as_many_clusters_as_tokens_have_the_bias_that_the_model_makes() -> None:
    attention = timm_beit(img_size=(24, 40)).blocks[0].attn
    table = attention.relative_position_bias_table
    assert torch.equal(cluster_bias(table, (6, 10), (6, 10)), attention._get_rel_pos_bias())


@pytest.mark.parametrize("grid", [(8, 8), (5, 8), (12, 7), (16, 16)])
@pytest.mark.parametrize("window", [(32, 32), (24, 40)])
def test_tables_are_stretched_as_transformers_stretches_them(grid: Grid, window: Grid) -> None:
    from transformers import BeitConfig, BeitModel

    sizes: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    biased: dict[str, Any] = {
        "image_size": window,
        "patch_size": 4,
        "use_shared_relative_position_bias": True,
    }
    model = BeitModel(BeitConfig(**sizes, **biased))
    bias = find_bias(model)
    assert bias is not None
    assert bias.shared is not None
    nn.init.normal_(bias.shared.get_parameter("relative_position_bias_table"))
    table = bias.table(bias.shared, grid)
    torch.testing.assert_close(cluster_bias(table, grid, grid), bias.shared(grid))


def attend(attention: Any, tokens: Tensor, bias: Tensor) -> Tensor:
    """A BEiT's attention in plain steps, whichever library it is from."""
    if hasattr(attention, "qkv"):
        offsets = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
        parts = F.linear(tokens, attention.qkv.weight, offsets).chunk(3, -1)
        out = attention.proj
    else:
        parts = attention.q_proj(tokens), attention.k_proj(tokens), attention.v_proj(tokens)
        out = attention.o_proj
    query, key, value = (part.view(*part.shape[:2], 2, 16).transpose(1, 2) for part in parts)
    weights = (query @ key.mT / 16**0.5 + bias).softmax(-1)
    return out((weights @ value).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def tables(model: Any) -> list[tuple[Tensor, Tensor, str, str]]:
    """Of every block: its own table, the one for all, and the names of its attention and norm."""
    if hasattr(model, "blocks"):
        shared = model.rel_pos_bias.relative_position_bias_table
        own = [block.attn.relative_position_bias_table for block in model.blocks]
        return [(table, shared, "attn", "norm1") for table in own]
    model = model.model
    shared = model.shared_position_bias.relative_position_bias_table
    own = [layer.relative_position_bias.relative_position_bias_table for layer in model.layers]
    return [(table, shared, "attention", "layernorm_before") for table in own]


@pytest.mark.parametrize("make", [timm_beit, huggingface_beit])
@pytest.mark.parametrize("log_mass", [True, False])
@pytest.mark.parametrize("chained", [False, True])
def test_attention_of_clusters_by_hand(make: Any, log_mass: bool, chained: bool) -> None:
    model, x = make(), images()
    blocks = list(model.blocks if hasattr(model, "blocks") else model.model.layers)
    spans = (Span(1, clusters=(6, 7), beta=1), Span(2, clusters=(4, 5)))
    plan = Plan(spans if chained else (Span(1, clusters=(4, 5)),), log_mass=log_mass)
    expedite.patch(model, plan)
    seen: dict[str, Tensor] = {}
    own, shared, attention, norm = tables(model)[2]
    blocks[2].get_submodule(norm).register_forward_hook(
        lambda module, args, output: seen.update(tokens=output), prepend=True
    )
    blocks[2].get_submodule(attention).register_forward_hook(
        lambda module, args, output: seen.update(
            found=output[0] if isinstance(output, tuple) else output
        )
    )
    masses: list[Tensor] = []
    (session,) = find_sessions(model)
    for layer in session.clusterings.values():
        layer.register_forward_hook(lambda module, args, output: masses.append(output[1].mass))
    model(x)
    bias = (bias_loop(own, (8, 8), (4, 5)) + bias_loop(shared, (8, 8), (4, 5))).float()[None]
    if log_mass:
        bias = bias + F.pad(masses[-1].log(), (1, 0))[:, None, None]
    expected = attend(blocks[2].get_submodule(attention), seen["tokens"], bias)
    torch.testing.assert_close(seen["found"], expected, rtol=1e-4, atol=1e-4)
