"""Small models of every known host, for tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
import torchvision  # type: ignore[import-untyped]
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from expedite.models.adapter_config import AdapterConfig
from expedite.models.dpt import DPT, DPTConfig
from expedite.models.meta import META
from expedite.models.segmenter import Segmenter, SegmenterConfig
from expedite.models.vit_adapter import ViTAdapter
from expedite.patching.hooks import find_sessions

Model = TypeVar("Model", bound=nn.Module)


def timm_vit(**changes: Any) -> Any:
    """Four blocks of width 32 on 8×8 tokens of 4 pixels; of any type, as timm hides its own."""
    arguments = {"img_size": 32, "patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2}
    torch.manual_seed(0)
    model = VisionTransformer(**{**arguments, "num_classes": 10, **changes})
    return randomized(model)


def timm_eva(**changes: Any) -> Any:
    """Four blocks of width 32 on 8×8 tokens of 4 pixels, with rotary positions and no others."""
    from timm.models.eva import Eva

    arguments = {"img_size": 32, "patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2}
    rotary = {"use_rot_pos_emb": True, "use_abs_pos_emb": False, "num_classes": 10}
    torch.manual_seed(0)
    return randomized(Eva(**{**arguments, **rotary, **changes}))


def timm_beit(**changes: Any) -> Any:
    """Four blocks of width 32 on 8×8 tokens of 4 pixels, relative biases of each and of all."""
    from timm.models.beit import Beit

    arguments = {"img_size": 32, "patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2}
    biases = {"use_rel_pos_bias": True, "use_shared_rel_pos_bias": True}
    torch.manual_seed(0)
    return randomized(
        Beit(**{**arguments, **biases, "num_classes": 10, "head_init_scale": 0, **changes})
    )


def torchvision_vit(**changes: Any) -> Any:
    """Four blocks of width 32 on 8×8 tokens of 4 pixels."""
    arguments = {"image_size": 32, "patch_size": 4, "num_layers": 4, "num_heads": 2}
    sizes = {"hidden_dim": 32, "mlp_dim": 64, "num_classes": 10}
    torch.manual_seed(0)
    return randomized(torchvision.models.VisionTransformer(**{**arguments, **sizes, **changes}))


class DepthViT(nn.Module):
    """Depth (B, h, w) in metres from the tokens of a ViT, one a token."""

    def __init__(self, vit: Any) -> None:
        super().__init__()
        self.vit = vit
        self.head = nn.Linear(vit.embed_dim, 1)

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.head(self.vit(images)).squeeze(-1)  # (B, N)
        return 20 * tokens.sigmoid().reshape(-1, *self.vit.patch_embed.grid_size)


def depth_vit(**changes: Any) -> DepthViT:
    """Four blocks of width 32 on 8×8 tokens of 4 pixels."""
    plain = {"num_classes": 0, "class_token": False, "global_pool": ""}
    return randomized(DepthViT(timm_vit(**{**plain, **changes})))


class Tokens(nn.Module):
    """A model of transformers that returns its tokens and nothing else."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.model(images).last_hidden_state
        return tokens


def huggingface_vit() -> Tokens:
    """Four blocks of width 32 on 8×8 tokens of 4 pixels."""
    from transformers import Dinov2Config, Dinov2Model

    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    config = Dinov2Config(**sizes, mlp_ratio=2, image_size=32, patch_size=4)
    torch.manual_seed(0)
    return randomized(Tokens(Dinov2Model(config)))


def huggingface_beit() -> Tokens:
    """Four blocks of width 32 on 8×8 tokens of 4 pixels, relative biases of each and of all."""
    from transformers import BeitConfig, BeitModel

    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 64, "image_size": 32, "patch_size": 4}
    sizes |= {"use_relative_position_bias": True, "use_shared_relative_position_bias": True}
    torch.manual_seed(0)
    return randomized(Tokens(BeitModel(BeitConfig(**sizes))))


def segment_anything_sam(**changes: Any) -> Any:
    """Four blocks of width 32 on 16×16 tokens of 2 pixels, two of them with windows of 8×8."""
    from segment_anything.modeling import ImageEncoderViT

    arguments = {"img_size": 32, "patch_size": 2, "embed_dim": 32, "depth": 4, "num_heads": 2}
    windows = {"window_size": 8, "global_attn_indexes": (1, 3), "use_rel_pos": True}
    torch.manual_seed(0)
    return randomized(ImageEncoderViT(**{**arguments, **windows, "out_chans": 16, **changes}))


def timm_sam(**changes: Any) -> Any:
    """Four blocks of width 32 on 16×16 tokens of 2 pixels, two of them with windows of 8×8."""
    from timm.models.vision_transformer_sam import VisionTransformerSAM

    arguments = {"img_size": 32, "patch_size": 2, "embed_dim": 32, "depth": 4, "num_heads": 2}
    windows = {"window_size": 8, "global_attn_indexes": (1, 3), "use_rel_pos": True}
    head = {"neck_chans": 16, "num_classes": 10}
    torch.manual_seed(0)
    return randomized(VisionTransformerSAM(**{**arguments, **windows, **head, **changes}))


def huggingface_sam(**changes: Any) -> Tokens:
    """Four blocks of width 32 on 16×16 tokens of 2 pixels, two of them with windows of 8×8."""
    from transformers import SamVisionConfig, SamVisionModel

    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    windows = {"window_size": 8, "global_attn_indexes": [1, 3], "output_channels": 16}
    arguments = {**sizes, **windows, "mlp_dim": 64, "image_size": 32, "patch_size": 2}
    torch.manual_seed(0)
    return randomized(Tokens(SamVisionModel(SamVisionConfig(**{**arguments, **changes}))))


def huggingface_sam3(**changes: Any) -> Tokens:
    """Four blocks of width 32 on 16×16 tokens of 2 pixels, two of them with windows of 8×8."""
    from transformers import Sam3ViTConfig, Sam3ViTModel

    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    windows = {"window_size": 8, "global_attn_indexes": [1, 3], "layer_scale_init_value": None}
    images = {"image_size": 32, "patch_size": 2, "pretrain_image_size": 16}
    arguments = {**sizes, **windows, **images, "intermediate_size": 64}
    torch.manual_seed(0)
    return randomized(Tokens(Sam3ViTModel(Sam3ViTConfig(**{**arguments, **changes}))))


def huggingface_vitdet(**changes: Any) -> Tokens:
    """Four blocks of width 32 on 16×16 tokens of 2 pixels, two of them with windows of 8×8."""
    from transformers import VitDetConfig, VitDetModel

    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    windows = {"window_size": 8, "window_block_indices": [0, 2], "mlp_ratio": 2}
    images = {"image_size": 32, "patch_size": 2, "pretrain_image_size": 32}
    arguments = {**sizes, **windows, **images, "use_relative_position_embeddings": True}
    torch.manual_seed(0)
    return randomized(Tokens(VitDetModel(VitDetConfig(**{**arguments, **changes}))))


# Two blocks of width 32 on 16×16 tokens of 2 pixels, and on 8×8 of width 64 one behind that which
# pools, with windows of 8×8 and 4×4; the second block attends everywhere.
def timm_hiera(**changes: Any) -> Any:
    """`HieraDet` of SAM 2: four blocks, of which the third pools."""
    from timm.models.hieradet_sam2 import HieraDet

    arguments: dict[str, Any] = {"patch_size": (2, 2), "embed_dim": 32, "num_heads": 2}
    stages = {"stages": (2, 2), "window_spec": (8, 4), "q_pool": 1, "global_att_blocks": (1,)}
    torch.manual_seed(0)
    return randomized(HieraDet(**{**arguments, **stages, "num_classes": 10, **changes}))


def huggingface_hiera(**changes: Any) -> Tokens:
    """SAM 2's encoder: four blocks, of which the third pools."""
    from transformers import Sam2HieraDetConfig
    from transformers.models.sam2.modeling_sam2 import Sam2HieraDetModel

    stages: dict[str, Any] = {"blocks_per_stage": [2, 2], "embed_dim_per_stage": [32, 64]}
    stages |= {"num_attention_heads_per_stage": [2, 4], "window_size_per_stage": [8, 4]}
    stages |= {"num_query_pool_stages": 1, "global_attention_blocks": [1], "hidden_size": 32}
    sizes: dict[str, Any] = {
        "image_size": [32, 32],
        "patch_kernel_size": [2, 2],
        "patch_stride": [2, 2],
    }
    sizes |= {"patch_padding": [0, 0], "num_attention_heads": 2}
    torch.manual_seed(0)
    return randomized(
        Tokens(Sam2HieraDetModel(Sam2HieraDetConfig(**{**stages, **sizes, **changes})))
    )


# Two blocks of width 32 on 16×16 tokens of 2 pixels in units of 4×4, two of width 64 on 8×8, of
# which the first pools, and two of width 128 on 4×4, likewise, that attend everywhere.
def timm_mask_units(**changes: Any) -> Any:
    """`Hiera`, whose tokens stand in the order of mask units."""
    from timm.models.hiera import Hiera

    arguments: dict[str, Any] = {"img_size": (32, 32), "embed_dim": 32, "num_heads": 2}
    stages = {"stages": (2, 2, 2), "q_pool": 2, "mask_unit_size": (4, 4), "num_classes": 10}
    patches = {"patch_kernel": (2, 2), "patch_stride": (2, 2), "patch_padding": (0, 0)}
    units = {"mask_unit_attn": (True, True, False)}
    torch.manual_seed(0)
    return randomized(Hiera(**{**arguments, **stages, **patches, **units, **changes}))


def huggingface_mask_units(**changes: Any) -> Tokens:
    """`HieraModel`, whose tokens stand in the order of mask units."""
    from transformers import HieraConfig, HieraModel

    stages: dict[str, Any] = {"depths": [2, 2, 2], "num_query_pool": 2, "num_heads": [2, 4, 8]}
    units = {"masked_unit_size": [4, 4], "masked_unit_attention": [True, True, False]}
    sizes = {"image_size": [32, 32], "patch_size": [2, 2], "patch_stride": [2, 2]}
    config = HieraConfig(
        **{**stages, **units, **sizes, "patch_padding": [0, 0], "embed_dim": 32, **changes}
    )
    torch.manual_seed(0)
    return randomized(Tokens(HieraModel(config)))


def timm_swin(any_size: bool = False, **changes: Any) -> Any:
    """Four blocks of width 32 on 16×16 tokens of 2 pixels and two on 8×8, with windows of 8×8."""
    from timm.models.swin_transformer import SwinTransformer

    arguments: dict[str, Any] = {"img_size": 32, "patch_size": 2, "embed_dim": 32}
    stages = {"depths": (4, 2), "num_heads": (2, 4), "window_size": 8, "num_classes": 10}
    size = {"strict_img_size": not any_size}
    torch.manual_seed(0)
    return randomized(SwinTransformer(**{**arguments, **stages, **size, **changes}))


def timm_swinv2(any_size: bool = False, **changes: Any) -> Any:
    """Four blocks of width 32 on 16×16 tokens of 2 pixels and two on 8×8, with windows of 8×8."""
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    arguments: dict[str, Any] = {"img_size": 32, "patch_size": 2, "embed_dim": 32}
    stages = {"depths": (4, 2), "num_heads": (2, 4), "window_size": 8, "num_classes": 10}
    size = {"strict_img_size": not any_size}
    torch.manual_seed(0)
    return randomized(SwinTransformerV2(**{**arguments, **stages, **size, **changes}))


def timm_swinv2_cr(any_size: bool = False, **changes: Any) -> Any:
    """Four blocks of width 32 on 16×16 tokens of 2 pixels and two on 8×8, with windows of 8×8."""
    from timm.models.swin_transformer_v2_cr import SwinTransformerV2Cr

    arguments: dict[str, Any] = {"img_size": 32, "patch_size": 2, "embed_dim": 32}
    stages = {"depths": (4, 2), "num_heads": (2, 4), "window_size": 8, "num_classes": 10}
    more = {"strict_img_size": not any_size, "extra_norm_period": 2}
    torch.manual_seed(0)
    return randomized(SwinTransformerV2Cr(**{**arguments, **stages, **more, **changes}))


def torchvision_swin(any_size: bool = True, window_size: int = 8, **changes: Any) -> Any:
    """Four blocks of width 32 on 16×16 tokens of 2 pixels and two on 8×8, with windows of 8×8."""
    arguments = {"patch_size": [2, 2], "embed_dim": 32, "depths": [4, 2], "num_heads": [2, 4]}
    arguments |= {"window_size": [window_size] * 2, "num_classes": 10}
    torch.manual_seed(0)
    return randomized(torchvision.models.SwinTransformer(**{**arguments, **changes}))


def torchvision_swinv2(**changes: Any) -> Any:
    """Four blocks of width 32 on 16×16 tokens of 2 pixels and two on 8×8, with windows of 8×8."""
    library = torchvision.models.swin_transformer
    blocks = {"block": library.SwinTransformerBlockV2, "downsample_layer": library.PatchMergingV2}
    return torchvision_swin(**blocks, **changes)


def huggingface_swin(any_size: bool = True, **changes: Any) -> Tokens:
    """Four blocks of width 32 on 16×16 tokens of 2 pixels and two on 8×8, with windows of 8×8."""
    from transformers import SwinConfig, SwinModel

    torch.manual_seed(0)
    return randomized(Tokens(SwinModel(SwinConfig(**{**SWIN, **changes}))))


def huggingface_swinv2(any_size: bool = True, **changes: Any) -> Tokens:
    """Four blocks of width 32 on 16×16 tokens of 2 pixels and two on 8×8, with windows of 8×8."""
    from transformers import Swinv2Config, Swinv2Model

    torch.manual_seed(0)
    return randomized(Tokens(Swinv2Model(Swinv2Config(**{**SWIN, **changes}))))


# Of the models of transformers.
SWIN: dict[str, Any] = {"image_size": 32, "patch_size": 2, "embed_dim": 32}
SWIN |= {"depths": [4, 2], "num_heads": [2, 4], "window_size": 8}


def segmenter(**changes: Any) -> Segmenter:
    """Four blocks of width 64 on 8×8 tokens of 4 pixels, two blocks in the decoder."""
    arguments = {"image_size": (32, 32), "patch_size": 4, "d_model": 64, "n_heads": 2}
    torch.manual_seed(0)
    model = Segmenter(SegmenterConfig(**{**arguments, "n_layers": 4, "n_cls": 5, **changes}))
    return randomized(model)


def dpt(**changes: Any) -> DPT:
    """Four blocks of width 32 on 8×8 tokens of 16 pixels, each read by the head."""
    arguments: dict[str, Any] = {"width": 32, "heads": 2, "layers": 4, "taps": (0, 1, 2, 3)}
    sizes: dict[str, Any] = {"features": (8, 16, 32, 32), "image_size": (128, 128), "fused": 16}
    torch.manual_seed(0)
    model = DPT(DPTConfig(**{**arguments, **sizes, "scale": 1.0, "shift": 0.5, **changes}))
    randomized(model.pretrained.model)  # as much in the convolutions would overflow float16
    return model.eval()


# Of ViT-Adapter and META: four blocks of width 32 on 8×8 tokens of 16 pixels.
ADAPTER = AdapterConfig(
    32, heads=2, layers=4, adapter_heads=4, image_size=(128, 128), planes=4, extra_extractors=1
)


def vit_adapter(**changes: Any) -> ViTAdapter:
    """An interaction around each block, all of which is seen in the output."""
    torch.manual_seed(0)
    model = ViTAdapter(replace(ADAPTER, **changes))
    for part in (model.blocks, model.interactions, model.patch_embed):
        randomized(part)  # as much in the convolutions would overflow float16
    return model.eval()


def vit_adapter_in_windows() -> ViTAdapter:
    """The same with twice the blocks, every second one with windows of 6×6."""
    return vit_adapter(layers=8, vit_features="last", window=6)


def vit_adapter_in_beit_windows() -> ViTAdapter:
    """The same with relative position biases and, in every second block, windows of 12×12."""
    return vit_adapter(layers=8, vit_features="last", beit=True, window=6, wide_window=12)


def meta() -> META:
    """The same with META's interactions, in 8 channels."""
    torch.manual_seed(0)
    model = META(replace(ADAPTER, value_ratio=0.25, ffn_ratio=0.5, extra_extractors=0))
    for part in (model.blocks, model.patch_embed):
        randomized(part)
    for name, parameter in model.interactions.named_parameters():
        if name.endswith("injector.gamma"):
            nn.init.ones_(parameter)
    return model.eval()


class Pyramid(nn.Module):
    """All maps of a pyramid in one tensor, at the size of the coarsest."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        maps = self.model(images)
        size = maps[-1].shape[-2:]
        return torch.cat([F.adaptive_avg_pool2d(one, size) for one in maps], 1)


class Enlarged(nn.Module):
    """A model on images enlarged four times: DPT's patches have 16 pixels."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.model(F.interpolate(images, scale_factor=4))
        return output


def enlarged_dpt() -> Enlarged:
    """`dpt` for images of 32×32."""
    return Enlarged(dpt()).eval()


def enlarged_vit_adapter() -> Enlarged:
    """`vit_adapter` for images of 32×32."""
    return Enlarged(Pyramid(vit_adapter())).eval()


def enlarged_meta() -> Enlarged:
    """`meta` for images of 32×32."""
    return Enlarged(Pyramid(meta())).eval()


def randomized(model: Model) -> Model:
    """Weights large enough that every part of the model shows in its output."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def without_positions(model: Model) -> Model:
    """The model with every position at 0, absolute or inside its blocks."""
    for name, parameter in model.named_parameters():
        if any(part in name for part in POSITIONS):
            parameter.detach().zero_()
    return model


POSITIONS = ("pos_emb", "position", "rel_pos", "cpb_mlp", "meta_mlp")


def images(batch: int = 2, height: int = 32, width: int = 32) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def open_frames(model: nn.Module) -> int:
    """How many calls a patched model holds the state of; 0 whenever none is running."""
    return sum(len(session.store.frames) for session in find_sessions(model))


@contextmanager
def counted_reconstructions(model: nn.Module) -> Iterator[list[int]]:
    """How many token grids were reconstructed, by the shape of what went in."""
    calls: list[int] = []
    (session,) = find_sessions(model)
    handle = session.reconstruction.register_forward_hook(
        lambda module, args, output: calls.append(args[0].shape[1])
    )
    yield calls
    handle.remove()
