"""The image tower of open_clip: what it pools, its intermediates, both oracles."""

from typing import Any

import pytest
import torch
from torch import Tensor

import expedite
from expedite import ExpediteError
from expedite.operators import clustering
from tests.hosts import counted_reconstructions, images, without_positions
from tests.open_clip_tower import open_clip_tower
from tests.patching.test_oracles import HARD, blocky

# With how many grids a call reconstructs.
CHANGES: list[tuple[dict[str, Any], int]] = [
    ({}, 0),
    ({"pool_type": "avg"}, 0),
    ({"pool_type": "avg", "final_ln_after_pool": True}, 1),
    ({"output_tokens": True}, 1),
]
changes = pytest.mark.parametrize(("changes", "count"), CHANGES)

pytestmark = pytest.mark.usefixtures("no_gradients")


def everything(model: Any, x: Tensor) -> list[Tensor]:
    output, found = model(x), model.forward_intermediates(x)
    outputs = list(output) if isinstance(output, tuple) else [output]
    alone = model.forward_intermediates(x, [0, -1], intermediates_only=True)
    taps = [*found["image_intermediates"], *alone["image_intermediates"]]
    return [*outputs, found["image"], *taps]


@changes
def test_patches_and_returns_to_what_it_was(changes: dict[str, Any], count: int) -> None:
    model, x = open_clip_tower(**changes), images()
    plain = everything(model, x)
    expedite.patch(model, alpha=1, clusters=4)
    patched = everything(model, x)
    assert [t.shape for t in patched] == [t.shape for t in plain]
    assert not torch.allclose(patched[0], plain[0], rtol=1e-3, atol=1e-3)
    with counted_reconstructions(model) as calls:
        model(x)
    assert len(calls) == count
    assert all(map(torch.equal, everything(expedite.unpatch(model), x), plain))


@changes
def test_the_full_grid_without_the_shortcut_equals_the_plain_model(
    changes: dict[str, Any], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = open_clip_tower(**changes), images()
    plain = everything(model, x)
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    for alpha, beta in ((0, None), (1, 2)):
        expedite.patch(model, alpha=alpha, beta=beta, clusters=8, **HARD)
        torch.testing.assert_close(everything(model, x), plain, rtol=2e-3, atol=2e-3)


@changes
def test_cells_of_equal_tokens_cluster_without_loss(changes: dict[str, Any], count: int) -> None:
    model, x = without_positions(open_clip_tower(**changes)), blocky(images(), 4)
    plain = everything(model, x)
    expedite.patch(model, alpha=1, clusters=4, **HARD)
    torch.testing.assert_close(everything(model, x), plain, rtol=2e-3, atol=2e-3)


def test_blocks_that_take_images_along_another_axis_are_something_else() -> None:
    model = open_clip_tower()
    model.transformer.batch_first = False
    with pytest.raises(ExpediteError, match="of no known family"):
        expedite.patch(model, alpha=1, clusters=4)
