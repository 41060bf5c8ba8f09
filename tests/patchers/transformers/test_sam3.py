"""SAM 3's image encoder, alone and in the models that are built around it."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import expedite
from expedite import ExpediteError
from expedite.measure.flops import count_flops
from expedite.operators import clustering
from expedite.patchers.transformers.sam3 import find_host
from expedite.patching.host import Cells
from tests.hosts import (
    counted_reconstructions,
    huggingface_sam3,
    images,
    open_frames,
    randomized,
)
from tests.patching.test_oracles import HARD

hf: Any = transformers  # its configs take what their annotations do not show

pytestmark = pytest.mark.usefixtures("no_gradients")


# Windows that divide the map of 8×8, that leave a border of 2, and that leave one of 3.
@pytest.mark.parametrize(
    ("window", "settings"),
    [(4, {}), (6, {}), (5, {}), (5, {"log_mass": False}), (5, {"window_borders": False})],
)
def test_full_windows_without_the_shortcut_equal_the_plain_model(
    settings: dict[str, Any], window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = huggingface_sam3(patch_size=4, window_size=window)
    plain = model(images())
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    for alpha, beta in ((0, None), (1, 2)):
        expedite.patch(model, alpha=alpha, beta=beta, clusters=window, **HARD, **settings)
        torch.testing.assert_close(model(images()), plain, rtol=2e-3, atol=2e-3)


def cells_of(window: int, places: Tensor) -> Cells:
    """Every token of 8×8 a cluster, which stands at one of `places`, (1, 8, 8, 2)."""
    size = window, window
    return Cells((8, 8), size, (8, 8), size, True, False, None, False, places)


@pytest.mark.parametrize("index", [0, 1], ids=["windows of 6", "everywhere"])
def test_tokens_in_another_order_attend_as_their_places_say(index: int) -> None:
    """Rows and columns swapped in windows of 6×6 (and of 2×2 at the border), places with them."""
    model = huggingface_sam3(patch_size=4, window_size=6).model
    host = find_host(model)
    assert host is not None and host.run is not None
    block = host.blocks[index]
    x = torch.randn(1, 8, 8, 32)
    places = torch.stack(torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij"), -1)
    order = torch.tensor([4, 2, 0, 5, 1, 3, 7, 6])
    mixed, moved = x[:, order][:, :, order], places[order][:, order][None]
    found = host.run(block, mixed, cells_of(6, moved), {})
    expected = block(x)[:, order][:, :, order]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    unmoved = host.run(block, mixed, cells_of(6, places[None]), {})
    assert not torch.allclose(unmoved, expected, rtol=1e-2, atol=1e-2)


def test_what_a_call_asks_for_has_the_full_map() -> None:
    model = huggingface_sam3().model
    plain = model(images(), output_hidden_states=True)
    expedite.patch(model, alpha=1, clusters=4)
    with counted_reconstructions(model) as calls:
        found = model(images(), output_hidden_states=True)
        model(images())
    assert len(calls) == 3 + 1
    shapes = [[state.shape for state in output.hidden_states] for output in (found, plain)]
    assert shapes[0] == shapes[1]
    assert torch.equal(found.hidden_states[1], plain.hidden_states[1])
    assert not torch.allclose(found.hidden_states[2], plain.hidden_states[2], atol=1e-2)
    with pytest.raises(ExpediteError, match="output_attentions=True was asked"):
        model(images(), output_attentions=True)
    assert open_frames(model) == 0
    expedite.unpatch(model)
    again = model(images(), output_hidden_states=True)
    assert all(map(torch.equal, again.hidden_states, plain.hidden_states))


def test_positions_of_a_transposed_map_are_refused() -> None:
    model = huggingface_sam3(image_size=[32, 64])
    with pytest.raises(ExpediteError, match="for a map of 16×32 tokens was found"):
        expedite.patch(model, alpha=1, clusters=4)


def parts() -> dict[str, Any]:
    """Configurations of a small SAM 3 for images of 64×64."""
    tower: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    tower |= {"intermediate_size": 64, "image_size": 64, "patch_size": 4, "window_size": 8}
    tower |= {"pretrain_image_size": 32, "global_attn_indexes": [1, 3]}
    sizes = [[64, 64], [32, 32], [16, 16]]
    vision = hf.Sam3VisionConfig(
        backbone_config=hf.Sam3ViTConfig(**tower),
        fpn_hidden_size=32,
        backbone_feature_sizes=sizes,
    )
    small = {"hidden_size": 32, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 99}
    text |= {"intermediate_size": 64, "projection_dim": 32, "eos_token_id": 98}
    return {
        "vision_config": vision,
        "text_config": text,
        "geometry_encoder_config": small,
        "detr_encoder_config": small,
        "detr_decoder_config": {**small, "num_queries": 5},
        "mask_decoder_config": {"hidden_size": 32, "num_attention_heads": 2},
    }


def test_the_detector_is_patched_around_its_encoder() -> None:
    torch.manual_seed(0)
    model = hf.Sam3Model(hf.Sam3Config(**parts())).eval()
    randomized(model.vision_encoder.backbone)
    arguments = {"pixel_values": images(1, 64, 64), "input_ids": torch.tensor([[1, 2, 98]])}
    plain, before = model(**arguments), count_flops(model.vision_encoder, images(1, 64, 64)).total
    expedite.patch(model, alpha=1, clusters=4)
    description = expedite.describe(model)
    assert description.path == "vision_encoder.backbone"
    assert description.kept == ((8, 8),)
    found, after = model(**arguments), count_flops(model.vision_encoder, images(1, 64, 64)).total
    assert found.pred_masks.shape == plain.pred_masks.shape
    assert not torch.equal(found.pred_masks, plain.pred_masks)
    assert after < before
    expedite.unpatch(model)
    assert torch.equal(model(**arguments).pred_masks, plain.pred_masks)
