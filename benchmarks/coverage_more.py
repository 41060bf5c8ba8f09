"""More models for `benchmarks.coverage`: timm in other ways, and packages that tests go without."""

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Any

import timm
import torchvision  # type: ignore[import-untyped]
import transformers
from torch import nn

from benchmarks.coverage_models import Row
from tests.host_table import called, hidden_states, intermediates
from tests.published_dino import published_depth_anything, published_dino, published_rotary_dino

hf: Any = transformers
SMALL: dict[str, Any] = {"embed_dim": 64, "depth": 3, "num_heads": 2}
# timm's names with what makes them small, and the side of their images.
TIMM: dict[str, tuple[dict[str, Any], int]] = {
    "aimv2_large_patch14_224": ({"depth": 3}, 224),
    "botnet26t_256": ({}, 256),
    "cpubone_nano": ({}, 224),
    "deepseek_vit_412m": (SMALL, 112),
    "deepseek_vit_412m_enc": (SMALL, 112),
    "efficientvit_l1": ({}, 224),
    "eva02_base_patch16_clip_224": ({"depth": 3}, 224),
    "eva02_enormous_patch14_clip_224": (SMALL, 224),
    "eva_giant_patch14_224": (SMALL, 224),
    "gemma4_vit_167m": ({**SMALL, "head_dim": 32}, 192),
    "gemma4_vit_167m_enc": ({**SMALL, "head_dim": 32}, 192),
    "iformer_s": ({}, 224),
    "lowformer_b0": ({}, 224),
    "mobilenetv5_300m": ({}, 64),
    "mobilenetv5_300m_enc": ({}, 64),
    "qwen3_vit_88m": (SMALL, 224),
    "qwen3_vit_88m_enc": (SMALL, 224),
    "vit_7b_patch16_dinov3": (SMALL, 224),
    "vit_base_patch16_lingbot": ({"depth": 3}, 224),
    "vit_base_patch16_sapiens2": (
        {**SMALL, "img_size": 224, "num_kv_heads": None, "depth": 3},
        224,
    ),
    "vit_base_r50_s16_224": ({"depth": 3}, 224),
    "vit_pe_lang_large_patch14_448": ({**SMALL, "img_size": 224}, 224),
    "vit_pe_spatial_tiny_patch16_512": ({"img_size": 224}, 224),
    "vit_so400m_patch14_siglip_224": ({"depth": 3}, 224),
}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "use_naflex": ("vit_base_patch16_224", {"use_naflex": True, "depth": 3}),
    "dynamic_img_size": ("vit_tiny_patch16_224", {"dynamic_img_size": True}),
    "patch_drop_rate": ("vit_tiny_patch16_224", {"patch_drop_rate": 0.5}),
    "pos_embed none": ("vit_tiny_patch16_224", {"pos_embed": "none", "global_pool": "avg"}),
    "features_only, Beit": ("beit_base_patch16_224", {"depth": 3, "features_only": True}),
    "features_only, Eva": ("vit_small_patch16_dinov3", {"depth": 3, "features_only": True}),
    "features_only, mixed": ("vit_small_patch16_rope_mixed_224", {"features_only": True}),
    "features_only, SAM": ("samvit_base_patch16_224", {"depth": 3, "features_only": True}),
    "features_only, Swin": ("swin_tiny_patch4_window7_224", {"features_only": True}),
    "features_only, ViT": ("vit_tiny_patch16_224", {"features_only": True}),
}
SWIN: dict[str, Any] = {"image_size": 64, "patch_size": 2, "embed_dim": 32, "window_size": 8}
SWIN |= {"depths": [2, 2], "num_heads": [2, 4], "encoder_stride": 4}
VIT: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
VIT |= {"intermediate_size": 64, "image_size": 64, "patch_size": 8}
TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    "BeitForMaskedImageModeling": ("BeitConfig", VIT),
    "DPTModel": ("DPTConfig", VIT),
    "DeiTForImageClassificationWithTeacher": ("DeiTConfig", VIT),
    "DonutSwinForImageClassification": ("DonutSwinConfig", SWIN),
    "MaskFormerSwinBackbone": ("MaskFormerSwinConfig", SWIN),
    "MaskFormerSwinModel": ("MaskFormerSwinConfig", SWIN),
    "SwinBackbone": ("SwinConfig", {**SWIN, "out_features": ["stage1", "stage2"]}),
    "SwinForMaskedImageModeling": ("SwinConfig", SWIN),
    "SwinModel": ("SwinConfig", SWIN),
    "Swinv2Backbone": ("Swinv2Config", {**SWIN, "out_features": ["stage1", "stage2"]}),
    "Swinv2ForMaskedImageModeling": ("Swinv2Config", SWIN),
    "Swinv2Model": ("Swinv2Config", SWIN),
}


PUBLISHED: dict[str, Callable[[], nn.Module]] = {
    "DINOv2": published_dino,
    "DINOv3": published_rotary_dino,
    "Depth Anything": published_depth_anything,
}


def rows() -> Iterator[Row]:
    """Every model, libraries one behind the other."""
    for name, (changes, side) in TIMM.items():
        yield Row(name, "timm", partial(timm.create_model, name, **changes), (1, 3, side, side))
    for way, (name, changes) in WAYS.items():
        make = partial(timm.create_model, name, **changes)
        yield Row(f"{name}, {way}", "timm", make, (1, 3, 224, 224))
    for name, (config, sizes) in TRANSFORMERS.items():
        yield Row(name, "transformers", partial(_config, name, config, sizes), (1, 3, 64, 64))
    yield Row("SamHQVisionModel", "transformers", _sam_hq, (1, 3, 32, 32), hidden_states)
    yield Row("DepthPro", "transformers", _depth_pro, (1, 3, 256, 256))
    for name, maker in PUBLISHED.items():
        yield Row(f"{name}, published layout", "as published", maker)
    yield from _of_torchvision()
    yield from _of_copies()


def _config(kind: str, config: str, sizes: dict[str, Any]) -> nn.Module:
    made: nn.Module = getattr(hf, kind)(getattr(hf, config)(**sizes))
    return made


def _sam_hq() -> nn.Module:
    from tests.patchers.published.test_sam import sam_hq

    made: nn.Module = sam_hq()
    return made


def _depth_pro() -> nn.Module:
    from tests.patching.test_several_hosts import depth_pro

    return depth_pro()


def _of_torchvision() -> Iterator[Row]:
    square = (1, 3, 224, 224)
    make = torchvision.models.get_model
    yield Row("mvit_v2_s", "torchvision", partial(make, "mvit_v2_s"), (1, 3, 16, 224, 224))
    yield Row("swin3d_t", "torchvision", partial(make, "swin3d_t"), (1, 3, 8, 64, 64))
    yield Row("swin_t, features alone", "torchvision", lambda: make("swin_t").features, square)
    yield Row("vit_b_16 by torch.fx", "torchvision", partial(_taken_apart, "vit_b_16"), square)
    yield Row("swin_t by torch.fx", "torchvision", partial(_taken_apart, "swin_t"), square)


def _taken_apart(name: str) -> nn.Module:
    from torchvision.models.feature_extraction import (  # type: ignore[import-untyped]
        create_feature_extractor,
        get_graph_node_names,
    )

    model = torchvision.models.get_model(name)
    made: nn.Module = create_feature_extractor(model, get_graph_node_names(model)[1][-3:-2])
    return made


def _of_copies() -> Iterator[Row]:
    """Encoders in packages that copied them, or that wrote them first."""
    sam = "ultralytics.models.sam"
    stages: dict[str, Any] = {"embed_dim": 32, "num_heads": 2, "stages": (1, 3, 1), "q_pool": 2}
    stages |= {"window_spec": (8, 4, 2), "global_att_blocks": (2,)}
    stages |= {"window_pos_embed_bkg_spatial_size": (4, 4)}
    for package, path in (
        ("ultralytics", f"{sam}.modules.encoders"),
        ("sam2", "sam2.modeling.backbones.hieradet"),
    ):
        yield _copy(f"{package} Hiera", package, path, "Hiera", stages, 64)
    encoder: dict[str, Any] = {**SMALL, "img_size": 64, "patch_size": 4, "window_size": 8}
    tables = {"use_rel_pos": True, "global_attn_indexes": (1,)}
    yield _copy(
        "ultralytics ImageEncoderViT",
        "ultralytics",
        f"{sam}.modules.encoders",
        "ImageEncoderViT",
        {**encoder, **tables},
        64,
    )
    third: dict[str, Any] = {"use_rope": True, "rel_pos_blocks": (), "retain_cls_token": False}
    third |= {"global_att_blocks": (2,), "pretrain_img_size": 32}
    yield _copy(
        "ultralytics SAM 3 ViT",
        "ultralytics",
        f"{sam}.sam3.vitdet",
        "ViT",
        {**encoder, **third},
        64,
    )
    tiny = {"img_size": 64, "embed_dims": [32, 32, 64, 64], "depths": [1, 1, 2, 1]}
    tiny |= {"num_heads": [1, 1, 2, 2], "window_sizes": [4, 4, 4, 4]}
    path = f"{sam}.modules.tiny_encoder"
    yield _copy("ultralytics TinyViT", "ultralytics", path, "TinyViT", tiny, 64)
    for name, kind in (
        ("yolo12n.yaml", "DetectionModel"),
        ("rtdetr-l.yaml", "RTDETRDetectionModel"),
    ):
        yield _copy(name, "ultralytics", "ultralytics.nn.tasks", kind, {"cfg": name}, 64)
    yield Row("rfdetr backbone", "rfdetr", _rf_detr, (1, 3, 112, 112))
    yield Row("RFDETRNano", "rfdetr", _rf_detr_nano, (1, 3, 384, 384))
    yield Row("ViT-B-16, intermediates", "open_clip", _clip_tower, (1, 3, 224, 224), intermediates)
    tokens = partial(_clip_tower, output_tokens=True)
    yield Row("ViT-B-16, output_tokens", "open_clip", tokens, (1, 3, 224, 224))


def _copy(name: str, library: str, path: str, kind: str, sizes: dict[str, Any], side: int) -> Row:
    def make() -> nn.Module:
        made: nn.Module = getattr(import_module(path), kind)(**sizes)
        return made

    return Row(name, library, make, (1, 3, side, side), called)


def _rf_detr() -> nn.Module:
    backbone = import_module("rfdetr.models.backbone.dinov2").DinoV2
    sizes = {"shape": (112, 112), "size": "small", "use_registers": False, "num_windows": 2}
    made: nn.Module = backbone(
        **sizes,
        load_dinov2_weights=False,
        positional_encoding_size=8,
        out_feature_indexes=[3, 6, 9, 12],
    )
    return made


def _rf_detr_nano() -> nn.Module:
    made: nn.Module = import_module("rfdetr").RFDETRNano(pretrain_weights=None).model.model
    return made.cpu()


def _clip_tower(**changes: Any) -> nn.Module:
    tower: nn.Module = import_module("open_clip").create_model("ViT-B-16", **changes).visual
    return tower
