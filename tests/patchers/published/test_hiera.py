"""SAM 2's image encoder from its libraries, alone and in the models around it."""

from typing import Any

import pytest
import torch
import transformers

import expedite
from expedite import ExpediteError, Plan, Span
from expedite.operators import clustering
from tests.host_table import hidden_states
from tests.hosts import (
    counted_reconstructions,
    huggingface_hiera,
    images,
    open_frames,
    randomized,
    timm_hiera,
)
from tests.patching.test_oracles import HARD, blocky

hf: Any = transformers  # its configs take what their annotations do not show

pytestmark = pytest.mark.usefixtures("no_gradients")
encoders = pytest.mark.parametrize("make", [timm_hiera, huggingface_hiera])


@encoders
@pytest.mark.parametrize("settings", [{}, {"log_mass": False}, {"window_borders": False}])
def test_full_windows_without_the_shortcut_equal_the_plain_model(
    make: Any, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()
    plain = model(images())
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    for alpha, clusters in ((0, 8), (1, 8), (3, 4)):
        expedite.patch(model, alpha=alpha, clusters=clusters, **HARD, **settings)
        torch.testing.assert_close(model(images()), plain, rtol=2e-3, atol=2e-3)


def test_windows_that_the_border_cuts_short(monkeypatch: pytest.MonkeyPatch) -> None:
    # 19×14 tokens in windows of 8, 9×7 in windows of 4: the rest of an odd side is not pooled.
    model = timm_hiera()
    model.pos_embed_window = torch.nn.Parameter(model.pos_embed_window[..., :1, :1])
    x = images(2, 38, 28)
    plain = model(x)
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    for alpha, clusters in ((0, 8), (3, 4)):
        expedite.patch(model, alpha=alpha, clusters=clusters, **HARD)
        torch.testing.assert_close(model(x), plain, rtol=2e-3, atol=2e-3)


@encoders
def test_cells_of_equal_tokens_cluster_without_loss(make: Any) -> None:
    model = make(**({"image_size": [64, 64]} if make is huggingface_hiera else {}))
    for name, parameter in model.named_parameters():
        if "pos_embed" in name:
            parameter.zero_()
    x = blocky(blocky(images(2, 32, 32), 4), 2)  # constant over 4×4 tokens, 2×2 behind the pooling
    plain = model(x)
    expedite.patch(model, Plan((Span(0, 4), Span(3, 2)), **HARD))
    torch.testing.assert_close(model(x), plain, rtol=1e-3, atol=1e-3)
    # In the spans alone is anything saved: what pools ran on all tokens.
    assert expedite.describe(model).ran == (64, 64, 256, 16)


@encoders
def test_a_span_lies_between_the_blocks_that_pool(make: Any) -> None:
    model = make()
    with pytest.raises(ExpediteError, match=r"whose block 3 leads .*; alpha can be 0 to 1, 3$"):
        expedite.patch(model, alpha=2, clusters=2)
    with pytest.raises(ExpediteError, match="beta can be at most 2"):
        expedite.patch(model, alpha=0, beta=3, clusters=4)


def test_what_timm_shows_of_blocks_has_the_full_map() -> None:
    model = timm_hiera()
    every: dict[str, Any] = {"coarse": False, "intermediates_only": True}
    plain = model.forward_intermediates(images(), **every)
    expedite.patch(model, alpha=0, clusters=4)
    for arguments, count in (({}, 1), (every, 2), ({**every, "indices": [0]}, 1)):
        with counted_reconstructions(model) as calls:
            found = model.forward_intermediates(images(), **arguments)
        assert len(calls) == count
        if arguments is every:
            assert [one.shape for one in found] == [one.shape for one in plain]
            assert not torch.allclose(found[0], plain[0], atol=1e-2)
    assert open_frames(model) == 0


def test_hidden_states_have_the_full_map() -> None:
    model = huggingface_hiera().model
    plain = hidden_states(model, images())
    expedite.patch(model, alpha=1, clusters=4)
    found = hidden_states(model, images())
    assert [state.shape for state in found] == [state.shape for state in plain]
    with pytest.raises(ExpediteError, match="output_attentions=True was asked"):
        model(images(), output_attentions=True)
    expedite.unpatch(model)
    assert all(map(torch.equal, hidden_states(model, images()), plain))


def test_sam_2_is_patched_around_its_encoder() -> None:
    vision = hf.Sam2VisionConfig(
        backbone_config=hf.Sam2HieraDetConfig(
            hidden_size=16,
            embed_dim_per_stage=[16, 32, 64, 128],
            num_attention_heads_per_stage=[1, 2, 4, 8],
            blocks_per_stage=[1, 2, 4, 2],
            window_size_per_stage=[8, 4, 8, 4],
            global_attention_blocks=[5],
            image_size=[256, 256],
        ),
        backbone_channel_list=[128, 64, 32, 16],
        backbone_feature_sizes=[[64, 64], [32, 32], [16, 16]],
        fpn_hidden_size=32,
    )
    config = hf.Sam2Config(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 32, "image_size": 256},
        mask_decoder_config={
            "hidden_size": 32,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 32,
        },
    )
    torch.manual_seed(0)
    model = hf.Sam2Model(config).eval()
    randomized(model.vision_encoder.backbone)
    arguments = {"pixel_values": images(1, 256, 256), "input_points": torch.ones(1, 1, 1, 2) * 99}
    plain = model(**arguments).pred_masks
    expedite.patch(model, alpha=4, clusters=4)
    assert expedite.describe(model).path == "vision_encoder.backbone"
    assert expedite.describe(model).kept == ((8, 8),)
    found = model(**arguments).pred_masks
    assert found.shape == plain.shape
    assert not torch.allclose(found, plain, rtol=1e-2, atol=1e-6)
    expedite.unpatch(model)
    assert torch.equal(model(**arguments).pred_masks, plain)
