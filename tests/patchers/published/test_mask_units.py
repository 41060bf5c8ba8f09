"""Hiera, whose tokens stand in the order of mask units, from timm and transformers."""

from typing import Any

import pytest
import torch
import transformers
from timm.models.hiera import Unroll

import expedite
from expedite import ExpediteError, Plan, Span
from expedite.geometry.units import unit_order
from expedite.operators import clustering
from tests.hosts import (
    counted_reconstructions,
    huggingface_mask_units,
    images,
    open_frames,
    timm_mask_units,
)
from tests.patching.test_oracles import HARD, blocky

hf: Any = transformers  # its configs take what their annotations do not show

pytestmark = pytest.mark.usefixtures("no_gradients")
models = pytest.mark.parametrize("make", [timm_mask_units, huggingface_mask_units])


@models
@pytest.mark.parametrize(
    ("changes", "settings"), [({}, {}), ({}, {"log_mass": False}), ({"pools": 1}, {})]
)
def test_full_units_without_the_shortcut_equal_the_plain_model(
    make: Any, changes: dict[str, Any], settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "q_pool" if make is timm_mask_units else "num_query_pool"
    pools = changes.get("pools", 2)
    model = make(**{name: pools})
    plain = model(images())
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    for alpha, clusters in ((0, 4), (1, 4), (3, 2), (5, 4 if pools == 2 else 8)):
        expedite.patch(model, alpha=alpha, clusters=clusters, **HARD, **settings)
        torch.testing.assert_close(model(images()), plain, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("height", "width", "steps"), [(8, 16, 2), (4, 4, 1), (3, 5, 0)])
def test_the_order_is_the_librarys(height: int, width: int, steps: int) -> None:
    order, place = unit_order(height, width, steps, 2, 2, torch.device("cpu"))
    tokens = torch.arange(height * width).reshape(1, -1, 1)
    unrolled = Unroll((height, width), (1, 1), [(2, 2)] * steps)(tokens)
    assert torch.equal(order, unrolled.flatten())
    assert torch.equal(order[place], tokens.flatten())


@models
def test_cells_of_equal_tokens_cluster_without_loss(make: Any) -> None:
    model = make()
    for name, parameter in model.named_parameters():
        if "pos" in name:
            parameter.zero_()
    x = blocky(images(), 2)  # constant over 2×2 tokens
    plain = model(x)
    expedite.patch(model, alpha=0, clusters=2, **HARD)
    torch.testing.assert_close(model(x), plain, rtol=1e-3, atol=1e-3)
    x = blocky(blocky(images(), 4), 2)  # over 4×4 tokens, 2×2 behind what pools
    plain = model(x)
    expedite.patch(model, Plan((Span(0, 2), Span(3, 1)), **HARD))
    torch.testing.assert_close(model(x), plain, rtol=1e-3, atol=1e-3)
    assert expedite.describe(model).ran == (64, 64, 256, 16, 64, 16)


@models
def test_what_is_taken_of_stages_stands_row_by_row(make: Any) -> None:
    """Clusters of single units in the first stage: its map is wrong elsewhere, but near by."""
    model = make()
    inside = getattr(model, "model", model)
    is_timm = make is timm_mask_units

    def maps() -> list[torch.Tensor]:
        if is_timm:
            return list(inside.forward_intermediates(images(), output_fmt="NHWC")[1])
        states = inside(images(), output_hidden_states=True).reshaped_hidden_states
        return list(states[1:])

    plain = maps()
    expedite.patch(model, alpha=1, clusters=3)
    with counted_reconstructions(model) as calls:
        found = maps()
    assert len(calls) == 1
    assert [one.shape for one in found] == [one.shape for one in plain]
    # Rows and columns keep their places: what was changed is less than what mixing would change.
    change = (found[0] - plain[0]).norm()
    assert 0 < change < 0.7 * (plain[0].flip(1) - plain[0]).norm()
    expedite.unpatch(model)
    assert all(map(torch.equal, maps(), plain))
    assert open_frames(model) == 0


def test_what_cannot_be_right_is_refused() -> None:
    model = timm_mask_units()
    with pytest.raises(ExpediteError, match=r"alpha can be 0 to 1, 3, 5$"):
        expedite.patch(model, alpha=4, clusters=1)
    config = huggingface_mask_units().model.config
    with pytest.raises(ExpediteError, match="hands its blocks tokens row by row"):
        expedite.patch(hf.HieraBackbone(config), alpha=1, clusters=2)
    inner = huggingface_mask_units()
    expedite.patch(inner, alpha=1, clusters=2)
    with pytest.raises(ExpediteError, match="output_attentions=True was asked"):
        inner.model(images(), output_attentions=True)
    masked = hf.HieraModel(config, is_mae=True).eval()
    expedite.patch(masked, alpha=1, clusters=2)
    with pytest.raises(ExpediteError, match="clustering needs them all"):
        masked(images())
