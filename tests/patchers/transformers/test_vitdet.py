"""ViTDet of transformers: windows and global blocks on maps, convolutions behind some blocks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

import expedite
from expedite import ExpediteError
from expedite.operators import clustering
from tests.hosts import (
    counted_reconstructions,
    huggingface_vitdet,
    images,
    open_frames,
    randomized,
    without_positions,
)
from tests.patching.test_oracles import HARD, blocky

hf: Any = transformers  # its configs take what their annotations do not show
STAGES = ["stage1", "stage4"]

pytestmark = pytest.mark.usefixtures("no_gradients")


# Windows that divide the map of 8×8, that leave a border of 3, and blocks without any.
@pytest.mark.parametrize(
    ("window", "changes", "settings"),
    [
        (4, {}, {}),
        (5, {"residual_block_indices": [1, 2]}, {}),
        (5, {"use_relative_position_embeddings": False}, {"log_mass": False}),
        (0, {"window_block_indices": []}, {}),
    ],
)
def test_full_windows_without_the_shortcut_equal_the_plain_model(
    window: int, changes: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = huggingface_vitdet(patch_size=4, window_size=window, **changes)
    plain = model(images())
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    for alpha, beta in ((0, None), (1, 2)):
        expedite.patch(model, alpha=alpha, beta=beta, clusters=window or 8, **HARD, **settings)
        torch.testing.assert_close(model(images()), plain, rtol=2e-3, atol=2e-3)


def test_full_windows_on_maps_of_other_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    # The global blocks' tables are resized, as the model itself does.
    model, x = huggingface_vitdet(patch_size=4, window_size=4), images(3, 24, 40)
    plain = model(x)
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    expedite.patch(model, alpha=0, clusters=4, **HARD)
    torch.testing.assert_close(model(x), plain, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("window", [4, 6])
def test_cells_of_equal_tokens_cluster_without_loss(window: int) -> None:
    model = without_positions(huggingface_vitdet(patch_size=4, window_size=window))
    x = blocky(images(), 4)
    plain = model(x)
    expedite.patch(model, alpha=0, clusters=window // 2, **HARD)
    torch.testing.assert_close(model(x), plain, rtol=1e-3, atol=1e-3)


def test_convolutions_see_tokens_as_far_apart_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal cells stay right up to the convolutions, which work on the full grid."""
    model = without_positions(huggingface_vitdet(patch_size=4, residual_block_indices=[3])).model
    x = blocky(images(), 4)
    block = model.encoder.layer[3]
    before: list[torch.Tensor] = []
    handle = block.residual.register_forward_pre_hook(lambda module, args: before.append(args[0]))
    model(x)
    expedite.patch(model, alpha=0, clusters=4, **HARD)
    model(x)
    handle.remove()
    torch.testing.assert_close(before[1], before[0], rtol=1e-3, atol=1e-3)


def backbone(**changes: Any) -> Any:
    return hf.VitDetBackbone(huggingface_vitdet(out_features=STAGES, **changes).model.config)


def vitmatte() -> Any:
    """On 8×8 tokens of 16 pixels, as its decoder wants them, in windows of 4×4."""
    sizes: dict[str, Any] = {"image_size": 128, "pretrain_image_size": 128, "patch_size": 16}
    tower = backbone(**sizes, num_channels=4, window_size=4, residual_block_indices=[1, 3]).config
    streams = {"convstream_hidden_sizes": [8, 8, 8], "fusion_hidden_sizes": [16] * 4}
    config = hf.VitMatteConfig(backbone_config=tower, hidden_size=32, **streams)
    return hf.VitMatteForImageMatting(config)


def upernet() -> Any:
    sizes = {"hidden_size": 16, "num_labels": 4, "pool_scales": [1, 2]}
    config = hf.UperNetConfig(backbone_config=backbone().config, use_auxiliary_head=False, **sizes)
    return hf.UperNetForSemanticSegmentation(config)


# With the shape of their images.
USERS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "VitDetBackbone": (backbone, (2, 3, 32, 32)),
    "ViTMatte": (vitmatte, (1, 4, 128, 128)),
    "UperNet (ViTDet)": (upernet, (2, 3, 32, 32)),
}


@pytest.mark.parametrize("name", list(USERS))
def test_what_is_around_it_reads_the_full_map(name: str) -> None:
    make, shape = USERS[name]
    torch.manual_seed(0)
    model, x = randomized(make()), torch.randn(shape)
    plain = flat(model(x))
    expedite.patch(model, alpha=1, clusters=2)
    found = flat(model(x))
    assert [t.shape for t in found] == [t.shape for t in plain]
    assert not torch.allclose(found[-1], plain[-1], rtol=1e-3)
    assert all(map(torch.equal, flat(expedite.unpatch(model)(x)), plain))


def flat(output: Any) -> list[torch.Tensor]:
    (values,) = output.to_tuple()[:1]
    return [values] if isinstance(values, torch.Tensor) else list(values)


def test_what_a_call_asks_for_has_the_full_map() -> None:
    model = huggingface_vitdet().model
    plain = model(images(), output_hidden_states=True).hidden_states
    expedite.patch(model, alpha=1, clusters=4)
    with counted_reconstructions(model) as calls:
        found = model(images(), output_hidden_states=True).hidden_states
        model(images())
    assert len(calls) == 3 + 1
    assert [state.shape for state in found] == [state.shape for state in plain]
    assert torch.equal(found[1], plain[1])
    assert not torch.allclose(found[2], plain[2], atol=1e-2)
    with pytest.raises(ExpediteError, match="output_attentions=True was asked"):
        model(images(), output_attentions=True)
    assert open_frames(model) == 0


def test_a_loop_over_its_blocks_runs_on_clusters() -> None:
    model = huggingface_vitdet().model
    expedite.patch(model, alpha=1, clusters=4)
    expected = model(images()).last_hidden_state
    tokens = model.embeddings(images())
    for block in model.encoder.layer:
        (tokens,) = block(tokens)
    torch.testing.assert_close(tokens, expected, rtol=1e-3, atol=1e-3)


def test_gradients_of_checkpointed_blocks_equal_those_of_others() -> None:
    model = huggingface_vitdet().model
    expedite.patch(model, alpha=1, clusters=4)
    found = []
    with torch.enable_grad():
        for _ in range(2):
            model.zero_grad()
            model.train()(images()).last_hidden_state.square().mean().backward()
            found.append(model.encoder.layer[2].mlp.fc1.weight.grad.clone())
            model.activation_checkpointing_enable()
    torch.testing.assert_close(found[1], found[0])
