"""DPT of the published layout: what its head reads of blocks inside a span."""

from typing import Any

import pytest
import torch
from torch import Tensor

import expedite
from expedite.measure.flops import count_flops
from expedite.models.dpt import DPT
from expedite.operators import clustering
from expedite.operators.clustering import cluster
from expedite.operators.reconstruction import reconstruct
from tests.hosts import counted_reconstructions, dpt, images, without_positions
from tests.oracles import RELOCATED, normalized
from tests.patching.test_oracles import HARD, blocky

HYBRID = {"stages": (1, 1, 1), "taps": (2, 3), "features": (256, 512, 32, 32)}

pytestmark = pytest.mark.usefixtures("no_gradients")


def by_hand(model: DPT, x: Tensor) -> Tensor:
    """Depth with blocks 2 to 4 on 4×5 clusters, every tap reconstructed from the one record."""
    vit = model.pretrained.model
    maps, patches = vit.patch_embed(x)
    tokens = torch.cat([vit.cls_token.expand(len(x), -1, -1), patches.flatten(2).mT], 1)
    blocks: Any = vit.blocks
    tokens = blocks[0](tokens + vit.pos_embed)
    taps = [tokens]
    first, body = tokens[:, :1], tokens[:, 1:]
    centroids, record = cluster(body, (8, 8), (4, 5), features=normalized(body), **RELOCATED)
    stream = torch.cat([first, centroids], 1)
    mask = torch.cat([torch.zeros(len(x), 1), record.mass.log()], 1)[:, None, None]
    for block in blocks[1:]:
        stream = block(stream, mask)
        taps.append(torch.cat([stream[:, :1], reconstruct(stream[:, 1:], record)], 1))
    for index in range(4 - len(maps)):
        part = model.pretrained.get_submodule(f"act_postprocess{len(maps) + 1}")
        maps = [*maps, part(taps[vit.taps[index - 4]], (8, 8))]
    output = model.scratch.output_conv(model.scratch(maps)).squeeze(1)
    depth: Tensor = 1 / (output + 0.5)
    return depth


def test_equals_the_operators_by_hand() -> None:
    model, x = dpt(), images(2, 128, 128)
    expected = by_hand(model, x)
    found = expedite.patch(model, alpha=1, clusters=(4, 5))(x)
    assert found.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "alpha", "beta", "count"),
    [({}, 0, None, 4), ({}, 1, None, 3), ({}, 1, 2, 2), ({}, 3, None, 1), (HYBRID, 1, None, 2)],
)
def test_only_taps_inside_the_span_are_reconstructed(
    changes: dict[str, object], alpha: int, beta: int | None, count: int
) -> None:
    model = expedite.patch(dpt(**changes), alpha=alpha, beta=beta, clusters=(4, 5))
    with counted_reconstructions(model) as calls:
        assert model(images(2, 128, 128)).shape == (2, 128, 128)
    assert calls == [20] * count


def test_the_encoder_alone_hands_out_full_grids_too() -> None:
    model = expedite.patch(dpt(), alpha=1, clusters=4)
    _, taps, grid = model.pretrained.model(images(1, 96, 160))
    assert grid == (6, 10)
    assert [tuple(tokens.shape) for tokens in taps] == [(1, 61, 32)] * 4


@pytest.mark.parametrize("changes", [{}, HYBRID, {"n_cls": 3}])
def test_the_full_grid_without_the_shortcut_equals_the_plain_model(
    changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = dpt(**changes), images(2, 128, 128)
    plain = model(x)
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    expedite.patch(model, alpha=1, clusters=8, **HARD)
    # The head's convolutions magnify rounding here and there.
    assert (model(x) - plain).abs().mean() < 1e-3 * plain.std()


def test_cells_of_equal_tokens_cluster_without_loss() -> None:
    model, x = without_positions(dpt()), blocky(images(2, 128, 128), 16)
    plain = model(x)
    expedite.patch(model, alpha=0, clusters=4, **HARD)
    torch.testing.assert_close(model(x), plain, rtol=1e-3, atol=1e-3)
    expedite.patch(model, alpha=0, clusters=4, log_mass=False, **HARD)
    assert not torch.allclose(model(x), plain, rtol=1e-3, atol=1e-3)


def test_fewer_multiply_adds_and_none_uncounted() -> None:
    model, x = dpt(), images(1, 128, 128)
    plain = count_flops(model, x)
    patched = count_flops(expedite.patch(model, alpha=1, clusters=4), x)
    assert patched.total < plain.total
    assert patched.unsupported == plain.unsupported == {}


def test_describe_names_the_taps() -> None:
    assert "blocks 1, 2, 3, 4, read by the head" in str(expedite.describe(dpt()))
