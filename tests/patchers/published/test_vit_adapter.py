"""ViT-Adapter: blocks that run on clusters between injectors and extractors."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import expedite
from expedite.measure.flops import count_flops
from expedite.models.adapter_segmenter import AdapterSegmenter
from expedite.models.deformable import grid_places
from expedite.models.vit_adapter import ViTAdapter
from expedite.operators import clustering
from expedite.operators.clustering import cluster, pool
from expedite.operators.reconstruction import reconstruct
from expedite.patchers.published import vit_adapter as patcher
from expedite.patching.host import Host, Injection
from tests.hosts import (
    counted_reconstructions,
    images,
    meta,
    vit_adapter,
    vit_adapter_in_beit_windows,
    vit_adapter_in_windows,
    without_positions,
)
from tests.oracles import RELOCATED, normalized
from tests.patching.test_oracles import HARD, blocky

GRIDS = (16, 16), (8, 8), (4, 4)

IN_WINDOWS = vit_adapter_in_windows, vit_adapter_in_beit_windows

pytestmark = pytest.mark.usefixtures("no_gradients")


def at_tokens(model: ViTAdapter) -> Host:
    """The host whose injectors ask with reconstructed tokens."""
    host = patcher.find_host(model)
    assert host is not None
    injections = (Injection(injection.module) for injection in host.injections)
    return replace(host, injections=tuple(injections))


def close(found: Any, expected: Any, tolerance: float = 1e-3) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().mean() < tolerance * other.std()


def by_hand(model: ViTAdapter, x: Tensor, asks_at_places: bool) -> tuple[Tensor, ...]:
    """The pyramid with blocks 2 to 4 on 4×5 clusters, all else on every token."""
    first, spatial = model._prior(x)
    at = grid_places((GRIDS[1],), x.device)
    parts: list[Any] = list(zip(model.interactions, model.blocks, strict=True))
    tokens = parts[0][1](parts[0][0].inject(model._embed(x), spatial, GRIDS))
    read = [tokens]
    spatial = parts[0][0].extract(spatial, tokens, GRIDS)
    tokens = parts[1][0].inject(tokens, spatial, GRIDS)
    stream, record = cluster(tokens, GRIDS[1], (4, 5), features=normalized(tokens), **RELOCATED)
    mask = record.mass.log()[:, None, None]
    for index, (interaction, block) in enumerate(parts[1:]):
        if index > 0 and asks_at_places:
            stream = interaction.injector(stream, pool(at, record), spatial, GRIDS)
        elif index > 0:
            added = interaction.inject(read[-1], spatial, GRIDS) - read[-1]
            stream = stream + pool(added, record)
        stream = block(stream, mask)
        read.append(reconstruct(stream, record))
        spatial = interaction.extract(spatial, read[-1], GRIDS)
    cells = spatial.split([16 * 16, 8 * 8, 4 * 4], 1)
    maps = [body.mT.reshape(len(x), -1, *grid) for body, grid in zip(cells, GRIDS, strict=True)]
    return model._pyramid([model.up(maps[0]) + first, *maps], read, GRIDS[1])


@pytest.mark.parametrize(
    ("make", "asks_at_places"), [(vit_adapter, True), (vit_adapter, False), (meta, False)]
)
def test_equals_the_operators_by_hand(make: Any, asks_at_places: bool) -> None:
    model, x = make(), images(2, 128, 128)
    plain, expected = model(x), by_hand(model, x, asks_at_places)
    host = None if asks_at_places else at_tokens(model)
    found = expedite.patch(model, alpha=1, clusters=(4, 5), host=host)(x)
    assert (found[0] - plain[0]).abs().mean() > 0.01 * plain[0].std()
    close(found, expected, 1e-5)


@pytest.mark.parametrize(
    ("make", "asks_at_places"),
    [
        (vit_adapter, True),
        (vit_adapter, False),
        (vit_adapter_in_windows, True),
        (vit_adapter_in_windows, False),
        (vit_adapter_in_beit_windows, True),
        (meta, False),
    ],
)
@pytest.mark.parametrize(("alpha", "beta"), [(0, None), (1, 2), (3, None)])
def test_the_full_grid_without_the_shortcut_equals_the_plain_model(
    make: Any,
    asks_at_places: bool,
    alpha: int,
    beta: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, x = make(), images(2, 128, 128)
    plain = model(x)
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    host = None if asks_at_places else at_tokens(model)
    clusters = 6 if make in IN_WINDOWS else 8
    expedite.patch(model, alpha=alpha, beta=beta, clusters=clusters, host=host, **HARD)
    close(model(x), plain)


def test_relative_position_biases_are_those_of_the_clusters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, x = vit_adapter(beit=True), images(2, 128, 128)
    plain = model(x)
    expedite.patch(model, alpha=1, clusters=4)
    assert [one.shape for one in model(x)] == [one.shape for one in plain]
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    expedite.patch(model, alpha=1, clusters=8, **HARD)
    close(model(x), plain)


def without_injections(model: ViTAdapter) -> ViTAdapter:
    """What the spatial prior adds differs from token to token; blocks and extractors are left."""
    for interaction in model.interactions:
        interaction.get_parameter("injector.gamma").zero_()
    without_positions(model)
    return model


@pytest.mark.parametrize("make", [vit_adapter, *IN_WINDOWS, meta])
def test_cells_of_equal_tokens_cluster_without_loss(make: Any) -> None:
    model, x = without_injections(make()), blocky(images(2, 128, 128), 16)
    plain = model(x)
    clusters = 3 if make in IN_WINDOWS else 4
    expedite.patch(model, alpha=0, clusters=clusters, **HARD)
    close(model(x), plain)
    expedite.patch(model, alpha=0, clusters=clusters, log_mass=False, **HARD)
    assert [one.shape for one in model(x)] == [one.shape for one in plain]


@pytest.mark.parametrize(
    ("layers", "alpha", "beta", "count"), [(4, 0, None, 4), (4, 1, 2, 2), (8, 3, None, 3)]
)
def test_tokens_are_reconstructed_once_for_every_extractor(
    layers: int, alpha: int, beta: int | None, count: int
) -> None:
    model = vit_adapter(layers=layers)
    expedite.patch(model, alpha=alpha, beta=beta, clusters=(4, 5))
    with counted_reconstructions(model) as calls:
        maps = model(images(2, 128, 96 + 32))
    assert calls == [20] * count
    assert [tuple(one.shape[2:]) for one in maps] == [(32, 32), (16, 16), (8, 8), (4, 4)]


def test_a_chain_of_spans_goes_on_across_interactions() -> None:
    """Clusters of clusters stand at the means of means, and come back through both records."""
    model, x = vit_adapter(), images(2, 128, 128)
    chain = expedite.Plan((expedite.Span(0, beta=2, clusters=6), expedite.Span(2, clusters=4)))
    expedite.patch(model, chain)
    seen: list[Tensor] = []
    for interaction in model.interactions:  # behind our own hooks
        injector = interaction.get_submodule("injector")
        injector.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    assert all(one.isfinite().all() for one in model(x))
    assert [where.shape[1] for where in seen] == [64, 36, 36, 16]
    for where in seen:
        assert where.min() > 0 and where.max() < 1
        # Masses weigh means: their middle is the image's.
        torch.testing.assert_close(where.mean((0, 1)), torch.full((2,), 0.5), atol=0.05, rtol=0)


@pytest.mark.parametrize("make", [vit_adapter, *IN_WINDOWS, meta])
def test_an_empty_batch(make: Any) -> None:
    model, x = make(), images(1, 128, 128)[:0]
    shapes = [one.shape for one in model(x)]
    assert [one.shape for one in expedite.patch(model, alpha=1, clusters=4)(x)] == shapes


@pytest.mark.parametrize("make", [vit_adapter, *IN_WINDOWS, meta])
def test_fewer_multiply_adds_and_none_uncounted(make: Any) -> None:
    model, x = make(), images(1, 128, 128)
    plain = count_flops(model, x)
    patched = count_flops(expedite.patch(model, alpha=1, clusters=4), x)
    assert patched.total < plain.total
    assert patched.unsupported == plain.unsupported == {}


def test_it_is_found_under_a_head() -> None:
    model = AdapterSegmenter(vit_adapter(), 32, n_cls=3).eval()
    plain = model(images(1, 128, 128))
    found = expedite.patch(model, alpha=1, clusters=4)(images(1, 128, 128))
    assert found.shape == plain.shape == (1, 3, 128, 128)
    assert not torch.allclose(found, plain)
    assert str(expedite.describe(model)).startswith("ViT-Adapter at 'backbone': 4 blocks")


def test_describe_names_the_taps() -> None:
    assert "blocks 2, 4, 6, 8, read by the adapter" in str(expedite.describe(vit_adapter(layers=8)))


def test_positions_of_another_size_are_refused_from_the_first_block_on() -> None:
    model = vit_adapter(beit=True)
    for alpha in (0, 1):
        with (
            expedite.patched(model, alpha=alpha, clusters=3),
            pytest.raises(expedite.ExpediteError, match="images of the size they were trained for"),
        ):
            model(images(1, 96, 224))
