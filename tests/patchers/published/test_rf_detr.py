"""RF-DETR's backbone of the package rfdetr."""

import pytest

import expedite
from tests.host_table import called, hidden_states
from tests.hosts import counted_reconstructions, images, randomized
from tests.patchers.promises import (
    Outputs,
    clusters_without_loss,
    equals_the_plain_model,
    returns_to_what_it_was,
)
from tests.patching.test_oracles import blocky
from tests.published_rf_detr import WindowedDinov2WithRegistersBackbone as Backbone

pytestmark = pytest.mark.usefixtures("no_gradients")
outputs = pytest.mark.parametrize("outputs", [called, hidden_states])


@outputs
def test_it_is_patched_and_unpatched(outputs: Outputs) -> None:
    returns_to_what_it_was(randomized(Backbone()), images(), outputs, alpha=1, clusters=(2, 3))


@outputs
def test_the_full_grid_without_the_shortcut_equals_the_plain_model(outputs: Outputs) -> None:
    equals_the_plain_model(randomized(Backbone()), images(), outputs, alpha=1, clusters=4)


def test_cells_of_equal_tokens_cluster_without_loss() -> None:
    model, x = randomized(Backbone()), blocky(images(), 4)
    clusters_without_loss(model, x, hidden_states, alpha=0, clusters=2)


def test_each_window_is_clustered_and_only_feature_maps_are_reconstructed() -> None:
    model = expedite.patch(randomized(Backbone()), alpha=1, clusters=2)
    assert expedite.describe(model).grid == (4, 4)
    with counted_reconstructions(model) as calls:
        model(images())
    assert calls == [4, 4]
