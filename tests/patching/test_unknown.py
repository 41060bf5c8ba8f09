"""What a person is told about a model that no family knows."""

from typing import Any

import pytest
import timm
import torch
import torchvision  # type: ignore[import-untyped]
import transformers
from torch import nn

import expedite
from expedite.patching.unknown import explain

hf: Any = transformers


def layer(width: int = 16) -> nn.Module:
    return nn.TransformerEncoderLayer(width, 2, 32, batch_first=True)


class Mine(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(layer() for _ in range(depth))})
        self.decoder = nn.ModuleList(layer() for _ in range(2))


def test_blocks_like_a_vit_s_are_named_with_their_place() -> None:
    said = explain(Mine(6), ["A", "B"])
    assert said.endswith(
        "test_unknown.Mine: its 6 blocks of class torch.nn.modules.transformer."
        "TransformerEncoderLayer at 'encoder.layers' look like a ViT's, but the model is of no "
        "known family; known are A, B, and host= says where blocks that map (B, N, C) to the same "
        "are in any other"
    )


def test_a_stack_that_is_the_model_itself_is_found() -> None:
    assert "TransformerEncoderLayer at '' look like" in explain(
        nn.Sequential(*[layer() for _ in range(3)]), ["A"]
    )


def test_models_without_attention() -> None:
    for model in (nn.Linear(2, 2), nn.Sequential(), torchvision.models.squeezenet1_1()):
        assert "no blocks with attention were found; known are A, and host=" in explain(
            model, ["A"]
        )


def test_stages_of_growing_width() -> None:
    small = {"embed_dim": 12, "depths": (2, 2, 4, 2), "num_heads": (2, 2, 2, 2)}
    config = hf.SwinConfig(**{**small, "depths": [2, 2, 4, 2], "num_heads": [2, 2, 2, 2]})
    models: dict[str, nn.Module] = {
        "SwinTransformerBlock": timm.create_model("swin_tiny_patch4_window7_224", **small),  # type: ignore[arg-type]
        "SwinLayer": hf.SwinModel(config),
        "TransformerEncoderLayer": nn.Sequential(*map(layer, (12, 24, 48, 48, 96))),
    }
    for kind, model in models.items():
        said = explain(model, ["A"])
        assert f"{kind} come in stages of 12, 24, 48 and 96 channels" in said
        assert "host= takes blocks that are all of one width" in said


def test_towers_of_two_widths_are_no_stages() -> None:
    text = {"hidden_size": 8, "num_hidden_layers": 2, "intermediate_size": 8, "vocab_size": 9}
    picture = {"hidden_size": 16, "num_hidden_layers": 3, "intermediate_size": 8, "image_size": 32}
    heads = {"num_attention_heads": 2}
    config = hf.CLIPConfig(
        text_config={**text, **heads}, vision_config={**picture, **heads, "patch_size": 8}
    )
    said = explain(hf.CLIPModel(config), ["A"])
    assert "CLIPEncoderLayer at 'vision_model.encoder.layers'" in said


def test_parallel_attentions_inside_a_block_are_not_taken_for_blocks() -> None:
    from timm.models.vision_transformer import ParallelThingsBlock

    model = nn.Sequential(*[ParallelThingsBlock(16, 2) for _ in range(3)])
    assert "ParallelThingsBlock at ''" in explain(model, ["A"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("levit_128s", "timm.models.levit.LevitBlock come in stages; known are A"),
        ("botnet26t_256", "SelfAttnBlock at 'stages.3' work on maps, by convolutions; known"),
        ("edgenext_xx_small", "whose blocks with attention stand in no row; known are A"),
        ("davit_tiny", "ChannelBlock hold a convolution over the map ('0.cpe1.proj'), for which"),
        ("sam2_hiera_tiny", "MultiScaleBlock come in stages of 96, 192, 384 and 768 channels"),
        ("twins_svt_small", "hold a convolution over the map ('attn.sr'), for which clusters have"),
        ("pvt_v2_b0", "and host= takes blocks without one"),
        ("visformer_tiny", "timm.models.visformer.Block come in stages of 192 and 384 channels"),
    ],
)
def test_models_of_other_kinds(name: str, said: str) -> None:
    with torch.device("meta"):
        assert said in explain(timm.create_model(name), ["A"])


def test_what_makes_tokens_of_several_frames() -> None:
    with torch.device("meta"):
        model = torchvision.models.get_model("swin3d_t")
    said = "which makes tokens of several frames in a way that is not known; known are A"
    assert said in explain(model, ["A"])


def test_what_torch_fx_has_taken_apart() -> None:
    from torchvision.models.feature_extraction import (  # type: ignore[import-untyped]
        create_feature_extractor,
    )

    small = {"image_size": 8, "patch_size": 4, "num_layers": 2, "num_heads": 1}
    model = torchvision.models.VisionTransformer(**small, hidden_dim=8, mlp_dim=8)
    features = create_feature_extractor(model, ["encoder.layers.encoder_layer_0"])
    with pytest.raises(expedite.ExpediteError, match="where blocks are not called any more"):
        expedite.patch(features, alpha=1, clusters=1)


def test_places_of_attention_that_is_not_there_are_not_taken_for_it() -> None:
    """A decoder whose blocks could attend, around an encoder whose blocks do."""

    def stage(width: int) -> nn.Module:
        return nn.ModuleList(layer(width) for _ in range(2))

    class Decoded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            part = {"attention": nn.Identity(), "conv": nn.Conv2d(8, 8, 3), "norm": nn.LayerNorm(8)}
            self.decoder = nn.ModuleList(nn.ModuleDict(part) for _ in range(5))
            self.block1, self.block2 = stage(16), stage(32)

    assert "TransformerEncoderLayer come in stages of 16 and 32 channels" in explain(Decoded(), [])
