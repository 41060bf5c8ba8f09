"""DINOv2 and DINOv3 as published: every way of calling, chunks, registers, what is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import expedite
from expedite import ExpediteError
from expedite.operators import clustering
from tests.hosts import counted_reconstructions, images, timm_vit, without_positions
from tests.patching.test_oracles import HARD, blocky
from tests.published_dino import (
    DinoVisionTransformer,
    published_depth_anything,
    published_dino,
    published_rotary_dino,
)

MODELS: dict[str, Callable[[], Any]] = {
    "DINOv2": published_dino,
    "registers in chunks": lambda: published_dino(registers=3, chunks=2),
    "DINOv3": published_rotary_dino,
}
names = pytest.mark.parametrize("name", list(MODELS))
plain_names = pytest.mark.parametrize("name", ["DINOv2", "registers in chunks"])

pytestmark = pytest.mark.usefixtures("no_gradients")


def everything(model: Any, x: Tensor) -> list[Tensor]:
    """Whatever can be read of a model by all ways of calling it."""
    features = model.forward_features(x)
    trained = model(x, is_training=True)
    taps = model.get_intermediate_layers(x, n=[0, 2], return_class_token=True)
    last = model.get_intermediate_layers(x, n=2, reshape=True)
    tensors = [value for value in (*features.values(), *trained.values()) if value is not None]
    return [model(x), *tensors, *(part for tap in taps for part in tap), *last]


def test_the_replica_is_what_timm_runs() -> None:
    ours, theirs = published_dino(), timm_vit(init_values=1.0, mlp_ratio=2, num_classes=0)
    weights = {name.replace("mask_token", ""): value for name, value in ours.state_dict().items()}
    theirs.load_state_dict({name: value for name, value in weights.items() if name})
    torch.testing.assert_close(ours(images()), theirs(images()), rtol=1e-4, atol=1e-4)


@names
def test_patches_and_returns_to_what_it_was(name: str) -> None:
    model, x = MODELS[name](), images(2, 24, 40)
    plain = everything(model, x)
    expedite.patch(model, alpha=1, clusters=(3, 4))
    patched = everything(model, x)
    assert [t.shape for t in patched] == [t.shape for t in plain]
    assert not torch.allclose(patched[0], plain[0], rtol=1e-3, atol=1e-3)
    assert all(map(torch.equal, everything(expedite.unpatch(model), x), plain))


@names
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_the_full_grid_without_the_shortcut_equals_the_plain_model(
    name: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = MODELS[name](), images(2, *size)
    plain = everything(model, x)
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    for alpha, beta in ((0, None), (1, 2)):
        grid = size[0] // 4, size[1] // 4
        expedite.patch(model, alpha=alpha, beta=beta, clusters=grid, **HARD)
        for found, expected in zip(everything(model, x), plain, strict=True):
            torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


@plain_names
def test_cells_of_equal_tokens_cluster_without_loss(name: str) -> None:
    model, x = without_positions(MODELS[name]()), blocky(images(), 4)
    plain = everything(model, x)
    expedite.patch(model, alpha=1, clusters=4, **HARD)
    for found, expected in zip(everything(model, x), plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


@names
def test_taps_alone_are_reconstructed(name: str) -> None:
    model = expedite.patch(MODELS[name](), alpha=1, clusters=4)
    calls_of: list[tuple[Callable[[], Any], int]] = [
        (lambda: model(images()), 0),  # the class token is read
        (lambda: model(images(), is_training=True), 1),
        (lambda: model.forward_features(images()), 1),
        (lambda: model.get_intermediate_layers(images(), n=2), 2),
        (lambda: model.get_intermediate_layers(images(), n=[0, 2]), 1),
    ]
    for call, count in calls_of:
        with counted_reconstructions(model) as calls:
            call()
        assert len(calls) == count


def test_inside_depth_anything() -> None:
    model, x = published_depth_anything(), images(2, 24, 40)
    plain = model(x)
    expedite.patch(model, alpha=1, clusters=(3, 4))
    assert expedite.describe(model).path == "pretrained"
    with counted_reconstructions(model) as calls:
        assert model(x).shape == plain.shape
    assert len(calls) == 3
    assert torch.equal(expedite.unpatch(model)(x), plain)


@names
def test_masks_of_training_and_lists_of_one(name: str) -> None:
    model, x = MODELS[name](), images()
    masks = torch.zeros(2, 64, dtype=torch.bool)
    masks[:, :10] = True
    for patched in (False, True):
        if patched:
            expedite.patch(model, alpha=1, clusters=4)
        (one,) = model.forward_features([x], [None])
        assert torch.equal(one["x_prenorm"], model.forward_features(x)["x_prenorm"])
        assert model.forward_features(x, masks)["x_norm_patchtokens"].shape == (2, 64, 32)


@names
def test_images_of_several_sizes_in_one_call_are_refused(name: str) -> None:
    model = expedite.patch(MODELS[name](), alpha=1, clusters=4)
    with pytest.raises(ExpediteError, match="call the model once for each size"):
        model.forward_features([images(), images(2, 16, 16)], [None, None])


def test_methods_with_other_arguments_are_not_taken_for_the_published_ones() -> None:
    class Other(DinoVisionTransformer):
        def get_intermediate_layers(self, x: Tensor, n: Any, cameras: Any) -> Any:  # type: ignore[override]
            return cameras

    with pytest.raises(ExpediteError, match="of no known family"):
        expedite.patch(Other(), alpha=1, clusters=4)
