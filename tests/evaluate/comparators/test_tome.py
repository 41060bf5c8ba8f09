from typing import Any

import pytest
import torch
from torch import Tensor

import expedite
from expedite import ExpediteError, Span
from expedite.evaluate.comparators import plan_of
from expedite.evaluate.comparators.attention import Attention
from expedite.evaluate.comparators.base import Measured
from expedite.evaluate.comparators.tome import KeyMerging, match, soft_matching
from expedite.operators.clustering import pool
from expedite.patching.hooks import find_sessions
from tests.hosts import images, open_frames, segmenter, timm_vit, torchvision_vit

pytestmark = pytest.mark.usefixtures("no_gradients")


def match_loop(metric: Tensor, fewer: int, prefix: int = 0) -> list[int]:
    """Section 3 of arXiv 2210.09461 for one image: into which of those left every token goes.

    Tokens before these take turns in the split and stay, as a class token does in published code.
    """
    unit = metric.double() / metric.double().norm(dim=1, keepdim=True)
    first = [token for token in range(len(metric)) if (prefix + token) % 2 == 0]
    second = [token for token in range(len(metric)) if (prefix + token) % 2 == 1]
    edges = []
    for a in first:
        similarities = {b: float(unit[a] @ unit[b]) for b in second}
        partner = max(similarities, key=lambda b: similarities[b])
        edges.append((similarities[partner], a, partner))
    merged = {a: b for _, a, b in sorted(edges, reverse=True)[:fewer]}
    left = [token for token in range(len(metric)) if token not in merged]
    return [left.index(merged.get(token, token)) for token in range(len(metric))]


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
@pytest.mark.parametrize(("count", "fewer"), [(12, 1), (12, 6), (13, 5), (13, 6), (7, 3), (2, 1)])
def test_matching_is_the_papers(count: int, fewer: int, prefix: int) -> None:
    metric = torch.randn(3, count, 5)
    found = match(metric, fewer, prefix)
    assert found.tolist() == [match_loop(one, fewer, prefix) for one in metric]


def test_several_rounds_go_on_from_the_means_that_sizes_weigh() -> None:
    metric, sizes = torch.randn(1, 12, 5), torch.rand(1, 12) + 0.5
    once = match(metric, 6)[0]
    means = torch.stack(
        [
            (sizes[0, once == n, None] * metric[0, once == n]).sum(0) / sizes[0, once == n].sum()
            for n in range(6)
        ]
    )
    twice = match_loop(means, 2)
    assert soft_matching(metric, sizes, 4)[0].tolist() == [twice[n] for n in once]


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("count", [1, 5, 20, 35, 69])
def test_every_count_is_met(count: int, prefix: int) -> None:
    group = soft_matching(torch.randn(2, 70, 4), torch.ones(2, 70), count, prefix)
    for one in group:
        assert one.unique().tolist() == list(range(count))


def test_merged_tokens_are_means_that_sizes_weigh() -> None:
    tokens, keys, mass = torch.randn(1, 12, 3), torch.randn(1, 13, 2, 4), torch.rand(1, 12) + 0.5
    measured = Measured(attention=Attention(keys, keys), prefix=1)
    merged, record = KeyMerging(Span(0, (2, 3)))(tokens, (3, 4), measured, mass)
    group = soft_matching(keys[:, 1:].mean(2), mass, 6, prefix=1)[0]
    for n in range(6):
        weight = mass[0, group == n]
        torch.testing.assert_close(record.mass[0, n], weight.sum())
        mean = (weight[:, None] * tokens[0, group == n]).sum(0) / weight.sum()
        torch.testing.assert_close(merged[0, n], mean)
    torch.testing.assert_close(pool(tokens, record), merged)


def test_keys_are_those_of_the_block_before() -> None:
    """The same matching from keys computed by hand from the block's weights."""
    model: Any = segmenter()
    blocks = model.encoder.blocks
    seen: list[Tensor] = []
    blocks[0].attn.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    expedite.patch(model, plan_of("tome", 1, 4))
    (session,) = find_sessions(model)
    layer = session.clusterings[1]
    assigned: list[Any] = []
    layer.register_forward_hook(lambda module, args, output: assigned.append(output[1].assignment))
    model(images())
    attention = blocks[0].attn
    width = attention.qkv.in_features
    keys = seen[0] @ attention.qkv.weight[width : 2 * width].T
    keys = keys + attention.qkv.bias[width : 2 * width]  # (B, 1 + N, C)
    mean = keys[:, 1:].unflatten(2, (2, -1)).mean(2)
    assert torch.equal(assigned[0].labels, soft_matching(mean, torch.ones(2, 64), 16, 1))
    assert open_frames(model) == 0


def test_proportional_attention_and_delta_have_an_effect() -> None:
    plans = [
        plan_of("tome", 1, 4),
        plan_of("tome", 1, 4, log_mass=False),
        plan_of("tome+delta", 1, 4),
        plan_of("tome+weights", 1, 4),
    ]
    outputs = [expedite.patch(segmenter(), plan)(images()) for plan in plans]
    for index, output in enumerate(outputs):
        assert not any(torch.allclose(output, other) for other in outputs[index + 1 :])


def test_delta_leaves_a_block_that_changes_nothing_without_loss() -> None:
    """With delta the grid comes back as it was if the blocks of the span are the identity."""
    model: Any = segmenter()
    for block in model.encoder.blocks[1:]:
        block.attn.proj.weight.zero_()
        block.attn.proj.bias.zero_()
        block.mlp.fc2.weight.zero_()
        block.mlp.fc2.bias.zero_()
    before = model(images())
    torch.testing.assert_close(expedite.patch(model, plan_of("tome+delta", 1, 4))(images()), before)
    assert not torch.allclose(expedite.patch(model, plan_of("tome", 1, 4))(images()), before)


def test_hosts_that_hide_their_keys_are_refused() -> None:
    with pytest.raises(ExpediteError, match=r"ToMe .* no layers that put out queries and keys"):
        expedite.patch(torchvision_vit(), plan_of("tome", 1, 4))


def test_queries_and_keys_of_attention_with_norms_are_normed() -> None:
    plain, normed = timm_vit(), timm_vit(qk_norm=True)
    for model in (plain, normed):
        expedite.patch(model, plan_of("evit", 1, 4))
        assert model(images()).isfinite().all()


def test_alpha_0_has_no_block_before() -> None:
    with pytest.raises(ExpediteError, match="before the first block; alpha=1 works"):
        expedite.patch(segmenter(), plan_of("tome", 0, 4))
