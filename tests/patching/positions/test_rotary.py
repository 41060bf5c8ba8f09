from typing import Any
from unittest.mock import patch

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import expedite
from expedite import ExpediteError, Plan, Span
from expedite.measure.flops import count_flops
from expedite.operators import clustering
from expedite.operators.clustering import cluster
from expedite.patching.hooks import find_sessions
from expedite.patching.positions.rotary import cluster_positions, grid_positions, rotate
from tests.hosts import images, randomized, timm_eva
from tests.oracles import RELOCATED, normalized
from tests.patching.test_oracles import HARD

CPU = torch.device("cpu")


def table(height: int, width: int, depth: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Angles (H·W, D) as models have them, with what they grow by along each side."""
    steps = torch.linspace(-1.5, 3, 2 * depth).view(2, depth)
    angle = 0.3 + grid_positions((height, width), CPU)[0] @ steps
    return angle.sin(), angle.cos(), steps


@given(height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 9))
def test_angles_between_tokens_lie_between_theirs(height: int, width: int, seed: int) -> None:
    sin, cos, steps = table(height, width)
    side = torch.tensor([height - 1.0, width - 1.0])
    places = torch.rand(3, 11, 2, generator=torch.Generator().manual_seed(seed)) * side
    found_sin, found_cos = rotate(sin, cos, (height, width), places)
    expected = 0.3 + places @ steps  # (3, 11, D)
    torch.testing.assert_close(found_sin[:, 0], expected.sin(), atol=1e-4, rtol=0)
    torch.testing.assert_close(found_cos[:, 0], expected.cos(), atol=1e-4, rtol=0)


def test_places_of_tokens_give_their_own_angles_whatever_the_dtype() -> None:
    sin, cos, _ = (part.to(torch.bfloat16) for part in table(5, 7))
    found_sin, found_cos = rotate(sin, cos, (5, 7), grid_positions((5, 7), CPU))
    assert found_sin.dtype == torch.bfloat16
    torch.testing.assert_close(found_sin[0, 0], sin, atol=0.01, rtol=0)
    torch.testing.assert_close(found_cos[0, 0], cos, atol=0.01, rtol=0)


def test_half_precision_does_not_drift_over_a_long_side() -> None:
    sin, cos, steps = table(1, 200)
    places = torch.tensor([[[0.0, 187.4]]])
    found, _ = rotate(sin.bfloat16(), cos.bfloat16(), (1, 200), places)
    expected = torch.sin(0.3 + places[0] @ steps)
    torch.testing.assert_close(found[0, 0].float(), expected, atol=0.03, rtol=0)


def test_an_image_without_places_takes_none_from_the_others() -> None:
    sin, cos, _ = table(5, 7)
    places = torch.rand(2, 3, 2)
    alone = rotate(sin, cos, (5, 7), places[1:])
    places[0] = torch.nan
    for found, expected in zip(rotate(sin, cos, (5, 7), places), alone, strict=True):
        assert found[0].isfinite().all()
        assert torch.equal(found[1:], expected)


@pytest.mark.parametrize("plan", [{"method": "paper", "k": 4}, {}], ids=["paper", "default"])
def test_one_image_of_nan_in_a_batch_is_nan_alone(plan: dict[str, Any]) -> None:
    """Soft clusters of NaN have no place, from which an index was once made."""
    model = expedite.patch(timm_eva(), alpha=2, clusters=4, **plan)
    batch = images(2)
    with torch.no_grad():
        expected = model(batch)[1]
        batch[0] = torch.nan
        found = model(batch)
    assert found[0].isnan().all()
    torch.testing.assert_close(found[1], expected, rtol=0, atol=1e-5)


def test_clusters_stand_where_their_tokens_are_on_average() -> None:
    tokens = torch.randn(2, 8 * 6, 5)
    _, first = cluster(tokens, (8, 6), (4, 3))
    places = cluster_positions([first], (8, 6), CPU)
    middle = (first.mass[..., None] * places).sum(1) / first.mass.sum(1, keepdim=True)
    torch.testing.assert_close(middle, torch.tensor([[3.5, 2.5]] * 2))
    assert not torch.equal(places[0], places[1])  # each image its own


def test_tables_of_heads_are_turned_one_by_one() -> None:
    positions = torch.tensor([[[0.5, 2.25], [3.0, 4.5]], [[1.0, 0.0], [2.75, 1.5]]])
    sin, cos, steps = table(4, 6)
    slow = 0.1 + grid_positions((4, 6), CPU)[0] @ (0.5 * steps)  # the second head's angles
    heads = torch.stack([sin, slow.sin()]), torch.stack([cos, slow.cos()])
    found, _ = rotate(*heads, (4, 6), positions)
    expected = [(0.3 + positions @ steps).sin(), (0.1 + positions @ (0.5 * steps)).sin()]
    torch.testing.assert_close(found, torch.stack(expected, 1), atol=1e-4, rtol=0)


def test_tables_of_other_lengths_are_refused() -> None:
    sin, cos, _ = table(4, 4)
    with pytest.raises(ExpediteError, match="with a row for each token"):
        rotate(sin[1:], cos[1:], (4, 4), grid_positions((4, 4), CPU))


def by_hand(model: torch.nn.Module, x: Tensor) -> Tensor:
    """Features of an Eva with all blocks but the first on 4×5 clusters, angles from the formula."""
    evas: dict[str, torch.nn.Module] = dict(model.named_children())
    tokens = evas["patch_embed"](x)
    tokens, rope = model._pos_embed(tokens)  # type: ignore[operator]
    blocks = list(evas["blocks"].children())
    tokens = blocks[0](tokens, rope=rope)
    body = tokens[:, 1:]
    centroids, record = cluster(body, (8, 8), (4, 5), features=normalized(body), **RELOCATED)
    mask = torch.cat([torch.zeros(len(x), 1), record.mass.log()], 1)[:, None, None]
    places = cluster_positions([record], (8, 8), CPU)
    # Half of a head's pairs turn by rows, half by columns: 10000^(-2j/8) radians a token.
    frequencies = 10000 ** (-torch.arange(4) / 4)
    angle = (places[..., None] * frequencies).flatten(2).repeat_interleave(2, -1)  # (B, 20, 16)
    turned = torch.cat([angle.sin(), angle.cos()], -1)[:, None]
    short = torch.cat([tokens[:, :1], centroids], 1)
    for block in blocks[1:]:
        short = block(short, rope=turned, attn_mask=mask)
    return short[:, 1:]


def test_an_eva_equals_the_operators_and_the_formula() -> None:
    model, x = timm_eva(class_token=True, global_pool="token"), images()
    with torch.no_grad():
        expected = by_hand(model, x)
        expedite.patch(model, alpha=1, clusters=(4, 5))
        (session,) = find_sessions(model)
        with patch.object(session, "leave", wraps=session.leave) as leave:
            model(x)
    clusters = leave.call_args.args[2]  # what the last block put out
    torch.testing.assert_close(clusters[:, 1:], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "eva02_tiny_patch14_224"])
def test_models_that_timm_names(name: str) -> None:
    torch.manual_seed(0)
    patch = {"vit_small_patch16_dinov3": 16, "eva02_tiny_patch14_224": 14}[name]
    model = timm.create_model(name, depth=4, num_classes=3, img_size=6 * patch).eval()
    x = images(1, 6 * patch, 6 * patch)
    with torch.no_grad():
        plain = model(x)
        expedite.patch(model, alpha=2, clusters=5)
        assert model(x).shape == plain.shape
        assert not torch.equal(model(x), plain)
        assert torch.equal(expedite.unpatch(model)(x), plain)


def test_positions_of_each_block_and_head(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = timm_eva(rope_type="mixed"), images()
    with torch.no_grad():
        plain = [model(x), *model.forward_intermediates(x)[1]]
        monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
        expedite.patch(model, alpha=1, clusters=8, **HARD)
        found = [model(x), *model.forward_intermediates(x)[1]]
        torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-3)
        expedite.patch(model, alpha=1, clusters=4)
        assert [t.shape for t in model.forward_intermediates(x)[1]] == [t.shape for t in plain[1:]]
        assert torch.equal(expedite.unpatch(model)(x), plain[0])


def test_a_chain_and_the_full_grid() -> None:
    model, x = randomized(timm_eva()), images()
    with torch.no_grad():
        plain = model.forward_features(x)
        same = Plan((Span(1, clusters=8), Span(2, clusters=8)), **HARD)
        assert torch.equal(expedite.patch(model, same).forward_features(x), plain)
        expedite.patch(model, Plan((Span(1, clusters=6), Span(2, clusters=4))))
        assert model.forward_features(x).shape == plain.shape


@pytest.mark.parametrize("size", [(32, 32), (40, 28)])
def test_intermediates_have_the_full_grid_at_any_size(size: tuple[int, int]) -> None:
    model, x = timm_eva(dynamic_img_size=True), images(2, *size)
    with torch.no_grad():
        plain = model.forward_intermediates(x, intermediates_only=True)
        expedite.patch(model, alpha=2, clusters=4)
        found = model.forward_intermediates(x, intermediates_only=True)
    assert [t.shape for t in found] == [t.shape for t in plain]
    assert all(torch.equal(a, b) for a, b in zip(found[:2], plain[:2], strict=True))
    assert not any(torch.allclose(a, b) for a, b in zip(found[2:], plain[2:], strict=True))


def test_features_only() -> None:
    name = "vit_small_patch16_dinov3"
    features = timm.create_model(name, depth=4, img_size=96, features_only=True).eval()
    x = images(1, 96, 96)
    with torch.no_grad():
        plain = features(x)
        found = expedite.patch(features, alpha=2, clusters=4)(x)
    assert [t.shape for t in found] == [t.shape for t in plain]


def test_nothing_goes_uncounted() -> None:
    model = expedite.patch(timm_eva(), alpha=1, clusters=4)
    assert count_flops(model, images(1)).unsupported == {}
